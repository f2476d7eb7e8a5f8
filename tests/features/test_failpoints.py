"""Failpoints: silent unless armed, and each one stands somewhere in the code."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from features import failpoints
from features.failpoints import FAILPOINTS, arm, hits, waiting

PROJECT = Path(__file__).parents[2]
POINT = "stages.folded_not_sent"


def passing(times: int, armed: str) -> subprocess.CompletedProcess[str]:
    """A process that comes by a point, says so, and goes on where the disk is full."""
    script = f"""
from features.failpoints import failpoint
for _ in range({times}):
    try:
        failpoint({POINT!r})
    except OSError as error:
        print(error)
    print("passed", flush=True)
"""
    environment = {n: v for n, v in os.environ.items() if n != failpoints.VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=environment | ({failpoints.VARIABLE: armed} if armed else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_point_stands_in_the_code_once() -> None:
    found: list[str] = []
    for package in ("features", "streaming", "serving"):
        for file in (PROJECT / package).rglob("*.py"):
            found += re.findall(r'failpoint\("([^"]+)"\)', file.read_text())
    assert sorted(found) == sorted(FAILPOINTS)


def test_without_the_variable_a_point_does_nothing() -> None:
    result = passing(3, "")
    assert (result.returncode, result.stdout) == (0, "passed\n" * 3)


def test_process_dies_at_the_count() -> None:
    result = passing(5, f"{POINT}=kill@3")
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, "passed\n" * 2)


def test_disk_is_full_once() -> None:
    result = passing(3, f"ingest.judged_not_sent=kill,{POINT}=enospc@2")
    assert result.returncode == 0
    said = result.stdout.splitlines()
    assert [line.startswith("[Errno 28] No space left") for line in said] == [
        False, True, False, False,
    ]  # fmt: skip


def test_wrong_word_is_told() -> None:
    for wrong in ("nowhere=kill@1", f"{POINT}=explode@1", f"{POINT}=kill@soon"):
        result = passing(1, wrong)
        assert result.returncode == 1
        assert wrong in result.stderr.splitlines()[-1]


def test_what_fired_is_struck_out_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "armed"
    arm(file, POINT, "kill", 1)
    arm(file, "lake.read_not_written", "kill", 1)
    arm(file, POINT, "enospc", 2)
    assert passing(5, f"@{file}").returncode == -signal.SIGKILL
    assert waiting(file) == ["lake.read_not_written", POINT]
    assert passing(5, f"@{file}").returncode == 0
    assert waiting(file) == ["lake.read_not_written"]
    assert hits(file) == [(POINT, "kill"), (POINT, "enospc")]


def test_file_that_is_not_there_arms_nothing(tmp_path: Path) -> None:
    assert passing(2, f"@{tmp_path / 'none'}").returncode == 0

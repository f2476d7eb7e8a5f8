"""The stack as a whole: what starts, what restarts, what is left."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from penstock.stack.parts import PARTS, select
from penstock.stack.stack import Stack
from penstock.stack.status import PartStatus
from penstock.stack.supervisor import StackError, members
from tests.conftest import PROJECT


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """A stack of its own, for tests that break it."""
    stack = Stack(tmp_path / "home", PROJECT)
    yield stack
    stack.down()


def part(stack: Stack, name: str) -> PartStatus:
    return next(part for part in stack.status().parts if part.name == name)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def test_second_up_changes_nothing(small: Stack) -> None:
    small.up(["redis"])
    before = part(small, "redis")
    lines: list[str] = []
    small.up(["redis"], lines.append)
    after = part(small, "redis")
    assert (before.ready, before.state) == (True, "running")
    assert (after.pid, after.ports, lines) == (before.pid, before.ports, [])


def test_ports_are_remembered_unless_somebody_took_one(small: Stack) -> None:
    small.up(["redis"])
    first = small.port("redis", "client")
    small.down()
    small.up(["redis"])
    assert small.port("redis", "client") == first
    small.down()
    with socket.socket() as intruder:
        intruder.bind(("127.0.0.1", first))
        intruder.listen()
        small.up(["redis"])
        assert small.port("redis", "client") != first
        assert part(small, "redis").ready


def test_killed_part_comes_back_and_status_counts_it(small: Stack) -> None:
    small.up(["redis"])
    pid = part(small, "redis").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: part(small, "redis").ready and part(small, "redis").pid != pid)
    assert part(small, "redis").restarts == 1


def test_part_that_cannot_start_is_named_with_its_last_words(small: Stack) -> None:
    small.up(["prometheus"])
    with socket.socket() as intruder:
        intruder.bind(("127.0.0.1", small.port("redis", "client")))
        intruder.listen()
        with pytest.raises(StackError, match=r"(?s)^redis ended 3 times.*ddress already in use"):
            small.up(["redis"])
        assert part(small, "redis").state == "waits to be restarted"


def test_down_leaves_no_process(small: Stack) -> None:
    small.up(["redis"])
    pids = [process.pid for process in members(small.home)]
    assert len(pids) == 2
    small.down()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert part(small, "redis").state == "stopped"


def test_down_ends_parts_whose_supervisor_was_killed(small: Stack) -> None:
    small.up(["redis"])
    redis = part(small, "redis").pid
    supervisor = next(p for p in members(small.home) if p.pid != redis)
    supervisor.kill()
    supervisor.wait(10)
    assert [process.pid for process in members(small.home)] == [redis]
    small.down()
    assert members(small.home) == []


def test_environment_is_for_the_owner_only_and_keeps_its_secret(small: Stack) -> None:
    small.up(["redis"])
    key = small.environment()["PENSTOCK_TOKEN_KEY"]
    assert len(bytes.fromhex(key)) == 32
    for name in ("env", "stack.json", "supervisor/supervisord.conf"):
        assert stat.S_IMODE((small.home / name).stat().st_mode) == 0o600
    small.down()
    small.up(["redis"])
    assert small.environment()["PENSTOCK_TOKEN_KEY"] == key


def test_what_a_part_needs_is_selected_with_it() -> None:
    assert [part.name for part in select(["online-store"])] == ["kafka", "redis", "online-store"]
    assert select([]) == list(PARTS.values())
    with pytest.raises(StackError, match="There is no part named kafak"):
        select(["kafak"])


def test_command_line_starts_shows_and_stops(small: Stack) -> None:
    def penstock(*arguments: str) -> str:
        answer = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *arguments],
            env=os.environ | {"PENSTOCK_HOME": str(small.home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    penstock("up", "redis")
    status = json.loads(penstock("status", "--json"))
    states = {part["name"]: (part["state"], part["ready"]) for part in status["parts"]}
    assert states["redis"] == ("running", True)
    assert states["kafka"] == ("stopped", False)
    assert status["pss_mib"] > 0
    assert "ready to accept connections" in penstock("logs", "redis").lower()
    penstock("down")
    assert members(small.home) == []

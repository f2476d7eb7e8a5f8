"""A short chaos run with a fixed seed, as a user starts it: nothing lost, nothing twice."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import penstock.chaos.definitions.orders as definition
from features.failpoints import FAILPOINTS
from features.plan import compile_plan
from features.settings import settings
from penstock.chaos.chain import SERVICE_OF, SERVICES
from penstock.chaos.faults import FAULTS
from penstock.chaos.judge import KINDS
from penstock.chaos.load import Load
from penstock.stack.supervisor import members
from tests.conftest import PROJECT

ROUNDS = 9


@contextmanager
def chaos(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command; ended so that it ends its own stack, whatever becomes of the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "chaos", *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def test_every_failpoint_is_passed_by_a_service() -> None:
    assert {name.partition(".")[0] for name in FAILPOINTS} == set(SERVICE_OF)
    assert set(SERVICE_OF.values()) == set(SERVICES)


def test_kinds_of_faults_have_names_of_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 15


def test_load_goes_on_with_another_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA_BOOTSTRAP", "127.0.0.1:9")
    monkeypatch.setattr("penstock.chaos.load.STALLED_S", 0.3)
    settings.cache_clear()
    load = Load(compile_plan(definition.chaos), seed=1, rate=100)
    load.start()
    until = time.monotonic() + 20
    while load.stalls < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    load.stop()
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_broken_chain_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with chaos("--rounds", str(ROUNDS), "--seed", "7", "--home", str(home), "--json") as process:
        printed, said = process.communicate(timeout=560)
    assert process.returncode == 0, said + printed
    report = json.loads(printed)
    assert report["holds"]
    assert [report[kind] for kind in KINDS] == [0, 0, 0, 0]
    assert report["differences"] == []
    assert report["compared"]["chaos.scored.v1"] == report["records"]["folded"] > 500
    assert min(report["records"][v] for v in ("duplicate", "late", "label", "version", "dead")) > 0
    assert sum(report["faults"].values()) == ROUNDS // 3
    assert sum(report["failpoints"].values()) > 0
    assert f"round {ROUNDS} of {ROUNDS}" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_told_to_end_it_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with chaos("--rounds", "1000", "--home", str(home)) as process:
        assert process.stderr is not None
        while "kafka ready" not in process.stderr.readline():
            assert process.poll() is None
    assert process.returncode == 130
    assert members(home.resolve()) == []

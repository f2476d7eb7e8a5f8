"""Every benchmark runs, compares its results and prints JSON; sizes are tiny, nothing is timed."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import PROJECT, SessionStack


def run(name: str, *arguments: str, timeout_s: int = 240) -> list[dict[str, Any]]:
    """What a benchmark prints; in a process of its own, for it chooses its CPU."""
    answer = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    decoder, told, found = json.JSONDecoder(), answer.stdout.strip(), []
    while told:
        document, end = decoder.raw_decode(told)
        found.append(document)
        told = told[end:].strip()
    return found


@pytest.mark.slow
def test_backfill_equals_duckdb_and_pandas() -> None:
    small = ("--rows", "3000", "--keys", "40", "--runs", "1", "--peer-runs", "1")
    (told,) = run("backfill", *small, "--peers", "duckdb", "pandas", "growth")
    # DuckDB, and pandas in two ways.
    assert told["values_compared"] == 3 * 3000 * 15
    assert set(told["peers"]) == {"duckdb", "pandas", "twice the rows"}
    assert all(peer["times_slower"] > 0 for peer in told["peers"].values())


@pytest.mark.slow
def test_update_equals_faust() -> None:
    small = ("--rows", "2000", "--keys", "50", "--peer-keys", "2", "--runs", "1")
    (told,) = run("update", *small, "--peer-runs", "1", "--peers", "faust")
    assert len(told["peers"]) == 2
    for peer in told["peers"].values():
        assert peer["values_compared"] == 6 * peer["events"] > 0


@pytest.mark.slow
def test_worst_update_compares_as_often_whatever_the_window_holds() -> None:
    (told,) = run("extremes", "--entries", "50", "500")
    few, many = told["comparisons_at_worst"].values()
    assert told["same_bound"]
    assert few["update"] == many["update"] == 8
    assert (few["two stacks, update"], many["two stacks, update"]) == (51, 501)


@pytest.mark.slow
def test_memory_of_events_and_keys_is_measured() -> None:
    (told,) = run("memory", "--events", "20000", "--keys", "20000")
    event, key = told["found"]
    assert (event["of"], event["keys"], event["columns"]) == ("event", 1000, 2)
    assert (key["of"], key["keys"], key["windows"]) == ("key", 20_000, 6)
    # An entry is two integers.
    assert event["bytes"]["after compaction"]["arrays"] >= 16
    # Six pairs of cursors.
    assert key["bytes"]["after compaction"]["arrays"] >= 48


@pytest.mark.slow
def test_spark_equals_its_window_frames(stack: SessionStack) -> None:
    small = ("--rows", "2000", "--hot-rows", "2000", "--keys", "40", "--runs", "1")
    told = run("spark", *small, "--peer-runs", "1")
    assert [one["keys_are"] for one in told] == ["even", "even", "hot", "hot"]
    assert [len(one["peers"]) for one in told] == [2, 2, 1, 1]
    assert {one["values_compared"] for one in told} == {2000 * 15}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stream_drains_keeps_time_and_recovers() -> None:
    small = ("--events", "2000", "--runs", "1", "--peer-events", "100", "--keys", "300")
    load = ("--rate", "100", "--seconds", "5")
    parts = ("--parts", "drain", "open_loop", "recovery")
    (told,) = run("stream", *parts, *small, *load, timeout_s=580)
    ours, peer = told["drain"]["penstock"], told["drain"]["peers"]["faust"]
    assert (ours["events"], peer["events"]) == (2000, 100)
    assert ours["values_compared"] > 0
    assert peer["values_compared"] > 0
    assert {"customer.v1", "terminal.v1", "features.v1"} < set(ours["topics"])
    assert set(ours["of_it_in_the_main_thread"]) == {"ingest", "stages", "scorer"}
    loop = told["open_loop"]["100 events/s"]
    for seen in (loop["penstock"], *loop["peers"].values()):
        assert seen["seen"] == seen["sent"] == 500
        assert 0 < seen["p50_ms"] <= seen["p95_ms"] <= seen["p99_ms"]
    # Both counts of every payment.
    assert told["recovery"]["values_compared"] == 2 * told["recovery"]["sent"] == 2 * 2000
    assert told["recovery"]["first_score_s"] > 0

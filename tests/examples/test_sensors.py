"""The sensors example from end to end: a set without a label, found in a folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from features import lake, parity, quality
from features.backfill import backfill
from features.catalog import load_plan
from features.settings import settings
from tests.conftest import PROJECT, SessionStack, stack_of_its_own
from tests.test_whole_job import penstock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLE = PROJECT / "examples" / "sensors"
SERVICES = ("ingest", "stages", "lake-sink")
PATIENCE_S = 120


@pytest.fixture(scope="module")
def stack() -> Iterator[SessionStack]:
    """A stack whose services were told of the example's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_DEFINITIONS", str(EXAMPLE / "definitions"))
        patch.setenv("PENSTOCK_FEATURE_SET", "sensors")
        settings.cache_clear()
        with stack_of_its_own() as own:
            yield own
    settings.cache_clear()


@pytest.fixture(scope="module")
def sent(stack: SessionStack, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Readings as they were sent, after the lake holds as many."""
    stack.require("kafka", "registry", "redis")
    penstock("apply")
    file = tmp_path_factory.mktemp("readings") / "readings.jsonl"
    script = [sys.executable, str(EXAMPLE / "readings.py"), "--devices", "12", "--hours", "5"]
    with file.open("w") as out:
        subprocess.run(script, stdout=out, check=True, env=os.environ)
    readings = [json.loads(line) for line in file.read_text().splitlines()]
    stack.require(*SERVICES)
    told = json.loads(penstock("produce", str(file), "--json"))
    assert told == {"topic": "sensors.reading.v1", "acknowledged": len(readings)}
    deadline = time.monotonic() + PATIENCE_S
    while lake.open_table("events") is None or lake.read("events").num_rows < len(readings):
        assert time.monotonic() < deadline, "the lake does not hold every reading"
        time.sleep(1)
    return readings


def test_every_reading_is_in_the_lake_as_often_as_it_was_sent(sent: list[dict[str, Any]]) -> None:
    stored = lake.read("events").to_pylist()
    assert Counter(e["event_id"] for e in stored) == Counter(r["reading_id"] for r in sent)
    verdicts = Counter(event["verdict"] for event in stored)
    assert verdicts.keys() == {"folded", "duplicate", "late"}
    assert lake.open_table("labels") is None
    assert lake.open_table("dead_letters") is None


def test_stream_equals_the_backfill_and_keeps_what_was_declared(
    sent: list[dict[str, Any]],
) -> None:
    plan = load_plan("sensors")
    folded = sum(verdict == "folded" for verdict in lake.read("events")["verdict"].to_pylist())
    made = backfill(plan)
    assert (made["rows"], made["disagreements"]) == (folded, 0)
    compared = parity.measure(plan)
    assert (compared["rows"], compared["mismatches"]) == (folded, 0)
    conditions = compared["conditions"]
    assert conditions.pop("label_changed") == 0
    assert min(conditions.values()) > 10
    assert quality.check(plan)["rows"] == folded


def test_every_window_varies(sent: list[dict[str, Any]]) -> None:
    features = lake.read("features")
    windows = [name for stage in load_plan("sensors").stages for name in stage.outputs]
    assert [name for name in windows if len(features[name].unique()) < 2] == []

"""The sensors example from end to end: a set without a label, found in a folder of its own, that
looks up when each sensor was calibrated."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

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
def own_stack() -> Iterator[SessionStack]:
    """A stack whose services were told of the example's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_DEFINITIONS", str(EXAMPLE / "definitions"))
        patch.setenv("PENSTOCK_FEATURE_SET", "sensors")
        settings.cache_clear()
        with stack_of_its_own() as own:
            yield own
    settings.cache_clear()


def produced(folder: Path, topic: str, table: str, *options: str) -> list[dict[str, Any]]:
    """What the script printed, once it was sent and the lake holds as many rows of it."""
    file = folder / f"{table}.jsonl"
    script = [sys.executable, str(EXAMPLE / "readings.py"), "--devices", "12", "--hours", "5"]
    with file.open("w") as out:
        subprocess.run([*script, *options], stdout=out, check=True, env=os.environ)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    told = json.loads(penstock("produce", str(file), "--topic", topic, "--json"))
    assert told == {"topic": topic, "acknowledged": len(records)}
    deadline = time.monotonic() + PATIENCE_S
    while lake.open_table(table) is None or lake.read(table).num_rows < len(records):
        assert time.monotonic() < deadline, f"the lake does not hold every record of {topic}"
        time.sleep(1)
    return records


@pytest.fixture(scope="module")
def folder(own_stack: SessionStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what is sent, with the services at work."""
    own_stack.require("kafka", "registry", "redis")
    penstock("apply")
    own_stack.require(*SERVICES)
    return tmp_path_factory.mktemp("sent")


@pytest.fixture(scope="module")
def calibrations(folder: Path) -> list[dict[str, Any]]:
    return produced(folder, "sensors.calibration.v1", "reference_calibration", "--calibrations")


@pytest.fixture(scope="module")
def sent(folder: Path, calibrations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Readings as they were sent, after the calibrations had gone through every stage."""
    return produced(folder, "sensors.reading.v1", "events")


def test_every_reading_is_corrected_by_the_calibration_of_its_time(
    sent: list[dict[str, Any]], calibrations: list[dict[str, Any]]
) -> None:
    found = {row["event_id"]: row for row in lake.read("features").to_pylist()}
    seen = Counter[int]()
    for reading in sent:
        row = found.get(reading["reading_id"])
        if row is None:
            continue
        known = [c for c in calibrations if c["device_id"] == reading["device_id"]]
        # All times have the same offset and form, so their texts are in their order.
        known = [c for c in known if c["calibrated_at"] <= reading["measured_at"]]
        newest = max(known, key=lambda c: c["calibrated_at"], default=None)
        assert row["calibration_is_known"] == (newest is not None)
        offset_mc = newest["offset_mc"] if newest else 0
        assert row["calibrated_mc"] == reading["temperature_mc"] - offset_mc
        housing = ["indoor", "outdoor"].index(newest["housing"]) if newest else -1
        assert row["calibration_housing_code"] == housing
        seen[len(known)] += 1
    assert min(seen[0], seen[1], seen[2]) > 100


def test_every_reading_is_in_the_lake_as_often_as_it_was_sent(sent: list[dict[str, Any]]) -> None:
    stored = lake.read("events").to_pylist()
    assert Counter(e["event_id"] for e in stored) == Counter(r["reading_id"] for r in sent)
    verdicts = Counter(event["verdict"] for event in stored)
    assert verdicts.keys() == {"folded", "duplicate", "late"}
    assert lake.open_table("labels") is None
    assert lake.open_table("dead_letters") is None


def test_stream_equals_the_backfill_and_keeps_what_was_declared(
    sent: list[dict[str, Any]], spark: SparkSession
) -> None:
    plan = load_plan("sensors")
    folded = sum(verdict == "folded" for verdict in lake.read("events")["verdict"].to_pylist())
    made = backfill(plan, spark=spark)
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

"""Parity of logged vectors with the backfill, and that nothing spoilt goes unseen."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from features import lake
from features.backfill import backfill
from features.catalog import load_plan
from features.parity import measure
from features.wire import KIND_LABEL
from tests.features.chain import Arrivals, payments, stream

pytestmark = pytest.mark.slow
PLAN = load_plan("card_fraud")


@pytest.fixture(scope="module")
def arrivals(own_lake: Path, spark: SparkSession) -> Arrivals:
    happened = payments(seed=2, history=200, live=500)
    stream(PLAN, happened)
    backfill(PLAN, spark=spark)
    return happened


def overwrite(table: str, rows: pa.Table) -> None:
    found = lake.open_table(table)
    assert found is not None
    write_deltalake(found, rows, mode="overwrite")


def test_stream_and_backfill_agree_on_every_bit(arrivals: Arrivals) -> None:
    report = measure(PLAN)
    assert report["rows"] == lake.read("features").num_rows > 300
    assert report["mismatches"] == 0
    assert report["missing_in_stream"] == report["missing_in_backfill"] == 0
    assert report["columns"] == {}
    assert report["examples"] == []


def test_conditions_are_counted_as_they_happened(arrivals: Arrivals) -> None:
    counted = measure(PLAN)["conditions"]
    verdicts = lake.read("events", ["verdict"])["verdict"].to_pylist()
    assert counted["duplicate"] == verdicts.count("duplicate") > 10
    assert counted["late"] == verdicts.count("late") > 5
    newest: dict[int, datetime] = {}
    older = 0
    for row in lake.read("events").sort_by("origin_offset").to_pylist():
        partition, time = row["origin_partition"], row["event_time"]
        if partition >= 0 and row["verdict"] == "folded":
            older += time < newest.get(partition, time)
            newest[partition] = max(time, newest.get(partition, time))
    assert counted["out_of_order"] == older > 5
    said: dict[str, list[int]] = {}
    for entry in [*arrivals.history_labels, *arrivals.live]:
        if entry["kind"] == KIND_LABEL:
            said.setdefault(entry["event_id"], []).append(entry["is_fraud"])
    live = {e["event_id"] for e in arrivals.live if e["kind"] == KIND_LABEL}
    changed = [i for i, verdicts_ in said.items() if i in live and len(set(verdicts_)) > 1]
    assert counted["label_changed"] == len(changed) > 10


def test_one_corrupted_event_is_a_mismatch(arrivals: Arrivals, spark: SparkSession) -> None:
    events = lake.read("events")
    logged = lake.read("features").sort_by("event_time")
    # Early in the live log, so that later windows hold it.
    spoilt = logged["event_id"][5].as_py()
    wrong = pc.if_else(
        pc.and_(pc.equal(events["event_id"], spoilt), pc.equal(events["verdict"], "folded")),
        pc.add(events["amount"], 1),
        events["amount"],
    )
    at = events.schema.get_field_index("amount")
    overwrite("events", events.set_column(at, "amount", wrong))
    try:
        backfill(PLAN, spark=spark)
        report = measure(PLAN)
    finally:
        overwrite("events", events)
    assert report["rows"] == logged.num_rows
    assert 1 <= report["mismatches"] < logged.num_rows
    assert report["columns"]["amount"] == 1
    assert report["columns"]["customer_amount_mean_30d"] >= 1
    assert "customer_count_30d" not in report["columns"]
    assert report["examples"][0]["stream"] != report["examples"][0]["backfill"]


def test_vector_on_one_side_only_is_a_mismatch(arrivals: Arrivals, spark: SparkSession) -> None:
    backfill(PLAN, spark=spark)
    logged = lake.read("features")
    overwrite("features", logged.slice(3))
    try:
        report = measure(PLAN)
    finally:
        overwrite("features", logged)
    assert report["missing_in_stream"] == 3
    assert report["missing_in_backfill"] == 0
    assert report["mismatches"] == 3


def test_last_bit_of_a_logged_vector_counts(arrivals: Arrivals) -> None:
    logged = lake.read("features")
    column = "customer_amount_mean_7d"
    values = logged[column].combine_chunks().to_numpy().copy()
    values.view("int64")[7] += 1
    at = logged.schema.get_field_index(column)
    overwrite("features", logged.set_column(at, column, pa.array(values)))
    try:
        report = measure(PLAN)
    finally:
        overwrite("features", logged)
    assert report["columns"] == {column: 1}
    assert report["mismatches"] == 1

"""The backfill against the stream, bit for bit, on history, late, repeated and changed rows."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features import lake
from features.backfill import backfill, fold_partition, publish
from features.catalog import load_plan
from features.errors import PenstockError
from features.fold import Fold
from features.plan import Plan, compile_plan
from features.reference import Fact, stage_columns
from features.vocabulary import Entity, Event, FeatureSet, Integer, Text, count, hours, minutes
from features.vocabulary import max as largest
from features.wire import KIND_EVENT, KIND_LABEL, NEVER_US
from penstock import prove
from tests.features.chain import DAY_US, START_US, day_of, payments, stream

pytestmark = pytest.mark.slow
PLAN = load_plan("card_fraud")


@pytest.fixture(scope="module")
def report(own_lake: Path, spark: SparkSession) -> dict:
    stream(PLAN, payments(seed=1))
    # Keys go on from batch to batch.
    rows_per_batch = "spark.sql.execution.arrow.maxRecordsPerBatch"
    usual = spark.conf.get(rows_per_batch)
    spark.conf.set(rows_per_batch, "64")
    try:
        return backfill(PLAN, spark=spark)
    finally:
        spark.conf.set(rows_per_batch, usual)


def by_origin(table: str) -> pa.Table:
    keys = [("origin_partition", "ascending"), ("origin_offset", "ascending")]
    return lake.read(table).sort_by(keys)


def bits(table: pa.Table, plan: Plan) -> list[list[int]]:
    return [table[name].combine_chunks().view(pa.int64()).to_pylist() for name in plan.column_names]


def test_backfill_equals_the_stream_bit_for_bit(report: dict) -> None:
    logged = by_origin("features")
    computed = by_origin("feature_candidate")
    live = computed.filter(pc.greater_equal(computed["origin_partition"], 0))
    assert logged.num_rows > 400
    assert live.select(["origin_partition", "origin_offset", "event_id", "event_time"]).equals(
        logged.select(["origin_partition", "origin_offset", "event_id", "event_time"])
    )
    assert bits(live, PLAN) == bits(logged, PLAN)
    # The lake held what makes that hard.
    verdicts = lake.read("events", columns=["verdict"])["verdict"].to_pylist()
    assert verdicts.count("duplicate") > 20
    assert verdicts.count("late") > 10
    rates = [c for c in PLAN.column_names if c.startswith("terminal_is_fraud_rate")]
    assert all(len(set(logged[name].to_pylist())) > 10 for name in rates)


def test_history_equals_the_reference(report: dict) -> None:
    past = payments(seed=1)
    facts = [
        (e.get("known_us") or e["event_time_us"], -e["kind"], e["event_id"], e)
        for e in [*past.history, *past.history_labels]
    ]
    expected: dict[str, dict[str, float]] = {e["event_id"]: {} for e in past.history}
    for stage in PLAN.stages:
        in_log = [f for f in facts if stage.uses_label or f[3]["kind"] == KIND_EVENT]
        for key in {f[3][stage.key_column] for f in in_log}:
            log = [
                Fact(
                    e["event_id"],
                    e["event_time_us"],
                    key,
                    e,
                    label=bool(e["is_fraud"]) if e["kind"] == KIND_LABEL else None,
                )
                for *_, e in sorted(in_log, key=lambda f: f[:3])
                if e[stage.key_column] == key
            ]
            for fact, columns in zip(log, stage_columns(PLAN, stage, log), strict=True):
                expected[fact.event_id] |= columns
    computed = lake.read("feature_candidate")
    got = computed.filter(pc.equal(computed["origin_partition"], lake.HISTORY_PARTITION))
    windows = [name for stage in PLAN.stages for name in stage.outputs]
    assert {row["event_id"]: {n: row[n] for n in windows} for row in got.to_pylist()} == {
        event_id: {n: columns[n] for n in windows} for event_id, columns in expected.items()
    }


def test_backfill_covers_history_and_agrees_with_recorded_verdicts(report: dict) -> None:
    computed = lake.read("feature_candidate")
    past = computed.filter(pc.equal(computed["origin_partition"], lake.HISTORY_PARTITION))
    assert past.num_rows == 400
    assert report["rows"] == computed.num_rows
    assert report["disagreements"] == 0
    assert report["duplicates"] > 20
    assert computed.schema.equals(lake.schema("feature_candidate", PLAN))


def test_range_of_dates_gives_the_same_rows_and_replaces_only_them(
    report: dict, spark: SparkSession
) -> None:
    everything = by_origin("feature_candidate")
    assert publish(PLAN)["rows"] == everything.num_rows
    first, last = day_of(START_US + 33 * DAY_US), day_of(START_US + 38 * DAY_US)
    backfill(PLAN, first, last, spark=spark)
    part = by_origin("feature_candidate")
    dates = everything["event_date"]
    expected = everything.filter(
        pc.and_(pc.greater_equal(dates, pa.scalar(first)), pc.less(dates, pa.scalar(last)))
    )
    assert expected.num_rows > 100
    assert part.equals(expected)
    publish(PLAN)
    publish(PLAN)
    assert by_origin("feature_backfill").equals(everything)


def test_candidate_of_another_plan_is_not_published(report: dict) -> None:
    version = DeltaTable(lake.table_uri("feature_candidate")).version()
    with pytest.raises(PenstockError, match="run the backfill again"):
        publish(dataclasses.replace(PLAN, fingerprint="0" * 16))
    assert DeltaTable(lake.table_uri("feature_candidate")).version() == version


def test_random_feature_sets_agree_with_the_reference(spark: SparkSession) -> None:
    result = prove.prove(6, first=40, spark=spark, spark_cases=3)
    assert result["counterexample"] is None
    assert result["spark_cases"] == 3
    assert result["executors"] == ["reference", "kernel", "stream", "spark"]


@pytest.mark.parametrize("logged", [False, True])
def test_a_hot_key_streams_through(logged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    person = Entity("person_id")
    sales = Event(
        "shop.sale.v1",
        id="sale_id",
        time="at",
        key=person,
        lateness=hours(1),
        fields={"person_id": Text(), "price": Integer(min=0, max=1000)},
    )
    features = [count(by=person, over=minutes(10)), largest(sales.price, by=person, over=hours(1))]
    plan = compile_plan(FeatureSet("hot", event=sales, features=features))
    rows = 200_000
    times = pa.array(START_US + np.arange(rows) * 1_000_000)
    nothing = pa.nulls(rows, pa.int64())
    table = pa.table(
        {
            "kind": pa.array(np.full(rows, KIND_EVENT, np.int8)),
            "verdict": pa.array(np.zeros(rows, np.int8)),
            "event_id": [f"s{i}" for i in range(rows)],
            "event_time_us": times,
            "arrival_us": times,
            "watermark_us": times if logged else nothing,
            "person_seq": pa.array(np.arange(rows)) if logged else nothing,
            "person_id": ["p"] * rows,
            "price": np.arange(rows) % 1000,
        }
    )
    most = []

    class Watched(Fold):
        def keep_only(self, key: str | None, settled_us: int = NEVER_US) -> None:
            super().keep_only(key, settled_us)
            most.append((self.entries, self.state_bytes))

    monkeypatch.setattr("features.backfill.Fold", Watched)
    batches = table.to_batches(5_000)
    first_logged_us = START_US if logged else 2**63 - 1
    streamed = pa.Table.from_batches(fold_partition(plan, 0, first_logged_us)(batches))
    # An hour of the window, and of a log the lateness.
    assert max(entries for entries, _ in most) <= 2 * 3600 + 1
    assert max(size for _, size in most) < 4_000_000
    held = pa.Table.from_batches(fold_partition(plan, 0)(batches))
    assert most[-1][0] == rows
    assert streamed.equals(held)

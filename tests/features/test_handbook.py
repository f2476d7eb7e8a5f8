"""The public data set's own features, computed by the real Spark backfill and by the stream."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features import lake, parity
from features.backfill import backfill
from features.catalog import load_plan
from features.settings import settings
from features.wire import partition_of
from penstock.handbook import KNOWN_AFTER_US, import_handbook, read_payments
from streaming.tokenise import Tokeniser
from tests.streaming.replay import Record, payload, stream

PROJECT = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("PENSTOCK_HANDBOOK_DIR", PROJECT.parent / "shared/data/fraud_handbook")
)
GOLDEN = FOLDER / "golden_features_2018-07-25_2018-08-14.parquet"
SAME_SECOND_TIES = 20
"""Rows of the whole source where two payments of one customer share a second."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.handbook,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not GOLDEN.is_file(),
        reason=f"the handbook's data is not at {FOLDER} (PENSTOCK_HANDBOOK_DIR)",
    ),
]
PLAN = load_plan("card_fraud")

PUBLISHED = {
    "is_weekend": "TX_DURING_WEEKEND",
    "is_night": "TX_DURING_NIGHT",
    **{f"customer_count_{d}d": f"CUSTOMER_ID_NB_TX_{d}DAY_WINDOW" for d in (1, 7, 30)},
    **{f"customer_amount_mean_{d}d": f"CUSTOMER_ID_AVG_AMOUNT_{d}DAY_WINDOW" for d in (1, 7, 30)},
    **{f"terminal_count_{d}d_delay_7d": f"TERMINAL_ID_NB_TX_{d}DAY_WINDOW" for d in (1, 7, 30)},
    **{
        f"terminal_is_fraud_rate_{d}d_delay_7d": f"TERMINAL_ID_RISK_{d}DAY_WINDOW"
        for d in (1, 7, 30)
    },
}


ROWS, LABELS = 1_303_778, 10_659
POLL_RECORDS = 8_000
"""Half a day: one partition after another passes it on, so terminals' logs are far out of order."""


@pytest.fixture(scope="module")
def history(own_lake: Path, spark: SparkSession) -> pa.Table:
    """What Spark computes from the data set as imported history, in the order of its numbers."""
    import_handbook(FOLDER, PLAN)
    report = backfill(PLAN, spark=spark)
    assert report["rows"] == ROWS
    return by_number("feature_candidate")


def by_number(table: str) -> pa.Table:
    found = lake.read(table, ["event_id", *PUBLISHED])
    number = pc.cast(found["event_id"], "int32")
    return found.append_column("number", number).sort_by("number").combine_chunks()


def test_backfill_equals_the_published_features(history: pa.Table) -> None:
    golden = pq.read_table(GOLDEN).sort_by("TRANSACTION_ID")
    computed = history.filter(pc.is_in(history["number"], value_set=golden["TRANSACTION_ID"]))
    assert computed["number"].to_pylist() == golden["TRANSACTION_ID"].to_pylist()
    assert set(PUBLISHED) == set(PLAN.column_names[:15]) - {"amount"}
    wrong = np.zeros(golden.num_rows, np.bool_)
    for ours, theirs in PUBLISHED.items():
        scale = 100.0 if "amount" in ours else 1.0
        difference = computed[ours].to_numpy() / scale - golden[theirs].to_numpy()
        wrong |= ~(np.abs(difference) <= 1e-6)
        if ours.startswith("terminal"):
            assert np.abs(difference).max() <= 1e-6, ours
    assert wrong.sum() <= SAME_SECOND_TIES


def records() -> Iterator[list[Record]]:
    """Every payment and every label as a producer sends it, a poll at a time, in order of arrival:
    a payment at its time, a label once it is known, before the payments of that instant."""
    payments = read_payments(FOLDER)
    payments = payments.append_column("arrival_us", payments["time_us"])
    payments = payments.append_column("kind", pa.array(np.ones(payments.num_rows, np.int8)))
    frauds = payments.filter(payments["is_fraud"])
    known = pc.add(frauds["time_us"], KNOWN_AFTER_US)
    frauds = frauds.set_column(frauds.schema.get_field_index("arrival_us"), "arrival_us", known)
    nought = pa.array(np.zeros(frauds.num_rows, np.int8))
    frauds = frauds.set_column(frauds.schema.get_field_index("kind"), "kind", nought)
    arrivals = pa.concat_tables([payments, frauds]).sort_by(
        [(name, "ascending") for name in ("arrival_us", "kind", "event_id")]
    )
    offsets = {topic: [0] * PLAN.partitions for topic in (PLAN.event_topic, PLAN.label_topic)}
    for first in range(0, arrivals.num_rows, POLL_RECORDS):
        poll = []
        lot = arrivals.slice(first, POLL_RECORDS)
        at = pc.strftime(lot["time_us"].cast(pa.timestamp("us")), "%Y-%m-%dT%H:%M:%SZ")
        for row, time in zip(lot.to_pylist(), at.to_pylist(), strict=True):
            sent = {
                PLAN.id_field: row["event_id"],
                PLAN.time_field: time,
                "terminal_id": row["terminal_id"],
            }
            if row["kind"]:
                topic = PLAN.event_topic
                sent["customer_id"] = row["customer_id"]
                sent["amount"] = {"minor": row["amount"], "currency": "EUR"}
            else:
                topic = PLAN.label_topic
                sent["is_fraud"] = True
            partition = partition_of(row["customer_id"], PLAN.partitions)
            offset = offsets[topic][partition]
            offsets[topic][partition] += 1
            arrival_ms = row["arrival_us"] // 1000
            poll.append(Record(topic, partition, offset, payload(sent), arrival_ms))
        yield poll


def test_stream_equals_spark_bit_for_bit(
    history: pa.Table, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "lake_uri", str(tmp_path / "lake"))
    monkeypatch.setattr(settings(), "snapshot_uri", str(tmp_path / "snapshots"))
    streamed = stream(PLAN, Tokeniser.from_settings(), records())
    # Envelopes of thousands of rows, and every partition of both stages at work.
    assert streamed.envelopes > 1_000
    logged = by_number("features")
    assert logged.num_rows == ROWS
    # The published columns do not depend on how partitions interleave: history gives them too.
    assert logged["event_id"].equals(history["event_id"])
    for name in PUBLISHED:
        ours, theirs = logged[name].to_numpy(), history[name].to_numpy()
        assert np.array_equal(ours.view(np.int64), theirs.view(np.int64)), name
    # Spark over the rows that the stream logged, in each stage's own order: every column.
    report = backfill(PLAN, spark=spark)
    assert (report["rows"], report["duplicates"], report["disagreements"]) == (ROWS, 0, 0)
    assert lake.read("labels", ["event_id"]).num_rows == LABELS
    found = parity.measure(PLAN)
    assert (found["rows"], found["mismatches"], found["columns"]) == (ROWS, 0, {})

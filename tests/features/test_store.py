"""The Feast objects of a plan, on a real Redis and a real offline store."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from features import lake, store
from features.backfill import backfill, publish
from features.catalog import load_plan
from features.errors import PenstockError, ServiceUnavailableError
from features.fold import Fold
from features.settings import settings
from tests.conftest import SessionStack
from tests.features.chain import DAY_US, START_US, payments, stream
from tests.features.rows import batch

pytestmark = pytest.mark.slow
PLAN = load_plan("card_fraud")
CUSTOMER, TERMINAL = PLAN.stages


@pytest.fixture(scope="module")
def applied(stack: SessionStack, own_lake: Path) -> dict:
    stack.require("redis")
    store.close()
    return store.apply(PLAN)


def finished(payments_: list[tuple[str, str, int, int]]) -> pa.RecordBatch:
    """Rows of the features topic of (customer, terminal, amount, minute)."""
    rows = [
        {
            "event_id": f"e{i}",
            "event_time_us": START_US + minute * 60_000_000,
            "customer_id": customer,
            "terminal_id": terminal,
            "amount": amount,
            "position_seq": i << 20,
        }
        for i, (customer, terminal, amount, minute) in enumerate(payments_)
    ]
    return Fold(PLAN, 1).fold(Fold(PLAN, 0).fold(batch(PLAN, rows), 0, 0), 0, 0)


def test_plan_becomes_entities_views_and_one_service(applied: dict) -> None:
    assert applied == {
        "entities": ["customer", "terminal"],
        "views": ["card_fraud_customer", "card_fraud_terminal"],
        "services": ["card_fraud"],
    }
    registered = store._open(PLAN.name)
    views = {v.name: v for v in registered.list_feature_views()}
    assert set(views) == set(applied["views"])
    for stage in PLAN.stages:
        view = views[store.view_name(PLAN, stage)]
        assert [f.name for f in view.features] == list(stage.columns)
        assert view.tags == {"fingerprint": PLAN.fingerprint}
    assert store.apply(PLAN) == applied


def test_online_store_holds_the_newest_vector_of_each_key(applied: dict) -> None:
    rows = finished([("a", "x", 100, 5), ("a", "y", 300, 9), ("b", "x", 50, 7), ("a", "x", 7, 8)])
    assert store.write_online(PLAN, rows) == {
        "card_fraud_customer": 2,
        "card_fraud_terminal": 2,
    }
    found = store.online_features(
        PLAN,
        [
            {"customer_id": "a", "terminal_id": "x"},
            {"customer_id": "b", "terminal_id": "y"},
            {"customer_id": "nobody", "terminal_id": "x"},
        ],
    )
    # The last row of "a" came out of order: the one of minute 9 is newer.
    assert [row["customer_count_1d"] for row in found] == [2.0, 1.0, None]
    assert [row["customer_amount_mean_1d"] for row in found] == [200.0, 50.0, None]
    store.write_online(PLAN, finished([("a", "x", 1, 4)]))
    assert store.online_features(PLAN, [{"customer_id": "a", "terminal_id": "x"}])[0] == found[0]
    store.write_online(PLAN, finished([("a", "x", 40, 10)]))
    newer = store.online_features(PLAN, [{"customer_id": "a", "terminal_id": "x"}])[0]
    assert newer["customer_amount_mean_1d"] == 40.0


def test_historical_features_are_those_known_at_each_time(
    applied: dict, spark: SparkSession
) -> None:
    with pytest.raises(PenstockError, match="run `penstock backfill` first"):
        store.historical_features(PLAN, pa.table({}))
    stream(PLAN, payments(seed=5, history=120, live=120))
    backfill(PLAN, spark=spark)
    publish(PLAN)
    features = lake.read("feature_backfill")
    events = lake.read("events")
    keyed = features.join(
        events.select(["origin_partition", "origin_offset", "customer_id", "terminal_id"]),
        ["origin_partition", "origin_offset"],
    )
    at = START_US + 20 * DAY_US
    wanted = pa.table(
        {
            "event_time": pa.array([at, at, at - 40 * DAY_US], pa.timestamp("us", tz="UTC")),
            "customer_id": ["c1", "c2", "c1"],
            "terminal_id": ["m1", "m2", "m1"],
            "asked": [1, 2, 3],
        }
    )
    found = store.historical_features(PLAN, wanted).sort_by("asked")
    assert found.schema.names == [
        *wanted.schema.names,
        *CUSTOMER.columns,
        *TERMINAL.columns,
    ]
    for row in found.to_pylist():
        for stage in PLAN.stages:
            before = keyed.filter(
                pc.and_(
                    pc.equal(keyed[stage.key_column], row[stage.key_column]),
                    pc.less_equal(keyed["event_time"], row["event_time"]),
                )
            ).sort_by([("event_time", "ascending"), ("event_id", "ascending")])
            known = before.slice(max(0, before.num_rows - 1)).to_pylist()
            expected = known[0] if known else dict.fromkeys(stage.columns)
            assert {c: row[c] for c in stage.columns} == {c: expected[c] for c in stage.columns}
    assert found["customer_count_1d"].to_pylist()[2] is None


def test_offline_store_follows_what_is_published(applied: dict, spark: SparkSession) -> None:
    wanted = pa.table(
        {
            "event_time": pa.array([START_US + 90 * DAY_US], pa.timestamp("us", tz="UTC")),
            "customer_id": ["c1"],
            "terminal_id": ["m1"],
        }
    )
    before = store.historical_features(PLAN, wanted)["customer_count_30d"].to_pylist()
    rows = lake.read("feature_backfill")
    at = rows.schema.get_field_index("customer_count_30d")
    changed = pc.add(rows["customer_count_30d"], 1000.0)
    table = lake.open_table("feature_backfill")
    assert table is not None
    write_deltalake(table, rows.set_column(at, "customer_count_30d", changed), mode="overwrite")
    after = store.historical_features(PLAN, wanted)["customer_count_30d"].to_pylist()
    assert after == [before[0] + 1000.0]


def test_absent_online_store_is_named(
    applied: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings(), "redis_url", "redis://127.0.0.1:1/0")
    store.close()
    rows = finished([("a", "x", 100, 5)])
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:1.*penstock up redis"):
        store.write_online(PLAN, rows)
    monkeypatch.undo()
    store.close()

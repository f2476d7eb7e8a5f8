"""The Feast objects of a plan, in a real registry, and a real offline store."""

import dataclasses
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from redis import Redis

from features import lake, store
from features.backfill import backfill, publish
from features.catalog import load_plan
from features.errors import PenstockError, ServiceUnavailableError
from features.online import OnlineStore
from features.redis_layout import view_name
from features.settings import settings
from tests.conftest import SessionStack
from tests.features import vectors
from tests.features.chain import DAY_US, START_US, payments, stream

pytestmark = pytest.mark.slow
PLAN = load_plan("card_fraud")
CUSTOMER, TERMINAL = PLAN.stages


@pytest.fixture(scope="module")
def applied(stack: SessionStack, own_lake: Path) -> dict:
    stack.require("redis")
    store.close()
    return store.apply(PLAN)


def test_plan_becomes_entities_views_and_one_service(applied: dict) -> None:
    assert applied == {
        "entities": ["customer", "terminal"],
        "views": ["card_fraud_customer", "card_fraud_terminal"],
        "services": ["card_fraud"],
    }
    registered = store._open(PLAN)
    views = {v.name: v for v in registered.list_feature_views()}
    assert set(views) == set(applied["views"])
    for stage in PLAN.stages:
        view = views[view_name(PLAN, stage)]
        assert [f.name for f in view.features] == list(stage.outputs)
        assert view.tags == {"fingerprint": PLAN.fingerprint}
    assert store.apply(PLAN) == applied


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
        *CUSTOMER.outputs,
        *TERMINAL.outputs,
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
            expected = known[0] if known else dict.fromkeys(stage.outputs)
            assert {c: row[c] for c in stage.outputs} == {c: expected[c] for c in stage.outputs}
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


def test_vector_older_than_ttl_is_not_historical_either(applied: dict) -> None:
    newest_us = pc.max(lake.read("feature_backfill")["event_time"]).cast(pa.int64()).as_py()
    wanted = pa.table(
        {
            "event_time": pa.array([newest_us + DAY_US], pa.timestamp("us", tz="UTC")),
            "customer_id": ["c1"],
            "terminal_id": ["m1"],
        }
    )
    assert store.historical_features(PLAN, wanted)["customer_count_30d"].null_count == 0
    plan = dataclasses.replace(PLAN, ttl_us=DAY_US // 24)
    store.apply(plan)
    assert store.historical_features(plan, wanted)["customer_count_30d"].null_count == 1
    store.apply(PLAN)


def test_vectors_lie_compactly_in_the_stacks_redis(applied: dict) -> None:
    with closing(OnlineStore(PLAN)) as online, Redis.from_url(settings().redis_url) as client:
        online.write(vectors.rows(vectors.row("compact")))
        (key,) = client.keys("*compact*")
        assert client.object("encoding", key) in (b"ziplist", b"listpack")
        assert client.memory_usage(key) < 150 + 45 * len(PLAN.stages[0].outputs)


def test_absent_online_store_is_named(applied: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "redis_url", "redis://127.0.0.1:1/0")
    store.close()
    # Only what is gone from the definition is removed from Redis.
    fewer = dataclasses.replace(PLAN, stages=(CUSTOMER,))
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:1.*penstock up redis"):
        store.apply(fewer)
    monkeypatch.undo()
    store.close()

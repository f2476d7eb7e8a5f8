"""An entity of several fields: in the lake and the backfill, in Feast, and in the online store."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession
from redis import Redis

from features import lake, parity, quality, store
from features.backfill import backfill, publish
from features.errors import PenstockError
from features.online import HIT, MISS, OnlineStore
from features.plan import Plan, compile_plan
from features.redis_layout import view_name
from features.settings import settings
from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Label,
    Money,
    Text,
    count,
    days,
    hours,
    mean,
    rate,
)
from tests.features.chain import DAY_US, START_US, payments, stream
from tests.features.rows import batch
from tests.features.test_online import KEYS
from tests.features.vectors import bits
from tests.redis_server import free_port, redis

pytestmark = pytest.mark.slow

CUSTOMER = Entity("customer_id")
PAIR = Entity("terminal_id", "customer_id")
"""Declared in another order than that of their names, in which Feast sorts them."""


def plan_of(name: str) -> Plan:
    paid = Event(
        f"{name}.made.v1",
        id="payment_id",
        time="at",
        key=CUSTOMER,
        lateness=hours(1),
        fields={"customer_id": Text(), "terminal_id": Text(), "amount": Money("EUR", min=0)},
    )
    backs = Label(f"{name}.back.v1", of=paid, field="is_fraud", known_after=days(7))
    return compile_plan(
        FeatureSet(
            name,
            event=paid,
            label=backs,
            features=[
                paid.amount,
                count(by=CUSTOMER, over=days(1)),
                count(by=PAIR, over=days(7)),
                count(by=PAIR, over=days(30)),
                mean(paid.amount, by=PAIR, over=days(30)),
                rate(backs.is_fraud, by=PAIR, over=days(30), delay=days(1)),
            ],
        )
    )


PLAN = plan_of("pairs")
STAGE = PLAN.stages[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, own_lake: Path) -> Iterator[Redis]:
    folder, port = tmp_path_factory.mktemp("pairs"), free_port()
    with pytest.MonkeyPatch.context() as patch, redis(port, folder), Redis(port=port) as client:
        patch.setattr(settings(), "redis_url", f"redis://127.0.0.1:{port}/0")
        store.close()
        store.apply(PLAN)
        yield client
    store.close()


@pytest.fixture
def online(server: Redis) -> Iterator[OnlineStore]:
    server.flushall()
    with closing(OnlineStore(PLAN)) as opened:
        yield opened


def rows(*vectors: tuple[str, str, float]) -> pa.RecordBatch:
    """Finished events of (terminal, customer): each has one value in every column."""
    names = [name for stage in PLAN.stages for name in stage.outputs]
    return batch(
        PLAN,
        (
            {
                "event_time_us": START_US + at,
                "customer_id": customer,
                "terminal_id": terminal,
                STAGE.seq_column: at,
                **dict.fromkeys(names, value),
            }
            for at, (terminal, customer, value) in enumerate(vectors)
        ),
    )


def feast_reads(asked: list[dict[str, str]]) -> dict[str, list[Any]]:
    feast = store._open(PLAN)
    found = feast.get_online_features(
        features=feast.get_feature_service(PLAN.name), entity_rows=asked
    )
    read: dict[str, list[Any]] = found.to_dict()
    return read


def test_feast_knows_an_entity_for_each_field(server: Redis) -> None:
    assert store.apply(PLAN) == {
        "entities": ["customer", "terminal"],
        "views": ["pairs_customer", "pairs_terminal_customer"],
        "services": ["pairs"],
    }
    view = store._open(PLAN).get_feature_view("pairs_terminal_customer")
    assert sorted(view.join_keys) == ["customer_id", "terminal_id"]
    assert [feature.name for feature in view.features] == list(STAGE.outputs)


def test_feast_reads_what_we_write(online: OnlineStore) -> None:
    pairs = [(terminal, customer) for terminal in KEYS for customer in KEYS]
    online.write(rows(*((*pair, float(n)) for n, pair in enumerate(pairs))))
    ours = online.read({STAGE.name: [*pairs, ("no", "body")]})[STAGE.name]
    assert ours.result.tolist() == [HIT] * len(pairs) + [MISS]
    assert ours.values[:-1, 0].tolist() == [float(n) for n in range(len(pairs))]
    asked = [*pairs, ("no", "body")]
    theirs = feast_reads([{"terminal_id": t, "customer_id": c} for t, c in asked])
    for index, name in enumerate(STAGE.outputs):
        assert bits(theirs[name][:-1]) == bits(ours.values[:-1, index])
        assert theirs[name][-1] is None
    assert theirs["customer_count_1d"][-1] is None


@pytest.mark.parametrize("pair", [("m", "c"), ("", "é∂🦀"), ("1:a", "a\r\n$5\r\nb\x00")])
def test_we_read_what_feast_writes(online: OnlineStore, pair: tuple[str, str]) -> None:
    terminal, customer = pair
    values = [1.5, -0.0, 5e-324, 7.25]
    moment = pd.Timestamp(START_US, unit="us", tz="UTC")
    frame = pd.DataFrame(
        {"customer_id": [customer], "terminal_id": [terminal]}
        | {name: [value] for name, value in zip(STAGE.outputs, values, strict=True)}
    )
    frame["event_time"] = frame["terminal_customer_arrived"] = moment
    store._open(PLAN).write_to_online_store(view_name(PLAN, STAGE), df=frame)
    found = online.read({STAGE.name: [pair, (customer, terminal)]})[STAGE.name]
    assert found.result.tolist() == [HIT, MISS]
    assert bits(found.values[0]) == bits(values)
    assert found.event_time_us[0] == START_US
    # An event of the same key replaces it.
    online.write(rows(("other", "x", 0.0), (terminal, customer, 9.0)))
    assert online.read({STAGE.name: [pair]})[STAGE.name].values.tolist() == [[9.0] * 4]
    assert feast_reads([{"terminal_id": terminal, "customer_id": customer}])[STAGE.outputs[0]] == [
        9.0
    ]


def test_newest_of_each_pair_is_kept(online: OnlineStore) -> None:
    given = [("m", "c", 1.0), ("m", "d", 2.0), ("m", "c", 3.0), ("n", "c", 4.0)]
    assert online.write(rows(*given)) == {"pairs_customer": 2, "pairs_terminal_customer": 3}
    found = online.read({"terminal_customer": [("m", "c"), ("m", "d"), ("n", "c")]})
    assert found["terminal_customer"].values[:, 0].tolist() == [3.0, 2.0, 4.0]


@pytest.mark.parametrize("key", ["mc", ("m",), ("m", "c", "x")])
def test_key_of_other_fields_is_refused(online: OnlineStore, key: Any) -> None:
    with pytest.raises(PenstockError, match=r"give \('terminal_id', 'customer_id'\)"):
        online.read({"terminal_customer": [key]})


def test_ttl_ends_a_pair_for_feast_too(server: Redis) -> None:
    server.flushall()
    plan = dataclasses.replace(PLAN, ttl_us=3_600_000_000)
    now_us = time.time_ns() // 1000
    old, new = rows(("m", "old", 1.0), ("m", "new", 2.0)).to_pylist()
    with closing(OnlineStore(plan)) as online:
        online.write(batch(PLAN, [old, new | {"event_time_us": now_us}]))
    asked = [{"terminal_id": "m", "customer_id": customer} for customer in ("old", "new")]
    assert feast_reads(asked)[STAGE.outputs[0]] == [None, 2.0]


def test_backfill_equals_the_stream_and_passes_the_gate(server: Redis, spark: SparkSession) -> None:
    stream(PLAN, payments(seed=4, history=200, live=400))
    backfill(PLAN, spark=spark)
    report = parity.measure(PLAN)
    assert report["rows"] == lake.read("features").num_rows > 200
    assert report["mismatches"] == 0
    quality.check(PLAN)
    publish(PLAN)
    made = lake.read("feature_backfill")
    assert len(set(made["terminal_customer_count_30d"].to_pylist())) > 3
    assert len(set(made["terminal_customer_is_fraud_rate_30d_delay_1d"].to_pylist())) > 3


def test_historical_features_of_a_pair_are_those_known_at_each_time(server: Redis) -> None:
    keyed = lake.read("feature_backfill").join(
        lake.read("events").select(
            ["origin_partition", "origin_offset", "customer_id", "terminal_id"]
        ),
        ["origin_partition", "origin_offset"],
    )
    at = START_US + 25 * DAY_US
    asked = [(at, f"c{n % 12}", f"m{n % 8}") for n in range(24)]
    wanted = pa.table(
        {
            "event_time": pa.array([t for t, *_ in asked], pa.timestamp("us", tz="UTC")),
            "customer_id": [customer for _, customer, _ in asked],
            "terminal_id": [terminal for *_, terminal in asked],
        }
    )
    found = store.historical_features(PLAN, wanted)
    assert found.num_rows == len(asked)
    hits = 0
    for row in found.to_pylist():
        same = [pc.equal(keyed[name], row[name]) for name in STAGE.key_fields]
        before = keyed.filter(
            pc.and_(pc.and_(*same), pc.less_equal(keyed["event_time"], row["event_time"]))
        ).sort_by([("event_time", "ascending"), ("event_id", "ascending")])
        known = before.slice(max(0, before.num_rows - 1)).to_pylist()
        hits += len(known)
        expected = known[0] if known else dict.fromkeys(STAGE.outputs)
        assert {c: row[c] for c in STAGE.outputs} == {c: expected[c] for c in STAGE.outputs}
    assert hits > 5
    assert np.isfinite(found["customer_count_1d"].to_numpy()).all()

"""What we write Feast's own SDK reads, and what it writes we read, on one real Redis."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from redis import Redis

from features import store
from features.online import HIT, MISS, OnlineStore
from features.plan import Plan
from features.redis_layout import view_name
from features.settings import settings
from tests.features.test_online import KEYS, NUMBERS
from tests.features.vectors import CUSTOMER, PLAN, START_US, TERMINAL, bits, row, rows
from tests.redis_server import free_port, redis

pytestmark = pytest.mark.slow
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    folder, port = tmp_path_factory.mktemp("feast"), free_port()
    with pytest.MonkeyPatch.context() as patch, redis(port, folder), Redis(port=port) as client:
        patch.setattr(settings(), "redis_url", f"redis://127.0.0.1:{port}/0")
        patch.setattr(settings(), "home", folder)
        store.close()
        store.apply(PLAN)
        yield client
    store.close()


@pytest.fixture
def online(server: Redis) -> Iterator[OnlineStore]:
    server.flushall()
    with closing(OnlineStore(PLAN)) as opened:
        yield opened


def feast_reads(asked: list[dict[str, str]], plan: Plan = PLAN) -> dict[str, list[Any]]:
    feast = store._open(plan)
    found = feast.get_online_features(
        features=feast.get_feature_service(plan.name), entity_rows=asked
    )
    read: dict[str, list[Any]] = found.to_dict(include_event_timestamps=True)
    return read


def feast_writes(plan: Plan, customer: str, at_us: int, values: list[float | None]) -> None:
    columns = {name: [value] for name, value in zip(CUSTOMER.outputs, values, strict=True)}
    frame = pd.DataFrame({"customer_id": [customer], **columns}).astype(
        dict.fromkeys(CUSTOMER.outputs, float)
    )
    moment = pd.Timestamp(at_us, unit="us", tz="UTC")
    frame["event_time"] = frame["customer_arrived"] = moment
    store._open(plan).write_to_online_store(view_name(plan, CUSTOMER), df=frame)


def test_feast_reads_what_we_write_bit_for_bit(online: OnlineStore) -> None:
    events = [
        row(key, at_us=1_234_567 * i, value=number, terminal_id=f"{key}'s shop")
        for i, (key, number) in enumerate(zip(KEYS, NUMBERS, strict=False))
    ]
    numbers = dict(zip(CUSTOMER.outputs + TERMINAL.outputs, range(12), strict=True))
    events.append(row("several", **numbers))
    online.write(rows(*events))
    asked = [{name: event[name] for name in ("customer_id", "terminal_id")} for event in events]
    theirs = feast_reads([*asked, {"customer_id": "nobody", "terminal_id": "none"}])
    ours = online.read(
        {
            stage.name: [*(each[stage.key_column] for each in asked), "nobody"]
            for stage in PLAN.stages
        }
    )
    for stage in PLAN.stages:
        found = ours[stage.name]
        assert found.result.tolist() == [HIT] * len(asked) + [MISS]
        for index, column in enumerate(stage.outputs):
            assert theirs[column][-1] is None
            assert bits(theirs[column][:-1]) == bits(found.values[:-1, index])
            # The SDK tells whole seconds.
            seconds = [us // 1_000_000 for us in found.event_time_us[:-1].tolist()]
            assert theirs[f"{column}__ts"][:-1] == seconds


def test_feast_reads_our_times_to_the_microsecond(online: OnlineStore) -> None:
    online.write(rows(row("a", at_us=123_456)))
    feast = store._open(PLAN)
    view = feast.get_feature_view(view_name(PLAN, CUSTOMER))
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val="a")])
    provider = feast._get_provider()
    ((at, _),) = provider.online_read(feast.config, view, [key])
    expected_us = START_US + 123_456
    assert at == datetime.fromtimestamp(expected_us / 1e6, UTC)


@pytest.mark.parametrize("key", KEYS)
def test_we_read_what_feast_writes(online: OnlineStore, key: str) -> None:
    at_us = START_US + 654_321
    feast_writes(PLAN, key, at_us, [1.5, -0.0, np.inf, 5e-324, -7.25, None])
    online.write(rows(row("own", value=3.0)))
    found = online.read({"customer": ["own", key, "nobody"]})["customer"]
    assert found.result.tolist() == [HIT, HIT, MISS]
    assert bits(found.values[1, :5]) == bits([1.5, -0.0, np.inf, 5e-324, -7.25])
    assert np.isnan(found.values[1, 5])
    assert found.event_time_us[1] == at_us
    assert found.age_s[1] == pytest.approx(time.time() - at_us / 1e6, abs=60)
    assert (found.fingerprint[1], found.version[1]) == ("", 0)
    assert found.values[0].tolist() == [3.0] * 6


def test_newest_stays_whoever_writes(online: OnlineStore) -> None:
    def now() -> tuple[float, str]:
        found = online.read({"customer": ["a"]})["customer"]
        return float(found.values[0, 0]), found.fingerprint[0]

    online.write(rows(row(at_us=2_000_000, value=1.0)))
    feast_writes(PLAN, "a", START_US + 1_000_000, [2.0] * 6)
    assert now() == (1.0, PLAN.fingerprint)
    feast_writes(PLAN, "a", START_US + 2_000_001, [3.0] * 6)
    assert now() == (3.0, "")
    assert feast_reads([{"customer_id": "a", "terminal_id": "x"}])[CUSTOMER.outputs[0]] == [3.0]
    online.write(rows(row(at_us=2_000_000, seq=99, value=4.0)))
    assert now() == (3.0, "")
    online.write(rows(row(at_us=2_000_001, value=5.0)))
    assert now() == (5.0, PLAN.fingerprint)
    assert feast_reads([{"customer_id": "a", "terminal_id": "x"}])[CUSTOMER.outputs[0]] == [5.0]


def test_ttl_is_told_to_feast_and_ends_its_vectors_too(online: OnlineStore, server: Redis) -> None:
    plan = dataclasses.replace(PLAN, ttl_us=HOUR_US)
    store.apply(plan)
    try:
        view = store._open(plan).get_feature_view(view_name(plan, CUSTOMER))
        assert view.ttl.total_seconds() == 3600
        now_us = time.time_ns() // 1000
        with closing(OnlineStore(plan)) as aging:
            aging.write(rows(row("new", event_time_us=now_us - HOUR_US // 2), row("old")))
        asked = [{"customer_id": key, "terminal_id": "x"} for key in ("new", "old")]
        assert feast_reads(asked, plan)[CUSTOMER.outputs[0]] == [1.0, None]
        (key,) = server.keys("*new*")
        assert server.ttl(key) < 1801
        # What Feast writes over it lives its own hour.
        feast_writes(plan, "new", now_us, [2.0] * 6)
        assert server.ttl(key) > 3500
    finally:
        store.apply(PLAN)


def test_feast_removes_the_vectors_of_a_view_that_is_gone(
    online: OnlineStore, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(rows(row("a")))
    store.apply(dataclasses.replace(PLAN, stages=(CUSTOMER,)))
    found = online.read({"customer": ["a"], "terminal": ["x"]})
    assert [found[name].result.tolist() for name in ("customer", "terminal")] == [[HIT], [MISS]]
    store.apply(PLAN)

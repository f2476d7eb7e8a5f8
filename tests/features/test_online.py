"""The direct reader and writer of the online store, on a real Redis."""

import dataclasses
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import REGISTRY
from redis import Redis

from features.errors import PenstockError, ServiceUnavailableError, WireError
from features.online import EXPIRED, HIT, MISS, OnlineStore, Vectors
from features.plan import Plan, compile_plan
from features.settings import settings
from features.vocabulary import Entity, Event, FeatureSet, Text, count, hours
from features.wire import DUPLICATE, KIND_LABEL
from tests.features.rows import batch
from tests.features.vectors import CUSTOMER, PLAN, TERMINAL, bits, row, rows
from tests.redis_server import free_port, redis

HOUR_US = 3_600_000_000
VIEW = "card_fraud_customer"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with redis(port, tmp_path_factory.mktemp("redis")):
        yield port


@pytest.fixture(autouse=True)
def server(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """The empty Redis, as a client of the test's own."""
    monkeypatch.setattr(settings(), "redis_url", f"redis://127.0.0.1:{port}/0")
    with Redis(port=port) as client:
        client.flushall()
        yield client


@pytest.fixture
def online() -> Iterator[OnlineStore]:
    with opened(PLAN) as store:
        yield store


def opened(plan: Plan) -> closing[OnlineStore]:
    return closing(OnlineStore(plan))


def living(ttl_us: int) -> closing[OnlineStore]:
    """A store whose definition allows vectors that age."""
    return opened(dataclasses.replace(PLAN, ttl_us=ttl_us))


def customers(store: OnlineStore, *keys: str) -> Vectors:
    return store.read({"customer": keys})["customer"]


def value(store: OnlineStore, key: str = "a") -> float:
    """The value that `row` gave the key's vector."""
    found = customers(store, key)
    assert len(set(bits(found.values))) == 1
    return float(found.values[0, 0])


def test_a_vector_comes_back_with_its_time_age_and_definition(online: OnlineStore) -> None:
    now_us = time.time_ns() // 1000
    one = row("a", event_time_us=now_us - 5_000_000) | {
        column: float(i) for i, column in enumerate([*CUSTOMER.outputs, *TERMINAL.outputs])
    }
    assert online.write(rows(one)) == {VIEW: 1, "card_fraud_terminal": 1}
    found = online.read({"customer": ["a", "b", "a"], "terminal": ["x"]})
    customer, terminal = found["customer"], found["terminal"]
    assert customer.columns == CUSTOMER.outputs
    assert customer.result.tolist() == [HIT, MISS, HIT]
    assert customer.values[[0, 2]].tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]] * 2
    assert np.isnan(customer.values[1]).all()
    assert terminal.values.tolist() == [[6.0, 7.0, 8.0, 9.0, 10.0, 11.0]]
    assert customer.event_time_us.tolist() == [now_us - 5_000_000, 0, now_us - 5_000_000]
    assert 5.0 <= customer.age_s[0] < 10.0
    assert np.isnan(customer.age_s[1])
    assert customer.fingerprint == [PLAN.fingerprint, "", PLAN.fingerprint]
    assert customer.version.tolist() == [1, 0, 1]
    assert online.read({"customer": []})["customer"].values.shape == (0, 6)


def test_newest_event_stays_whatever_comes_later(online: OnlineStore) -> None:
    assert online.write(rows(row(at_us=9, seq=4, value=9.0)))[VIEW] == 1
    assert online.write(rows(row(at_us=8, seq=5, value=8.0)))[VIEW] == 0
    assert value(online) == 9.0
    assert online.write(rows(row(at_us=10, seq=1, value=10.0)))[VIEW] == 1
    assert value(online) == 10.0


def test_of_one_batch_only_the_newest_of_a_key_is_written(online: OnlineStore) -> None:
    events = [
        row("a", at_us=5, seq=1, value=1.0),
        row("b", at_us=0, seq=2, value=2.0),
        row("a", at_us=4, seq=3, value=3.0),
        row("b", at_us=0, seq=5, value=5.0),
        row("b", at_us=0, seq=4, value=4.0),
    ]
    assert online.write(rows(*events)) == {VIEW: 2, "card_fraud_terminal": 1}
    assert customers(online, "a", "b").values[:, 0].tolist() == [1.0, 5.0]


def test_of_one_event_time_the_later_place_in_the_log_stays(online: OnlineStore) -> None:
    online.write(rows(row(seq=2**40 + 5, value=5.0)))
    online.write(rows(row(seq=2**40 + 4, value=4.0)))
    assert value(online) == 5.0
    online.write(rows(row(seq=2**40 + 6, value=6.0)))
    assert value(online) == 6.0
    online.write(rows(row(seq=2**40 + 6, value=7.0)))
    assert value(online) == 6.0, "a row that is read again changes nothing"


def test_history_gives_way_to_the_log(online: OnlineStore) -> None:
    online.write(rows(row(value=1.0, customer_seq=None)))
    online.write(rows(row(value=2.0, seq=0)))
    online.write(rows(row(value=3.0, customer_seq=None)))
    assert value(online) == 2.0


def test_each_stage_has_an_order_of_its_own(online: OnlineStore) -> None:
    online.write(rows(row(value=1.0, customer_seq=1, terminal_seq=2)))
    online.write(rows(row(value=2.0, customer_seq=2, terminal_seq=1)))
    found = online.read({"customer": ["a"], "terminal": ["x"]})
    assert (found["customer"].values[0, 0], found["terminal"].values[0, 0]) == (2.0, 1.0)


def test_labels_and_duplicates_are_passed_over(online: OnlineStore) -> None:
    kept = row("a", value=1.0)
    other = [
        row("b", at_us=1, verdict=DUPLICATE),
        row("a", at_us=1, verdict=DUPLICATE),
        row("a", at_us=1, kind=KIND_LABEL),
    ]
    assert online.write(rows(*other)) == {}
    assert online.write(rows(*other, kept)) == {VIEW: 1, "card_fraud_terminal": 1}
    assert customers(online, "a", "b").result.tolist() == [HIT, MISS]


def test_racing_writers_leave_the_newest_of_each_key(online: OnlineStore) -> None:
    draw = random.Random(3)
    places = list(range(1200))
    draw.shuffle(places)
    # Few instants, so that places decide as often as times.
    events = [
        row(f"k{draw.randrange(40)}", at_us=draw.randrange(5), seq=seq, value=float(seq))
        for seq in places
    ]

    def replay(seed: int) -> None:
        own = random.Random(seed)
        with opened(PLAN) as store:
            for _ in range(2):
                order = own.sample(events, len(events))
                for start in range(0, len(order), 30):
                    store.write(rows(*order[start : start + 30]))

    writers = [threading.Thread(target=replay, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    newest: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda e: (e["event_time_us"], e["customer_seq"])):
        newest[event["customer_id"]] = event
    found = customers(online, *newest)
    assert found.values[:, 0].tolist() == [float(e["customer_seq"]) for e in newest.values()]
    assert found.event_time_us.tolist() == [e["event_time_us"] for e in newest.values()]


NAN_WITH_PAYLOAD = struct.unpack(">d", bytes.fromhex("7ff8dead0000beef"))[0]
NUMBERS = [np.nan, NAN_WITH_PAYLOAD, -0.0, 0.0, np.inf, -np.inf, 5e-324, 0.1 + 0.2, -1.5e308]
KEYS = ["", "a", "é∂🦀", "k" * 64, "with space", "a\r\n$5\r\nb\x00", "customer_id", "🦀" * 16]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_its_own(online: OnlineStore, key: str) -> None:
    online.write(rows(*(row(each, value=float(i)) for i, each in enumerate(KEYS))))
    assert value(online, key) == float(KEYS.index(key))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_keeps_its_bits(online: OnlineStore, number: float) -> None:
    online.write(rows(row(value=number)))
    assert set(bits(customers(online, "a").values)) == set(bits([number]))


def test_vector_older_than_ttl_expires_for_every_reader(server: Redis) -> None:
    now_us = time.time_ns() // 1000
    with living(10 * HOUR_US) as store:
        store.write(rows(row("a", event_time_us=now_us - 9 * HOUR_US), row("old")))
        assert customers(store, "a", "old").result.tolist() == [HIT, MISS]
    (key,) = server.keys("*customer_id*")
    assert 3_590_000 < server.pttl(key) <= 3_600_001
    with living(8 * HOUR_US) as shorter:
        found = customers(shorter, "a")
        assert found.result.tolist() == [EXPIRED]
        assert np.isnan(found.values).all()
        assert found.event_time_us.tolist() == [now_us - 9 * HOUR_US]
        assert found.age_s[0] == pytest.approx(9 * 3600, abs=60)
    with living(0) as eternal:
        eternal.write(rows(row("a", event_time_us=now_us)))
    assert server.pttl(key) == -1


def test_older_event_that_comes_after_expiry_is_dropped_too(server: Redis) -> None:
    with living(HOUR_US) as store:
        now_us = time.time_ns() // 1000
        store.write(rows(row(event_time_us=now_us - HOUR_US - 1)))
        store.write(rows(row(event_time_us=now_us - HOUR_US - 2)))
        assert server.keys() == []


def test_another_definitions_vector_replaces_that_of_one_event(online: OnlineStore) -> None:
    stage = dataclasses.replace(CUSTOMER, outputs=CUSTOMER.outputs[1:])
    changed = dataclasses.replace(PLAN, version=2, fingerprint="ab" * 8, stages=(stage, TERMINAL))
    online.write(rows(row(value=1.0, seq=9)))
    with opened(changed) as newer:
        # Places of two chains cannot be compared; of one event the higher version stays.
        newer.write(rows(row(value=2.0, seq=3)))
        online.write(rows(row(value=1.0, seq=9)))
        assert value(newer) == 2.0
        found = customers(online, "a", "nobody")
        assert found.fingerprint == ["ab" * 8, ""]
        assert found.version.tolist() == [2, 0]
        # The column it does not compute is not left over from the older definition.
        assert np.isnan(found.values[0]).tolist() == [True, *[False] * 5]
        online.write(rows(row(value=3.0, at_us=1)))
        assert value(online) == 3.0
        assert customers(newer, "a").fingerprint == [PLAN.fingerprint]


def test_wide_vectors_keep_their_order_too() -> None:
    who = Entity("who_id")
    calls = Event("calls.v1", id="call_id", time="at", key=who, fields={"who_id": Text()})
    features = [count(by=who, over=hours(n)) for n in range(1, 301)]
    plan = compile_plan(FeatureSet("calls", event=calls, features=features))
    (stage,) = plan.stages

    def call(at_us: int, seq: int) -> pa.RecordBatch:
        vector = {name: float(at_us + n) for n, name in enumerate(stage.outputs)}
        one = {"who_id": "w", "event_time_us": at_us, "who_seq": seq, **vector}
        return batch(plan, [one])

    with opened(plan) as store:
        assert [sum(store.write(call(at, at)).values()) for at in (7, 9, 8)] == [1, 1, 0]
        found = store.read({"who": ["w"]})["who"]
        assert found.values.tolist() == [[9.0 + n for n in range(300)]]
    with opened(dataclasses.replace(plan, fingerprint="ab" * 8)) as other:
        found = other.read({"who": ["w"]})["who"]
        assert found.values.tolist() == [[9.0 + n for n in range(300)]]
        assert (found.event_time_us[0], found.fingerprint[0]) == (9, plan.fingerprint)


def test_what_is_no_number_is_refused(online: OnlineStore, server: Redis) -> None:
    online.write(rows(row()))
    (key,) = server.keys("*customer_id*")
    names = [name for name in server.hkeys(key) if not name.startswith(b"_ts")]
    server.hset(key, mapping={f"_ts:{VIEW}": b"", names[0]: b"\x12\x03abc"})
    with pytest.raises(WireError, match=r"holds b'.x12.x03abc' for a feature, which is no double"):
        customers(online, "a")


def test_reads_are_counted_by_result(online: OnlineStore) -> None:
    def seen(result: str) -> float:
        labels = {"view": VIEW, "result": result}
        return REGISTRY.get_sample_value("penstock_online_reads_total", labels) or 0.0

    def ages() -> tuple[float, float]:
        name = "penstock_online_read_age_seconds"
        return tuple(
            REGISTRY.get_sample_value(f"{name}_{part}", {"view": VIEW}) or 0.0
            for part in ("count", "sum")
        )  # type: ignore[return-value]

    now_us = time.time_ns() // 1000
    online.write(rows(row("a", event_time_us=now_us), row("b", event_time_us=now_us - HOUR_US)))
    before = [seen(result) for result in ("hit", "miss", "expired")], ages()
    customers(online, "a", "b", "c")
    customers(online, "c")
    with living(HOUR_US // 2) as younger:
        customers(younger, "a", "b")
    after = [seen(result) for result in ("hit", "miss", "expired")], ages()
    assert [b - a for a, b in zip(before[0], after[0], strict=True)] == [3.0, 2.0, 1.0]
    assert after[1][0] - before[1][0] == 2
    assert after[1][1] - before[1][1] == pytest.approx(2 * 3600, abs=60)


def test_absent_store_is_named_and_found_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    monkeypatch.setattr(settings(), "redis_url", f"redis://user:secret@127.0.0.1:{port}/0")
    with opened(PLAN) as store:
        for call in (lambda: store.write(rows(row())), lambda: customers(store, "a")):
            with pytest.raises(
                ServiceUnavailableError, match=rf"redis://127\.0\.0\.1:{port}/0.*penstock up redis"
            ):
                call()
    monkeypatch.setattr(settings(), "redis_url", f"redis://127.0.0.1:{port}/0")
    with opened(PLAN) as store:
        for number in range(2):
            # The second Redis knows neither the connection nor the script.
            with redis(port, tmp_path):
                store.write(rows(row(value=float(number))))
                assert value(store) == float(number)
                assert store.write(rows(row(value=float(number)))) == {
                    VIEW: 0,
                    "card_fraud_terminal": 0,
                }
            with pytest.raises(ServiceUnavailableError):
                customers(store, "a")


def test_password_and_database_are_those_of_the_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    with redis(port, tmp_path, "--requirepass", "a b@c"):
        monkeypatch.setattr(settings(), "redis_url", f"redis://:a%20b%40c@127.0.0.1:{port}/3")
        with opened(PLAN) as store:
            store.write(rows(row()))
            assert value(store) == 1.0
        with Redis(port=port, password="a b@c", db=3) as client:
            assert client.dbsize() == 2
        monkeypatch.setattr(settings(), "redis_url", f"redis://:wrong@127.0.0.1:{port}/3")
        with opened(PLAN) as store:
            with pytest.raises(ServiceUnavailableError, match="says: WRONGPASS") as told:
                customers(store, "a")
            assert "wrong@" not in str(told.value)


def test_who_only_reads_needs_no_right_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    with redis(port, tmp_path, "--user", "reader", "on", ">read", "~*", "+@read"):
        monkeypatch.setattr(settings(), "redis_url", f"redis://127.0.0.1:{port}")
        with opened(PLAN) as store:
            store.write(rows(row()))
        monkeypatch.setattr(settings(), "redis_url", f"redis://reader:read@127.0.0.1:{port}")
        with opened(PLAN) as store:
            assert value(store) == 1.0
            with pytest.raises(ServiceUnavailableError, match="says: NOPERM"):
                store.write(rows(row()))


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://host/", "redis://", "redis://h:port"])
def test_url_of_another_kind_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "redis_url", url)
    with pytest.raises(PenstockError, match="give redis://host:port/database"):
        OnlineStore(PLAN)


def test_reader_is_light_to_import() -> None:
    script = (
        "import sys, features.online\n"
        "print(sorted({'feast', 'pandas', 'redis', 'deltalake'} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n", told.stdout

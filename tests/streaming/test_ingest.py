"""Ingest against a real broker: what passes, what is refused, and what a crash repeats."""

import dataclasses
import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from features.errors import PenstockError
from features.fold import Fold
from features.settings import settings
from features.wire import NEVER_US, DeadLetter, dead_letter_topic, late_topic, partition_of
from streaming import topics
from streaming.ingest import Ingest
from streaming.markers import Stamp
from streaming.tokenise import Tokeniser
from tests.features.rows import batch
from tests.streaming.chain import (
    TOKEN_KEY,
    committed,
    ingest,
    plan_of,
    read,
    read_rows,
    refund,
    running,
    sale,
    send,
    service,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _kafka(stack) -> None:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")


def test_topics_and_schemas_are_created_once() -> None:
    plan = plan_of("t_topics")
    created = topics.ensure(plan)
    assert f"topic {plan.event_topic}" in created
    assert f"topic {dead_letter_topic(plan.label_topic)}" in created
    assert f"schema {plan.event_topic}-value" in created
    assert topics.ensure(plan) == []


def test_topic_with_other_partitions_is_refused() -> None:
    plan = plan_of("t_partitions")
    topics.ensure(plan)
    with pytest.raises(PenstockError, match="has 4 partitions, the plan of 't_partitions' has 5"):
        topics.ensure(dataclasses.replace(plan, partitions=5))


def test_accepted_rows_reach_the_log_of_their_stage() -> None:
    plan = plan_of("t_accepted")
    topics.ensure(plan)
    send(plan.event_topic, 1, [sale(0, 10), sale(1, 5, "p2"), sale(2, 20)])
    send(plan.label_topic, 2, [refund(0, 10)])
    send(plan.event_topic, 0, [sale(100 + i, i, f"p{i}") for i in range(40)])
    with running(ingest(plan)):
        rows = {row["event_id"]: row for row in read_rows(plan, plan.stages[0].topic, 43)}
        labels = read_rows(plan, plan.stages[1].topic, 1)
    token = Tokeniser(bytes.fromhex(TOKEN_KEY)).token
    assert rows["s1"] | {"broker_time_us": 0} == dict.fromkeys(rows["s1"]) | {
        "kind": 0,
        "verdict": 0,
        "origin_log": 0,
        "origin_partition": 1,
        "origin_offset": 1,
        "position_log": 0,
        "position_partition": 1,
        "position_seq": 1 << 20,
        # The newest event before it in its raw partition.
        "watermark_us": 1767571200000000 + 10_000_000,
        "broker_time_us": 0,
        "event_id": "s1",
        "event_time_us": 1767571200000000 + 5_000_000,
        "person_id": token("p2"),
        "shop_id": "shop1",
        "price": 101,
    }
    assert abs(rows["s1"]["broker_time_us"] / 1e6 - time.time()) < 300
    assert rows["s2"]["watermark_us"] == 1767571200000000 + 20_000_000
    assert (labels[0]["kind"], labels[0]["refunded"], labels[0]["price"]) == (1, 1, None)
    assert (labels[0]["origin_log"], labels[0]["position_partition"]) == (1, 2)
    partitions = set()
    for message in read(plan.stages[0].topic, plan.partitions, lambda m: len(m) >= 4):
        for row in _rows(plan, message):
            assert message.partition() == partition_of(row["person_id"], plan.partitions)
            partitions.add(message.partition())
    assert len(partitions) > 1


def _rows(plan, message):  # type: ignore[no-untyped-def]
    from features.wire import KIND_MARKER, decode

    rows = decode(plan, message.value()).to_pylist()
    return [row for row in rows if row["kind"] != KIND_MARKER]


def broken_records() -> list[tuple[bytes | None, str]]:
    good = sale(7, 30)
    return [
        (json.dumps(good | {"colour": "red"}).encode(), "unknown_field"),
        (json.dumps({k: v for k, v in good.items() if k != "shop_id"}).encode(), "missing_field"),
        (json.dumps(good | {"shop_id": 4}).encode(), "wrong_type"),
        (json.dumps(good | {"price": {"minor": -1, "currency": "EUR"}}).encode(), "out_of_range"),
        (
            json.dumps(good | {"price": {"minor": 1, "currency": "XTS"}}).encode(),
            "unknown_currency",
        ),
        (json.dumps(good | {"at": "2200-01-01T00:00:00Z"}).encode(), "time_in_future"),
        (json.dumps(good | {"shop_id": "x" * 70_000}).encode(), "oversize"),
        (b"", "empty"),
        (None, "empty"),
        (b"hello", "not_json"),
        (b'{"shop_id": 4, ' + json.dumps(good).encode()[1:], "not_json"),
        (json.dumps(good).encode().replace(b"shop1", b"shop\xff"), "invalid_utf8"),
    ]


def test_each_broken_record_is_one_dead_letter_and_the_stream_goes_on() -> None:
    plan = plan_of("t_broken")
    topics.ensure(plan)
    broken = broken_records()
    send(plan.event_topic, 3, [raw for raw, _ in broken], key=b"who")
    send(plan.event_topic, 3, [sale(8, 40)])
    send(plan.label_topic, 0, [refund(1, 1) | {"refunded": "yes"}, refund(8, 40)])
    with running(ingest(plan)):
        assert [r["event_id"] for r in read_rows(plan, plan.stages[0].topic, 1)] == ["s8"]
        assert [r["event_id"] for r in read_rows(plan, plan.stages[1].topic, 1)] == ["s8"]
        letters = read(
            dead_letter_topic(plan.event_topic), plan.partitions, lambda m: len(m) >= len(broken)
        )
        label_letters = read(dead_letter_topic(plan.label_topic), plan.partitions, lambda m: m)
    assert len(letters) == len(broken)
    for offset, (letter, (raw, reason)) in enumerate(zip(letters, broken, strict=True)):
        said = DeadLetter.from_headers(letter.headers())
        assert (said.topic, said.partition, said.offset) == (plan.event_topic, 3, offset)
        assert said.reason == reason
        assert (letter.value(), letter.key(), letter.partition()) == (raw, b"who", 3)
    said = DeadLetter.from_headers(label_letters[0].headers())
    assert (said.topic, said.reason) == (plan.label_topic, "wrong_type")


def test_dead_letter_stands_behind_the_records_own_headers() -> None:
    plan = plan_of("t_letter_headers")
    topics.ensure(plan)
    own = [("trace", b"\xff\x00"), ("trace", b"2"), ("none", None)]
    theirs = [("__streams.errors.offset", b"77"), ("penstock.reason", b"mine")]
    producer = Producer({"bootstrap.servers": settings().kafka_bootstrap})
    producer.produce(plan.event_topic, b"{", b"who", partition=1, headers=[*own, *theirs])
    assert producer.flush(30) == 0
    with running(ingest(plan)):
        (letter,) = read(dead_letter_topic(plan.event_topic), plan.partitions, lambda m: m)
    assert letter.headers()[:5] == [*own, *theirs]
    (raw,) = read(plan.event_topic, plan.partitions, lambda m: m)
    said = dict(letter.headers()[5:])
    message = said.pop("__streams.errors.message")
    assert b"truncated" in message
    # The names of KIP-1034, and ours.
    assert said == {
        "__streams.errors.exception": b"ContractError",
        "__streams.errors.topic": plan.event_topic.encode(),
        "__streams.errors.partition": b"1",
        "__streams.errors.offset": b"0",
        "penstock.reason": b"not_json",
        "penstock.broker_time_ms": str(raw.timestamp()[1]).encode(),
    }
    assert DeadLetter.from_headers(letter.headers()).reason == "not_json"


def test_late_event_goes_to_the_late_topic_and_lateness_survives_a_restart() -> None:
    plan = plan_of("t_late")
    topics.ensure(plan)
    hour_s = 3600
    send(plan.event_topic, 0, [sale(0, 3 * hour_s), sale(1, 2 * hour_s)])
    with running(ingest(plan)):
        read_rows(plan, plan.stages[0].topic, 2)
    # The newest event was read by a process that is gone: its commit must tell.
    send(plan.event_topic, 0, [sale(2, 2 * hour_s - 1), sale(3, 2 * hour_s), sale(4, 0)])
    send(plan.event_topic, 1, [sale(5, 0)])
    with running(ingest(plan)):
        late = read_rows(plan, late_topic(plan.event_topic), 2)
        accepted = read_rows(plan, plan.stages[0].topic, 4)
    assert {row["event_id"] for row in late} == {"s2", "s4"}
    assert {row["verdict"] for row in late} == {2}
    assert {row["watermark_us"] for row in late} == {1767571200000000 + 3 * hour_s * 1_000_000}
    assert {row["event_id"] for row in accepted} == {"s0", "s1", "s3", "s5"}


def test_killed_ingest_repeats_only_equal_rows(tmp_path: Path) -> None:
    plan = plan_of("t_killed")
    topics.ensure(plan)
    total = 60_000
    for partition in range(plan.partitions):
        numbers = range(partition, total, plan.partitions)
        send(plan.event_topic, partition, [sale(n, n / 10, f"p{n % 50}") for n in numbers])
    with service("ingest", plan, tmp_path) as process:
        read_rows(plan, plan.stages[0].topic, 500)
        process.kill()
        process.wait()
    seen: set[str] = set()
    with running(ingest(plan)):
        messages = read(
            plan.stages[0].topic,
            plan.partitions,
            lambda found: len(_collect(plan, found, seen)) >= total,
        )
    by_position: dict[tuple[int, int], dict[str, object]] = {}
    folded: Counter[str] = Counter()
    folds = {p: Fold(plan, 0) for p in range(plan.partitions)}
    sent = 0
    for message in sorted(messages, key=lambda m: (m.partition(), m.offset())):
        rows = _rows(plan, message)
        sent += len(rows)
        for row in rows:
            at = (row["position_partition"], row["position_seq"])
            assert by_position.setdefault(at, row) == row
        fold = folds[message.partition()]
        out = fold.fold(batch(plan, rows), message.partition(), message.offset())
        folded.update(out.column("event_id").to_pylist())
    assert sent > total, "the kill met nothing that was not yet committed"
    assert len(folded) == total
    assert set(folded.values()) == {1}


def _collect(plan, messages, seen):  # type: ignore[no-untyped-def]
    if messages:
        seen.update(row["event_id"] for row in _rows(plan, messages[-1]))
    return seen


def test_commit_names_the_token_key_and_another_key_is_refused() -> None:
    plan = plan_of("t_other_key")
    topics.ensure(plan)
    send(plan.event_topic, 2, [sale(0, 10)])
    with running(ingest(plan)):
        read_rows(plan, plan.stages[0].topic, 1)
    key_id = Tokeniser(bytes.fromhex(TOKEN_KEY)).key_id
    stamp = Stamp.of(committed(plan, "ingest", plan.event_topic)[2].metadata)
    assert (stamp.watermark_us, stamp.key_id) == (1767571200000000 + 10_000_000, key_id)
    other = Tokeniser(b"another key of 32 bytes, for now")
    stop = threading.Event()
    with pytest.raises(PenstockError) as refused:
        Ingest(plan, other).run(stop)
    for word in (key_id, other.key_id, "a new version"):
        assert word in str(refused.value)
    # A new version has a group, and so a state, of its own.
    stop.set()
    Ingest(dataclasses.replace(plan, version=2), other).run(stop)
    assert committed(plan, "ingest", plan.event_topic)[2].offset == 1


def test_commit_of_before_keys_were_noted_is_read_on_from() -> None:
    plan = plan_of("t_old_commit")
    topics.ensure(plan)
    hour_us = 3_600_000_000
    watermark_us = 1767571200000000 + 3 * hour_us
    send(plan.event_topic, 0, [sale(0, 3 * 3600), sale(1, 0), sale(2, 3 * 3600)])
    group = f"penstock.{plan.name}.v{plan.version}.ingest"
    consumer = Consumer({"bootstrap.servers": settings().kafka_bootstrap, "group.id": group})
    old = TopicPartition(plan.event_topic, 0, 1, metadata=str(watermark_us))
    consumer.commit(offsets=[old], asynchronous=False)
    consumer.close()
    with running(ingest(plan)):
        (late,) = read_rows(plan, late_topic(plan.event_topic), 1)
        (accepted,) = read_rows(plan, plan.stages[0].topic, 1)
    assert (late["event_id"], accepted["event_id"]) == ("s1", "s2")
    assert Stamp.of(committed(plan, "ingest", plan.event_topic)[0].metadata).key_id
    assert Stamp.of("") == Stamp.of(None) == Stamp(NEVER_US)
    assert str(Stamp.of("7 raised 0123abcd")) == "7 raised 0123abcd"

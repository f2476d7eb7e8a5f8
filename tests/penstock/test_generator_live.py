"""Live runs against a real broker: what arrives, in which order, and what is refused beforehand."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, NewTopic

from features.catalog import load_plan
from features.errors import PenstockError, ServiceUnavailableError
from features.plan import Plan
from features.settings import settings
from features.wire import partition_of
from penstock.generator.faults import BROKEN_KINDS, FAULT_HEADER, NO_FAULTS, Faults
from penstock.generator.live import LiveReport, LiveRun
from penstock.generator.payments import PaymentWorld, to_us
from streaming.broker import read_all
from tests.conftest import SessionStack

START = datetime(2026, 1, 5, tzinfo=UTC)
LIVE = START + timedelta(days=20)
SCALE = 172_800.0
PARTITIONS = 4


def own_plan(name: str) -> Plan:
    """The flagship's plan on raw topics of this test alone."""
    plan = load_plan("card_fraud")
    assert plan.label is not None
    label = dataclasses.replace(plan.label, topic=f"{name}.chargeback.v1")
    return dataclasses.replace(plan, event_topic=f"{name}.transaction.v1", label=label)


def make_topics(stack: SessionStack, plan: Plan) -> None:
    bootstrap = stack.require("kafka").environment()["PENSTOCK_KAFKA_BOOTSTRAP"]
    topics = [NewTopic(name, PARTITIONS, 1) for name in (plan.event_topic, plan.label_topic)]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics(topics).values():
        made.result(20)


def world(per_day: float = 3500.0) -> PaymentWorld:
    return PaymentWorld(1, 1500, None, per_day, START)


def fault_of(message: Message) -> str:
    return dict(message.headers() or []).get(FAULT_HEADER, b"").decode()


def received(plan: Plan) -> list[Message]:
    return sorted(read_all(plan.event_topic), key=lambda m: (m.partition(), m.offset()))


@pytest.mark.slow
def test_run_with_faults_and_drift_sends_what_it_reports(stack: SessionStack) -> None:
    plan = own_plan("generator-faults")
    make_topics(stack, plan)
    run = LiveRun(world(), plan, LIVE, SCALE, 3.0, Faults(), seed=1)

    def progress(report: LiveReport) -> None:
        if report.elapsed_s > 1.2:
            run.drift_on()

    report = run.run(progress)
    assert report.unacknowledged == 0
    assert report.until == LIVE + timedelta(days=6)
    assert report.drift_at is not None
    assert LIVE < report.drift_at < report.until

    newest: dict[int, int] = {}
    counts: Counter[str] = Counter()
    first: dict[str, tuple[bytes, dict[str, object]]] = {}
    messages = received(plan)
    for message in messages:
        if fault_of(message):
            counts[fault_of(message)] += 1
            continue
        record = msgspec.json.decode(message.value())
        assert message.key().decode() == record["customer_id"]
        assert message.partition() == partition_of(record["customer_id"], PARTITIONS)
        event_id = record["transaction_id"]
        if event_id in first:
            assert first[event_id][0] == message.value()
            counts["duplicate"] += 1
            continue
        first[event_id] = (message.value(), record)
        time_us = to_us(datetime.fromisoformat(record["event_time"]))
        behind_us = newest.get(message.partition(), time_us) - time_us
        counts["late"] += behind_us > plan.lateness_us
        counts["out of order"] += 0 < behind_us <= plan.lateness_us
        newest[message.partition()] = max(newest.get(message.partition(), time_us), time_us)

    paid = world().with_drift(report.drift_at).payments(to_us(LIVE), to_us(report.until))
    assert len(first) == report.payments == len(paid)
    for row in paid.table().to_pylist():
        record = first[row["event_id"]][1]
        assert record["amount"] == {"minor": row["amount_minor"], "currency": "EUR"}
    assert counts["duplicate"] == report.duplicates >= 150
    assert counts["late"] == report.late >= 150
    assert counts["out of order"] == report.out_of_order >= 150
    assert {kind: counts[kind] for kind in BROKEN_KINDS} == report.broken
    assert min(report.broken.values()) >= 3

    labels = [msgspec.json.decode(m.value()) for m in read_all(plan.label_topic)]
    known = run.world.labels(to_us(LIVE), to_us(report.until))
    assert len(labels) == report.labels == len(known)
    expected = Counter(known.table()["event_id"].to_pylist())
    assert Counter(label["transaction_id"] for label in labels) == expected
    pending = [label for label in labels if label["event_time"] < f"{LIVE:%Y-%m-%d}"]
    assert len(pending) > 50
    verdicts: dict[str, set[bool]] = {}
    for label in labels:
        verdicts.setdefault(label["transaction_id"], set()).add(label["is_fraud"])
    assert sum(len(each) == 2 for each in verdicts.values()) == report.labels_changed >= 100


@pytest.mark.slow
def test_run_keeps_the_scaled_clock(stack: SessionStack) -> None:
    plan = own_plan("generator-clock")
    make_topics(stack, plan)
    run = LiveRun(world(), plan, LIVE, SCALE, 2.0, NO_FAULTS, seed=1)
    assert run.rate == pytest.approx(7000)
    seen: list[tuple[float, datetime, int]] = []
    run.run(lambda r: seen.append((r.elapsed_s, r.event_time, r.payments)))
    for elapsed_s, event_time, payments in seen:
        expected = LIVE + timedelta(seconds=elapsed_s * SCALE)
        assert abs(event_time - expected) < timedelta(milliseconds=1)
        paid = world().payments(to_us(LIVE), to_us(event_time))
        assert payments == pytest.approx(len(paid), abs=1)
    broker_ms = np.array([message.timestamp()[1] for message in received(plan)])
    assert broker_ms.max() - broker_ms.min() > 500


@pytest.mark.slow
def test_stopped_run_ends_where_it_says_and_can_be_continued(stack: SessionStack) -> None:
    plan = own_plan("generator-stop")
    make_topics(stack, plan)
    stop = threading.Event()

    def progress(report: LiveReport) -> None:
        if report.elapsed_s > 0.3:
            stop.set()

    first = LiveRun(world(), plan, LIVE, SCALE, 60.0, Faults(), seed=1).run(progress, stop)
    assert first.until < LIVE + timedelta(days=8)
    second = LiveRun(world(), plan, first.until, SCALE, 0.5, Faults(), seed=1).run()
    valid = [m for m in received(plan) if not fault_of(m)]
    ids = {msgspec.json.decode(m.value())["transaction_id"] for m in valid}
    paid = world().payments(to_us(LIVE), to_us(second.until))
    assert ids == set(paid.table()["event_id"].to_pylist())
    assert len(valid) == len(ids) + first.duplicates + second.duplicates


@pytest.mark.slow
def test_missing_topic_is_named(stack: SessionStack) -> None:
    stack.require("kafka")
    run = LiveRun(world(), own_plan("generator-nowhere"), LIVE, SCALE, 1.0, NO_FAULTS, seed=1)
    with pytest.raises(PenstockError, match=r"generator-nowhere.*does not exist; `penstock apply`"):
        run.run()


@pytest.mark.slow
def test_absent_broker_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "kafka_bootstrap", "127.0.0.1:1")
    run = LiveRun(world(), own_plan("generator-down"), LIVE, SCALE, 1.0, NO_FAULTS, seed=1)
    with pytest.raises(ServiceUnavailableError, match=r"does not answer at 127.0.0.1:1; `penstock"):
        run.run()


def test_event_time_must_not_overtake_the_real_clock() -> None:
    soon = datetime.now(UTC) - timedelta(hours=1)
    with pytest.raises(PenstockError, match="past the real clock"):
        LiveRun(world(), own_plan("x"), soon, SCALE, 60.0, NO_FAULTS, seed=1)

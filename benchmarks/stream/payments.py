"""What is sent: payments of the generator, and a history that fills the state with keys."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
from confluent_kafka import Producer

from features.plan import Plan
from features.settings import settings
from penstock.generator.faults import NO_FAULTS
from penstock.generator.history import HistoryWriter
from penstock.generator.payments import PaymentWorld, customer_ids, event_ids, terminal_ids
from penstock.generator.records import RecordWriter
from streaming.bootstrap import bootstrap

START = datetime(2026, 1, 5, tzinfo=UTC)
SPAN_DAYS = 45
PAYMENTS_A_CUSTOMER = 50
HISTORY_DAYS = 20
"""Shorter than the longest window, so that nothing of the history leaves it during a run."""

DAY_US = 86_400_000_000

Record = tuple[int, bytes, bytes, int]
"""(partition, key, value, event time µs)."""


def payments(events: int, partitions: int) -> list[Record]:
    """The first payments of a world, in order of time, as producers send them."""
    customers = max(10, events // PAYMENTS_A_CUSTOMER)
    world = PaymentWorld(1, customers, None, 1.05 * events / SPAN_DAYS, START)
    writer = RecordWriter(1, NO_FAULTS, 0, partitions, partitions)
    drawn: list[Record] = []
    for day in range(10 * SPAN_DAYS):
        from_us = world.start_us + day * DAY_US
        for record in writer.payments(world.payments(from_us, from_us + DAY_US)):
            drawn.append((record.partition, record.key, record.value, record.event_time_us))
        if len(drawn) >= events:
            break
    return drawn[:events]


def preload(topic: str, records: list[Record], *, event_time: bool = False) -> None:
    """Send records and wait until the broker has them; `event_time` is to be their timestamp."""
    producer = Producer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "enable.idempotence": True,
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for partition, key, value, time_us in records:
        while True:
            try:
                producer.produce(
                    topic, value, key, partition, timestamp=time_us // 1000 if event_time else 0
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    assert producer.flush(60) == 0


def fill_state(plan: Plan, keys: int) -> dict[str, int]:
    """Bootstrap a history in which two thirds of the keys are customers and one third terminals.

    Returns:
        How many there are of each.
    """
    customers, terminals = 2 * keys // 3, keys - 2 * keys // 3
    number = np.arange(customers)
    times = np.linspace(
        time.time_ns() // 1000 - HISTORY_DAYS * DAY_US, time.time_ns() // 1000 - DAY_US, customers
    )
    HistoryWriter(plan).append_events(
        event_ids(number),
        times.astype(np.int64),
        {
            "customer_id": customer_ids(number.astype(np.int32)),
            "terminal_id": terminal_ids((number % terminals).astype(np.int32)),
            "amount": number % 10_000,
        },
    )
    bootstrap(plan)
    return {"customers": customers, "terminals": terminals}

"""Sends payments on a schedule: each when its time has come, whatever became of those before it.

`python -m benchmarks.stream.sender TOPIC --rate … ` is a process of its own. On a clock that is not
scaled the event time of a payment is the moment it is meant to be sent, so that whoever sees it
later knows how late it is. Prints how late it sent at worst.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from datetime import UTC, datetime

import numpy as np
from confluent_kafka import Producer

from features.settings import settings

CHUNK = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--customers", type=int, required=True)
    parser.add_argument("--terminals", type=int, required=True)
    parser.add_argument("--begin-us", type=int, required=True, help="when the first one is due")
    parser.add_argument("--scale", type=float, default=1.0, help="event seconds a second")
    parser.add_argument("--event-begin-us", type=int, default=0, help="where a scaled clock begins")
    parser.add_argument("--partitions", type=int, default=4)
    given = parser.parse_args()
    print(json.dumps(send(given)))


def send(given: argparse.Namespace) -> dict[str, float]:
    """The open loop."""
    producer = Producer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "enable.idempotence": True,
            "linger.ms": 1,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    rng = np.random.default_rng(7)
    total = int(given.rate * given.seconds)
    begin_us, step_us = given.begin_us, 1e6 / given.rate
    event_begin_us = given.event_begin_us or begin_us
    sent, slip_us = 0, 0
    second, prefix = -1, ""
    customers: list[int] = []
    terminals: list[int] = []
    amounts: list[int] = []
    while sent < total:
        now_us = time.time_ns() // 1000
        due = min(total, int((now_us - begin_us) / step_us) + 1) if now_us >= begin_us else 0
        if due > sent:
            slip_us = max(slip_us, int(now_us - begin_us - sent * step_us))
        while sent < due:
            at = sent % CHUNK
            if at == 0:
                customers = rng.integers(0, given.customers, CHUNK).tolist()
                terminals = rng.integers(0, given.terminals, CHUNK).tolist()
                amounts = rng.integers(100, 20_000, CHUNK).tolist()
            time_us = event_begin_us + int(sent * step_us * given.scale)
            if time_us // 1_000_000 != second:
                second = time_us // 1_000_000
                prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            key = b"c%08d" % customers[at]
            value = (
                f'{{"transaction_id":"l{sent:012d}","event_time":"{prefix}.'
                f'{time_us % 1_000_000:06d}Z","customer_id":"{key.decode()}",'
                f'"terminal_id":"t{terminals[at]:08d}",'
                f'"amount":{{"minor":{amounts[at]},"currency":"EUR"}}}}'
            )
            producer.produce(given.topic, value, key, zlib.crc32(key) % given.partitions)
            sent += 1
        producer.poll(0)
        time.sleep(0.001)
    unsent = producer.flush(60)
    return {"sent": sent - unsent, "worst_slip_ms": round(slip_us / 1000, 1)}


if __name__ == "__main__":
    main()

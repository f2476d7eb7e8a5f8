"""Faust's own way of the same features, drained beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faust
import msgspec
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from benchmarks.report import say
from benchmarks.stream import payments, topics
from benchmarks.stream.payments import Record
from benchmarks.stream.services import PATIENCE_S, PROJECT
from benchmarks.update import hopping
from penstock.stack.logs import last_lines
from streaming.broker import admin

WORKERS = 2
"""One on each core; ours are three processes."""

PARTITIONS = 4
WARM_UP = 64
COMPARED_KEYS = 20


class Made(msgspec.Struct):
    """A record of the peer's last topic."""

    transaction_id: str
    customer_id: str
    features: dict[str, float]


read_made = msgspec.json.Decoder(Made).decode


def drain_by_faust(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """Rate at which Faust's agents drain `records`, from their sending to the last features.

    Args:
        folder: receives the workers' logs.
        records: in order of time.
    """
    group = "bench-faust"
    paid, by_terminal, made = (f"{group}.{name}" for name in ("paid", "terminal", "features"))
    create({paid: {}, by_terminal: {}, made: {"message.timestamp.type": "LogAppendTime"}})
    with workers(folder, group, paid, by_terminal, made) as alive:
        say("faust: starting")
        payments.preload(paid, warm_up(records), event_time=True)
        watch = Watch(made, alive)
        watch.wait(WARM_UP)
        # The second worker may still be taking over its partitions.
        time.sleep(5)
        say(f"faust: draining {len(records):,} events")
        began_ms = time.time() * 1000
        payments.preload(paid, list(records), event_time=True)
        watch.wait(WARM_UP + len(records))
        watch.close()
    seconds = (watch.last_ms - began_ms) / 1000
    return {
        "events": len(records),
        "seconds": round(seconds, 2),
        "events_per_s": round(len(records) / seconds),
        "values_compared": compare(watch.made, records),
        "version": faust.__version__,
        "settings": f"{WORKERS} workers, tables in memory without changelog, no model",
    }


def create(wanted: dict[str, dict[str, str]]) -> None:
    """Create topics with these settings."""
    new = [NewTopic(name, PARTITIONS, config=config) for name, config in wanted.items()]
    client = admin()
    for outcome in client.create_topics(new).values():
        outcome.result(20)


def warm_up(records: Sequence[Record]) -> list[Record]:
    """Payments of customers and terminals that nobody else has, on every partition."""
    made = []
    for number in range(WARM_UP):
        _, key, value, time_us = records[0]
        found = msgspec.json.decode(value)
        names = dict.fromkeys(("transaction_id", "customer_id", "terminal_id"), f"warm{number}")
        made.append((number % PARTITIONS, key, msgspec.json.encode(found | names), time_us))
    return made


@contextmanager
def workers(folder: Path, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers of the group, ended with the block."""
    started = []
    log = folder / "faust.log"
    try:
        for _ in range(WORKERS):
            with log.open("ab") as out:
                command = [sys.executable, "-m", "benchmarks.stream.faust_windows", *arguments]
                started.append(
                    subprocess.Popen(command, cwd=PROJECT, env=os.environ, stdout=out, stderr=out)
                )
        yield started
    except BaseException:
        say(f"faust's workers said last:\n{last_lines(log, 20)}")
        raise
    finally:
        for process in started:
            process.kill()
            process.wait()


class Watch:
    """What the workers have made so far; a rebalance may have them make it twice."""

    def __init__(self, topic: str, alive: list[subprocess.Popen[bytes]]) -> None:
        self._consumer = topics.consumer()
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        self._alive = alive
        self.made: dict[str, Made] = {}
        self.last_ms = 0

    def wait(self, wanted: int) -> None:
        """Read until so many payments have features."""
        until = time.monotonic() + PATIENCE_S
        while len(self.made) < wanted:
            for message in self._consumer.consume(1000, 0.2):
                if message.error() is None:
                    found = read_made(message.value())
                    if found.transaction_id not in self.made:
                        self.last_ms = message.timestamp()[1]
                    self.made[found.transaction_id] = found
            assert time.monotonic() < until, f"Faust has made {len(self.made)} of {wanted}"
            assert all(process.poll() is None for process in self._alive), "a Faust worker ended"

    def close(self) -> None:
        self._consumer.close()


def compare(made: dict[str, Made], records: Sequence[Record]) -> int:
    """Hold some customers' windows against what hopping windows mean; returns how many agree."""
    wanted = {key.decode() for _, key, _, _ in records[:COMPARED_KEYS]}
    sent: dict[str, list[tuple[str, tuple[str, int, int]]]] = defaultdict(list)
    for _, key, value, time_us in records:
        customer = key.decode()
        if customer in wanted:
            payment = msgspec.json.decode(value)
            row = customer, time_us // 1000, payment["amount"]["minor"]
            sent[customer].append((payment["transaction_id"], row))
    compared = 0
    for of_customer in sent.values():
        expected = hopping([row for _, row in of_customer])
        for (number, _), windows in zip(of_customer, expected, strict=True):
            for days, (count, mean) in zip((1, 7, 30), windows, strict=True):
                found = made[number].features
                assert found[f"customer_count_{days}d"] == count
                assert abs(found[f"customer_amount_mean_{days}d"] - mean) < 1e-9 * mean
                compared += 2
    return compared

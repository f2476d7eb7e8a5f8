"""How late a score is: from the moment a payment is meant to be sent until its score is visible.

Beside it the same schedule over as many plain confluent-kafka hops, the last one transactional.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import TopicPartition

from benchmarks.report import say
from benchmarks.stream import topics
from benchmarks.stream.drain import logs, per_1000, wait_until_ready
from benchmarks.stream.payments import fill_state
from benchmarks.stream.peer_faust import create
from benchmarks.stream.services import PROJECT, Services, services
from benchmarks.stream.stack import use
from features.plan import Plan
from penstock.stack.stack import Stack
from streaming.topics import ensure

PARTITIONS = 4
GIVE_UP_S = 60.0
"""How long after the last payment its score may come."""


class Seen(msgspec.Struct):
    """A payment or its score: when it was meant to be sent."""

    event_time: datetime


read_seen = msgspec.json.Decoder(Seen).decode


class Latencies:
    """What a `read_committed` consumer sees of a topic from now on: (meant to be sent, seen), s."""

    def __init__(self, topic: str) -> None:
        self._consumer = topics.consumer()
        self._consumer.assign(
            [
                TopicPartition(topic, partition, end)
                for partition, end in enumerate(topics.ends(topic, PARTITIONS))
            ]
        )
        self.sent_s = array("d")
        self.seen_s = array("d")

    def read(self, timeout_s: float = 0.1) -> None:
        """Take what is visible now; waits so long where nothing is."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return
        messages = [first, *self._consumer.consume(10_000, 0)]
        seen_s = time.time()
        for message in messages:
            assert message.error() is None, message.error()
            self.sent_s.append(read_seen(message.value()).event_time.timestamp())
            self.seen_s.append(seen_s)

    def close(self) -> None:
        self._consumer.close()

    def told(self, warm_up_s: float) -> dict[str, Any]:
        """Percentiles after the first seconds, and of each quarter, which shows a growing lag."""
        sent, seen = np.array(self.sent_s), np.array(self.seen_s)
        late_ms = (seen - sent)[sent >= sent.min() + warm_up_s] * 1000
        at = sent[sent >= sent.min() + warm_up_s]
        quarters = np.array_split(late_ms[np.argsort(at, kind="stable")], 4)
        return {
            "measured": len(late_ms),
            **{f"p{q}_ms": round(float(np.percentile(late_ms, q)), 1) for q in (50, 95, 99)},
            "max_ms": round(float(late_ms.max()), 1),
            "p50_ms_by_quarter": [round(float(np.median(part)), 1) for part in quarters],
        }


@contextmanager
def sending(topic: str, options: Mapping[str, float]) -> Iterator[subprocess.Popen[str]]:
    """The sender as a process, from two seconds from now on."""
    command = [sys.executable, "-m", "benchmarks.stream.sender", topic]
    begin_us = time.time_ns() // 1000 + 2_000_000
    for name, value in {"begin_us": begin_us, **options}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(
        command, cwd=PROJECT, env=os.environ, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def loop(
    topic: str,
    target: str,
    options: Mapping[str, float],
    meanwhile: Callable[[float], None] = lambda _: None,
) -> tuple[Latencies, dict[str, Any]]:
    """Send and watch until everything is seen.

    Args:
        topic: where payments go.
        target: where each one has to appear.
        options: of the sender.
        meanwhile: called between reads with the seconds since the sender was started.

    Returns:
        What was seen, and what the sender says.
    """
    watch = Latencies(target)
    began = time.monotonic()
    with sending(topic, options) as sender:
        while sender.poll() is None:
            watch.read()
            meanwhile(time.monotonic() - began)
        assert sender.returncode == 0
        assert sender.stdout is not None
        said = json.loads(sender.stdout.read())
    until = time.monotonic() + GIVE_UP_S
    while len(watch.sent_s) < said["sent"] and time.monotonic() < until:
        watch.read()
    watch.close()
    return watch, said | {"seen": len(watch.sent_s)}


def open_loop(stack: Stack, name: str, rate: int, seconds: int, keys: int) -> dict[str, Any]:
    """Ours and the peer at one rate."""
    plan = use(stack, name)
    ensure(plan)
    say(f"{name}: filling the state with {keys:,} keys")
    held = fill_state(plan, keys)
    options = {"rate": rate, "seconds": seconds, **held}
    warm_up_s = min(10.0, seconds / 5)
    with chain(stack, plan) as running:
        say(f"{name}: {rate:,} events/s for {seconds} s")
        before = running.cpu_s()
        watch, said = loop(plan.event_topic, plan.scored_topic, options)
        used = per_1000(before, running.cpu_s(), said["sent"])
        sizes = running.metric("stages", "penstock_stage_snapshot_bytes")
    assert said["seen"] == said["sent"], said
    topics.delete([plan.event_topic, *logs(plan), plan.scored_topic])
    ours = watch.told(warm_up_s) | said
    ours |= {"cpu_s_per_1000_events": used, "snapshots_mib": round(sizes / 2**20, 1)}
    say(f"{name}: the same over plain hops")
    hops = [f"{name}.hop{number}" for number in range(len(plan.stages) + 3)]
    create({hop: {} for hop in hops})
    with plain_hops(hops):
        watch, said = loop(hops[0], hops[-1], options)
    topics.delete(hops)
    peer = watch.told(warm_up_s) | said | {"hops": len(hops) - 1}
    return {
        "rate": rate,
        "keys": keys,
        "penstock": ours,
        "peers": {"confluent-kafka hops, the last one transactional": peer},
        "times_p99_of_peer": round(ours["p99_ms"] / peer["p99_ms"], 2),
    }


@contextmanager
def chain(stack: Stack, plan: Plan) -> Iterator[Services]:
    """The services of a set, ready to take events."""
    with services(stack, plan) as running:
        for service in ("stages", "scorer", "ingest"):
            running.start(service)
        wait_until_ready(running, plan)
        group = f"penstock.{plan.name}.v{plan.version}.ingest"
        running.wait("ingest", lambda: topics.is_reading(group, plan.partitions))
        yield running


@contextmanager
def plain_hops(names: Sequence[str]) -> Iterator[None]:
    """A process for each hop from one topic to the next; the last one is transactional."""
    started = []
    try:
        for source, target in pairwise(names):
            last = ["--transactional"] if target == names[-1] else []
            command = [sys.executable, "-m", "benchmarks.stream.hops", source, target, *last]
            started.append(subprocess.Popen(command, cwd=PROJECT, env=os.environ))
        for source in names[:-1]:
            while not topics.is_reading(f"hop-{source}", PARTITIONS):
                assert all(process.poll() is None for process in started), "a hop ended"
                time.sleep(0.2)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()

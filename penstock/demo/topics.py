"""Accounts for every raw record: reads the topics themselves and asks what became of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from features.plan import Plan
from features.wire import (
    DUPLICATE,
    KIND_EVENT,
    LOG_EVENTS,
    DeadLetter,
    Dealt,
    dead_letter_topic,
    decode,
    late_topic,
)
from penstock.generator.faults import FAULT_HEADER
from streaming.broker import read_all

Origin = tuple[int, int]


@dataclass
class Account:
    """What became of each raw record, by its partition and offset."""

    produced: set[Origin]
    broken: dict[Origin, str]
    scored: dict[Origin, int]
    scored_ids: dict[str, int]
    duplicates: set[Origin]
    late: set[Origin]
    dead: dict[Origin, list[str]]
    latencies_ms: list[int]
    scored_ms: list[int]

    @property
    def missing(self) -> set[Origin]:
        """Raw records without any outcome."""
        return self.produced - self.scored.keys() - self.duplicates - self.late - self.dead.keys()

    @property
    def duplicated(self) -> int:
        """Scores beyond one per record and per event id, and records with two outcomes."""
        again = sum(n - 1 for n in self.scored.values())
        same_id = sum(n - 1 for n in self.scored_ids.values())
        outcomes = (set(self.scored), self.duplicates, self.late, set(self.dead))
        both = sum(len(a & b) for i, a in enumerate(outcomes) for b in outcomes[i + 1 :])
        return max(again, same_id) + both + sum(len(r) - 1 for r in self.dead.values())

    def percentile_ms(self, share: float) -> float:
        """Latency from the broker's time of the raw record to that of its score, in ms."""
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else 0.0

    @property
    def scores_per_second(self) -> float:
        """Scores divided by the time between the first and the last."""
        span_ms = max(self.scored_ms) - min(self.scored_ms) if self.scored_ms else 0
        return 1000 * len(self.scored_ms) / span_ms if span_ms else 0.0


def account(plan: Plan) -> Account:
    """Read the raw topic, every topic its records can end in, and match them by origin."""
    found = Account(set(), {}, {}, {}, set(), set(), {}, [], [])
    raw_ms: dict[Origin, int] = {}
    for message in read_all(plan.event_topic):
        origin = (message.partition(), message.offset())
        found.produced.add(origin)
        raw_ms[origin] = message.timestamp()[1]
        for name, value in message.headers() or []:
            if name == FAULT_HEADER:
                found.broken[origin] = value.decode()
    for message in read_all(plan.scored_topic):
        body: dict[str, Any] = msgspec.json.decode(message.value())
        origin = (body["origin"]["partition"], body["origin"]["offset"])
        found.scored[origin] = found.scored.get(origin, 0) + 1
        event_id = body[plan.id_field]
        found.scored_ids[event_id] = found.scored_ids.get(event_id, 0) + 1
        found.scored_ms.append(message.timestamp()[1])
        if origin in raw_ms:
            found.latencies_ms.append(message.timestamp()[1] - raw_ms[origin])
    found.duplicates = _origins(plan, plan.features_topic, lambda row: row["verdict"] == DUPLICATE)
    found.late = _origins(plan, late_topic(plan.event_topic), lambda row: True)
    seen: set[tuple[Origin, str]] = set()
    for message in read_all(dead_letter_topic(plan.event_topic)):
        headers = message.headers() or []
        if Dealt.from_headers(headers) is not None:
            continue
        letter = DeadLetter.from_headers(headers)
        origin = (letter.partition, letter.offset)
        if (origin, letter.reason) not in seen:
            # A crash of ingest may repeat a dead letter; (origin, reason) is its identity.
            seen.add((origin, letter.reason))
            found.dead.setdefault(origin, []).append(letter.reason)
    return found


def _origins(plan: Plan, topic: str, wanted: Callable[[dict[str, Any]], bool]) -> set[Origin]:
    names = ["kind", "verdict", "origin_log", "origin_partition", "origin_offset"]
    found: set[Origin] = set()
    for message in read_all(topic):
        for row in decode(plan, message.value()).select(names).to_pylist():
            if row["kind"] == KIND_EVENT and row["origin_log"] == LOG_EVENTS and wanted(row):
                found.add((row["origin_partition"], row["origin_offset"]))
    return found

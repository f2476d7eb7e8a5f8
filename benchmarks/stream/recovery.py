"""What a crash costs: the stages' process is killed under load, and started again at once."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from benchmarks.report import say
from benchmarks.stream import topics
from benchmarks.stream.open_loop import chain, loop
from benchmarks.stream.payments import fill_state
from benchmarks.stream.stack import use
from features.plan import Plan
from features.wire import decode
from penstock.stack.stack import Stack
from streaming.topics import ensure

LOADED_S = 15.0
"""Long enough for snapshots of the live stream, from which the restart continues."""

GOES_ON = 4
"""The load lasts so many times as long as it does before the crash."""

ON_TIME_S = 1.0


def recovery(stack: Stack, name: str, rate: int, keys: int, loaded_s: float) -> dict[str, Any]:
    """Seconds from SIGKILL to the first score of a payment that was sent after it."""
    plan = use(stack, name)
    ensure(plan)
    say(f"{name}: filling the state with {keys:,} keys")
    held = fill_state(plan, keys)
    killed_s: list[float] = []
    with chain(stack, plan) as running:
        say(f"{name}: {rate:,} events/s, the stages are killed after {loaded_s:g} s")

        def kill(elapsed_s: float) -> None:
            if elapsed_s > loaded_s and not killed_s:
                killed_s.append(time.time())
                running.kill("stages")
                running.start("stages")

        watch, said = loop(
            plan.event_topic,
            plan.scored_topic,
            {"rate": rate, "seconds": GOES_ON * loaded_s, **held},
            kill,
        )
    assert said["seen"] == said["sent"], said
    killed = killed_s[0]
    after = [
        (seen, seen - sent)
        for sent, seen in zip(watch.sent_s, watch.seen_s, strict=True)
        if sent > killed
    ]
    late = [seen for seen, behind in after if behind > ON_TIME_S]
    topics.assert_scored_once(plan.scored_topic, plan.partitions, said["sent"])
    return {
        "rate": rate,
        "keys": keys,
        "first_score_s": round(min(seen for seen, _ in after) - killed, 2),
        "on_time_again_s": round(max(late, default=killed) - killed, 2),
        "values_compared": compare(plan, held),
        "wanted_at_most": 15,
        **said,
    }


def compare(plan: Plan, held: dict[str, int]) -> int:
    """Hold every count over the longest window against the events; returns how many are equal.

    The history gave each customer one payment, and dealt them to the terminals in turn; all of it
    is inside the window.
    """
    rows: list[dict[str, Any]] = []
    keys = [stage.key_column for stage in plan.stages]
    wanted = ["event_time_us", *keys, *(stage.seq_column for stage in plan.stages)]
    counts = [f"{stage.name}_count_30d" for stage in plan.stages]
    seen: set[int] = set()
    for message in topics.read(plan.features_topic, plan.partitions):
        for row in decode(plan, message.value()).select([*wanted, *counts]).to_pylist():
            # A crash may send a row again.
            place = row[plan.stages[-1].seq_column] * plan.partitions + message.partition()
            if place not in seen:
                seen.add(place)
                rows.append(row)
    compared = 0
    for stage, count in zip(plan.stages, counts, strict=True):
        before: dict[str, list[int]] = defaultdict(list)
        initial: Counter[str] = Counter()
        if stage.index:
            customers, terminals = held["customers"], held["terminals"]
            for number in range(terminals):
                share = customers // terminals + (number < customers % terminals)
                initial[f"t{number:08d}"] = share
        for row in sorted(rows, key=lambda row: row[stage.seq_column]):
            key, at_us = row[stage.key_column], row["event_time_us"]
            before[key].append(at_us)
            arrived = sum(earlier <= at_us for earlier in before[key])
            expected = arrived + (initial[key] if stage.index else 1)
            assert row[count] == expected, (stage.name, row, expected)
            compared += 1
    return compared

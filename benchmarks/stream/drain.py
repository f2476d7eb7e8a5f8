"""How fast preloaded events drain: alone, with the sinks on, and without transactions.

The services start when everything is preloaded, ingest last. Time runs from the first envelope that
ingest sends until every score is visible to a `read_committed` consumer.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.report import say
from benchmarks.stream import payments, topics
from benchmarks.stream.payments import Record
from benchmarks.stream.services import Services, services
from benchmarks.stream.stack import use
from features.plan import Plan
from features.wire import decode
from penstock.stack.stack import Stack
from streaming.topics import ensure

SINKS = ("online-store", "lake-sink")
PLAIN_SCORER = "benchmarks.stream.plain_scorer"
COMPARED_KEYS = 20


def drain(
    stack: Stack, name: str, records: Sequence[Record], *, sinks: bool = False, plain: bool = False
) -> dict[str, Any]:
    """One run over a set of its own.

    Args:
        stack: where it runs.
        name: of the set, which nothing has used yet.
        records: what is drained.
        sinks: with the online store's and the lake's sink.
        plain: the scorer without transactions.
    """
    plan = use(stack, name)
    ensure(plan)
    say(f"{name}: preloading {len(records):,} events")
    payments.preload(plan.event_topic, list(records))
    with services(stack, plan) as running:
        running.start("stages")
        running.start("scorer", *([PLAIN_SCORER] if plain else []))
        for sink in SINKS if sinks else ():
            running.start(sink)
        wait_until_ready(running, plan, sinks=sinks)
        say(f"{name}: draining")
        running.start("ingest")
        running.wait(
            "ingest", lambda: running.metric("ingest", "penstock_ingest_envelopes_total") > 0, 0.02
        )
        before, before_main = running.cpu_s(), running.main_thread_s()
        wanted = len(records)
        running.wait(
            "the last score", lambda: running.metric("scorer", "penstock_scored_total") >= wanted
        )
        partitions = plan.partitions
        running.wait("its end", lambda: topics.is_all_visible(plan.scored_topic, partitions), 0.01)
        visible_ms = time.time() * 1000
        after, after_main = running.cpu_s(), running.main_thread_s()
        batches = int(running.metric("scorer", "penstock_score_batch_seconds_count"))
        caught_up = wait_for_sinks(running, plan, wanted) if sinks else {}
    say(f"{name}: checking the scores")
    topics.assert_scored_once(plan.scored_topic, partitions, wanted)
    spans = {t: topics.span(t, partitions) for t in (*logs(plan), plan.scored_topic)}
    began_ms = spans[plan.stages[0].topic].first_ms
    seconds = (visible_ms - began_ms) / 1000
    compared = compare(plan, records)
    topics.delete([plan.event_topic, *spans])
    return {
        "events": wanted,
        "seconds": round(seconds, 2),
        "events_per_s": round(wanted / seconds),
        "batches_scored": batches,
        "topics": {
            topic.removeprefix(f"penstock.{name}."): {
                "first_s": round((span.first_ms - began_ms) / 1000, 2),
                "complete_s": round((span.last_ms - began_ms) / 1000, 2),
                "messages": span.messages,
            }
            for topic, span in spans.items()
        },
        # From the first envelope on, so that no process's start is in it.
        "cpu_s_per_1000_events": per_1000(before, after, wanted),
        "of_it_in_the_main_thread": per_1000(before_main, after_main, wanted),
        "values_compared": compared,
        **caught_up,
    }


def per_1000(before: dict[str, float], after: dict[str, float], events: int) -> dict[str, float]:
    """What was used between two readings, of 1,000 events."""
    return {each: round((used - before[each]) * 1000 / events, 4) for each, used in after.items()}


def logs(plan: Plan) -> list[str]:
    """The topics between ingest and the scorer."""
    return [*(stage.topic for stage in plan.stages), plan.features_topic]


def wait_until_ready(running: Services, plan: Plan, *, sinks: bool = False) -> None:
    """Stages and scorer hold their partitions, and so have their kernels and their model."""
    groups = {
        f"penstock.{plan.name}.v{plan.version}.stages": len(plan.stages) * plan.partitions,
        f"penstock-{plan.name}-v{plan.version}-scorer": plan.partitions,
    }
    if sinks:
        groups[f"penstock.{plan.name}.v{plan.version}.online-store"] = plan.partitions
    for group, partitions in groups.items():
        running.wait(
            f"the group {group}", lambda g=group, p=partitions: topics.is_reading(g, p), 0.5
        )


def wait_for_sinks(running: Services, plan: Plan, events: int) -> dict[str, Any]:
    """Seconds from the last score until each sink has everything, and what it lacked then."""
    group = f"penstock.{plan.name}.v{plan.version}.online-store"
    began = time.monotonic()

    def online_lag() -> int:
        return topics.lag(group, plan.features_topic, plan.partitions)

    def lake_lag() -> int:
        return sum(
            events - int(running.metric("lake-sink", "penstock_lake_rows_total", table=table))
            for table in ("events", "features", "scores")
        )

    found: dict[str, Any] = {"sinks": {}}
    lags = {"online-store": online_lag, "lake-sink": lake_lag}
    for sink, lag in lags.items():
        unit = "messages" if sink == "online-store" else "rows"
        found["sinks"][sink] = {f"lag_after_drain_{unit}": lag()}
    for sink, lag in lags.items():
        running.wait(f"{sink}'s end", lambda lag=lag: lag() == 0)
        found["sinks"][sink]["caught_up_s"] = round(time.monotonic() - began, 2)
    return found


def compare(plan: Plan, records: Sequence[Record]) -> int:
    """Hold the features of some customers against a plain reading; returns how many were equal.

    A customer's payments are drained in order, those of a terminal are not.
    """
    wanted = {key for _, key, _, _ in records[:COMPARED_KEYS]}
    sent: dict[tuple[int, int], bytes] = {}
    offsets: dict[int, int] = defaultdict(int)
    for partition, key, _, _ in records:
        if key in wanted:
            sent[partition, offsets[partition]] = key
        offsets[partition] += 1
    customer = plan.stages[0]
    columns = [c.name for c in plan.columns if c.stage == customer.name]
    found: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for message in topics.read(plan.features_topic, plan.partitions):
        rows = decode(plan, message.value())
        origins = zip(
            rows.column("origin_partition").to_pylist(),
            rows.column("origin_offset").to_pylist(),
            strict=True,
        )
        for at, origin in enumerate(origins):
            if origin in sent:
                found[sent[origin]] += rows.slice(at, 1).to_pylist()
    compared = 0
    for rows_of_key in found.values():
        rows_of_key.sort(key=lambda row: row[customer.seq_column])
        seen: list[tuple[int, int]] = []
        for row in rows_of_key:
            at_us, amount = row["event_time_us"], row["amount"]
            seen.append((at_us, amount))
            for name in columns:
                days = int(name.rsplit("_", 1)[1].removesuffix("d"))
                inside = [a for t, a in seen if at_us - days * payments.DAY_US < t <= at_us]
                expected = len(inside) if "count" in name else sum(inside) / len(inside)
                assert row[name] == expected, (name, row, expected)
                compared += 1
    assert sum(map(len, found.values())) == len(sent)
    return compared


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of the median rate, and the rates of all."""
    rates = [run["events_per_s"] for run in runs]
    middle = statistics.median_low(rates)
    return next(run for run in runs if run["events_per_s"] == middle) | {
        "events_per_s_of_each_run": rates
    }

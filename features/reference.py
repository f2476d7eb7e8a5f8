"""The meaning of every feature in plain Python: brute force, obviously right, and slow.

Everything that computes features is compared with this, bit for bit. It reads a stage's log from
the beginning for every row and shares no code with the kernels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from features.aggregations import aggregations
from features.aggregations.base import Entry
from features.coding import hash_of
from features.plan import Plan, ReferencePlan, StagePlan, WindowPlan
from features.vocabulary import Comparison
from kernels import transcend


@dataclass(frozen=True)
class Fact:
    """One row of a stage's log: an event with its fields, a label about one, or a version.

    The time of a version is its valid_from, and its values are those of its reference, by column.
    """

    event_id: str
    time_us: int
    key: str | tuple[str, ...]  # a tuple where an entity has several fields
    values: dict[str, Any]
    label: bool | None = None  # None on events
    duplicate: bool = False
    version_of: str = ""  # the name of the reference, on its versions


def is_duplicate(log: Sequence[Fact], at: int, lateness_us: int) -> bool:
    """Whether the event at `log[at]` was folded before: same key and id, within the lateness.

    Facts before it must carry their own verdict in `duplicate`.
    """
    fact = log[at]
    return any(
        earlier.label is None
        and not earlier.version_of
        and not earlier.duplicate
        and earlier.key == fact.key
        and earlier.event_id == fact.event_id
        and abs(earlier.time_us - fact.time_us) <= lateness_us
        for earlier in log[:at]
    )


def looked_up(log: Sequence[Fact], now: Fact, spec: ReferencePlan) -> dict[str, Any]:
    """The columns of a reference for the event `now`, from its stage's log up to it.

    All are None where no version of the event's own key held at its time.
    """
    found: dict[str, Any] = dict.fromkeys(spec.columns)
    since_us = -1
    for fact in log:
        own = fact.version_of == spec.name and fact.key == now.key
        if own and since_us <= fact.time_us <= now.time_us:
            since_us, found = fact.time_us, fact.values
    return found


def window(
    events: Sequence[Fact],
    labels: Mapping[tuple[str, int], bool],
    now: Fact,
    spec: WindowPlan,
    stage: StagePlan,
) -> list[float]:
    """The columns of one window for the event `now`.

    `events` are those of its key up to it, in order of (time, arrival); `labels` is the last label
    of each (event id, time) up to it.
    """
    after, until = now.time_us - spec.delay_us - spec.over_us, now.time_us - spec.delay_us
    if spec.resolution_us:
        # Edges are rounded up, the upper one only where there is a delay.
        after = _rounded_up(after, spec.resolution_us)
        until = _rounded_up(until, spec.resolution_us) if spec.delay_us else until
    entries = [
        _entry(e, labels, spec, e is now)
        for e in events
        if after < e.time_us <= until
        and (spec.where < 0 or all(_holds(c, e) for c in stage.conditions[spec.where]))
    ]
    found = aggregations()[spec.aggregation].reference(
        entries, _entry(now, labels, spec, True), spec.terms
    )
    return found if isinstance(found, list) else [found]


def _rounded_up(time_us: int, resolution_us: int) -> int:
    return math.ceil(Fraction(time_us, resolution_us)) * resolution_us


def _entry(
    event: Fact, labels: Mapping[tuple[str, int], bool], spec: WindowPlan, is_current: bool
) -> Entry:
    label = labels.get((event.event_id, event.time_us), False)
    return Entry(event.time_us, event.values.get(spec.value, 0), label, is_current)


def _holds(comparison: Comparison, event: Fact) -> bool:
    value, operand = event.values[comparison.field], comparison.operand
    if isinstance(operand, tuple):
        return value in operand
    return {
        "lt": value < operand,
        "le": value <= operand,
        "gt": value > operand,
        "ge": value >= operand,
    }[comparison.operator]


def expression(formula: tuple[Any, ...], values: Mapping[str, Any], time_us: int) -> float:
    """A row expression for one event, from its fields and its other columns.

    A value is None where a reference has none.
    """
    name, *rest = formula

    def of(inner: tuple[Any, ...]) -> float:
        return expression(inner, values, time_us)

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    if name == "number":
        return float(rest[0])
    if name == "column":
        return float(values[rest[0]] or 0)
    if name == "/":
        above, below = of(rest[0]), of(rest[1])
        return _held(above / below) if below else 0.0
    if name in ("+", "-", "*", "<", "<=", ">", ">="):
        a, b = of(rest[0]), of(rest[1])
        return float(
            {
                "+": _held(a + b),
                "-": _held(a - b),
                "*": _held(a * b),
                "<": a < b,
                "<=": a <= b,
                ">": a > b,
                ">=": a >= b,
            }[name]
        )
    if name == "in":
        return float(values[rest[0]] in rest[1])
    if name == "log1p":
        x = of(rest[0])
        return transcend.log1p(x) if x > -1.0 else 0.0
    if name == "clip":
        return min(max(of(rest[0]), rest[1]), rest[2])
    if name == "bucket":
        return float(sum(edge <= of(rest[0]) for edge in rest[1]))
    if name == "hash":
        return float(hash_of(values[rest[0]] or "") % rest[1])
    if name == "code":
        return float(rest[1].index(values[rest[0]])) if values[rest[0]] in rest[1] else -1.0
    if name == "length":
        return float(len(values[rest[0]] or []))
    if name == "age_seconds":
        return 0.0 if values[rest[0]] is None else (time_us - values[rest[0]]) / 1e6
    if name == "known":
        return float(values[rest[0]] is not None)
    return float(
        {
            "day_of_week": moment.weekday(),
            "hour_of_day": moment.hour,
            "minute_of_day": moment.hour * 60 + moment.minute,
            "is_weekend": moment.isoweekday() >= 6,
            "is_night": moment.hour <= 6,
        }[name]
    )


def _held(x: float) -> float:
    """The nearest float64 that is no infinity."""
    return min(max(x, -sys.float_info.max), sys.float_info.max)


def stage_columns(plan: Plan, stage: StagePlan, log: Sequence[Fact]) -> list[dict[str, Any]]:
    """Every window and reference of a stage for every row of its log.

    Empty for labels, versions and duplicates.
    """
    found: list[dict[str, Any]] = []
    for at, now in enumerate(log):
        if now.label is not None or now.version_of or now.duplicate:
            found.append({})
            continue
        upto = [
            fact
            for fact in log[: at + 1]
            if fact.key == now.key and not fact.duplicate and not fact.version_of
        ]
        # A later label replaces an earlier one.
        labels = {(f.event_id, f.time_us): f.label for f in upto if f.label is not None}
        events = sorted((f for f in upto if f.label is None), key=lambda fact: fact.time_us)
        row: dict[str, Any] = {}
        for reference in plan.references:
            if reference.stage == stage.index:
                row |= looked_up(log[:at], now, reference)
        for spec in stage.windows:
            row |= zip(spec.columns, window(events, labels, now, spec, stage), strict=True)
        found.append(row)
    return found

"""The meaning of every feature in plain Python: brute force, obviously right, and slow.

Everything that computes features is compared with this, bit for bit. It reads a stage's log from
the beginning for every row and shares no code with the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from features.aggregations import aggregations
from features.aggregations.base import Entry
from features.plan import Plan, StagePlan, WindowPlan
from features.vocabulary import Comparison


@dataclass(frozen=True)
class Fact:
    """One row of a stage's log: an event with its fields, or a label about one."""

    event_id: str
    time_us: int
    key: str
    values: dict[str, int | str]
    label: bool | None = None  # None on events
    duplicate: bool = False


def is_duplicate(log: Sequence[Fact], at: int, lateness_us: int) -> bool:
    """Whether the event at `log[at]` was folded before: same key and id, within the lateness.

    Facts before it must carry their own verdict in `duplicate`.
    """
    fact = log[at]
    return any(
        earlier.label is None
        and not earlier.duplicate
        and earlier.key == fact.key
        and earlier.event_id == fact.event_id
        and abs(earlier.time_us - fact.time_us) <= lateness_us
        for earlier in log[:at]
    )


def window(
    events: Sequence[Fact],
    labels: Mapping[tuple[str, int], bool],
    now: Fact,
    spec: WindowPlan,
    stage: StagePlan,
) -> float:
    """The value of one window for the event `now`.

    `events` are those of its key up to it, in order of (time, arrival); `labels` is the last label
    of each (event id, time) up to it.
    """
    entries = [
        Entry(
            e.time_us,
            int(e.values.get(spec.value, 0)),
            labels.get((e.event_id, e.time_us), False),
            e is now,
        )
        for e in events
        if now.time_us - spec.delay_us - spec.over_us < e.time_us <= now.time_us - spec.delay_us
        and (spec.where < 0 or all(_holds(c, e) for c in stage.conditions[spec.where]))
    ]
    return aggregations()[spec.aggregation].reference(entries, now.time_us, spec.over_us)


def _holds(comparison: Comparison, event: Fact) -> bool:
    value, operand = event.values[comparison.field], comparison.operand
    if isinstance(operand, tuple):
        return value in operand
    number = int(value)
    return {
        "lt": number < operand,
        "le": number <= operand,
        "gt": number > operand,
        "ge": number >= operand,
    }[comparison.operator]


def calendar(part: str, time_us: int) -> float:
    """A calendar column of an event time, in UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    if part == "is_weekend":
        return float(moment.isoweekday() >= 6)
    return float(moment.hour <= 6)


def stage_columns(plan: Plan, stage: StagePlan, log: Sequence[Fact]) -> list[dict[str, float]]:
    """Every window of a stage for every row of its log; empty for labels and duplicates."""
    found: list[dict[str, float]] = []
    for at, now in enumerate(log):
        if now.label is not None or now.duplicate:
            found.append({})
            continue
        upto = [fact for fact in log[: at + 1] if fact.key == now.key and not fact.duplicate]
        # A later label replaces an earlier one.
        labels = {(f.event_id, f.time_us): f.label for f in upto if f.label is not None}
        events = sorted((f for f in upto if f.label is None), key=lambda fact: fact.time_us)
        found.append(
            {spec.column: window(events, labels, now, spec, stage) for spec in stage.windows}
        )
    return found

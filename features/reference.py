"""The meaning of every feature in plain Python: brute force, obviously right, and slow.

Everything that computes features is compared with this, bit for bit. It reads a stage's log from
the beginning for every row and shares no code with the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def window(log: Sequence[Fact], at: int, spec: WindowPlan, stage: StagePlan) -> float:
    """The value of one window for the event at `log[at]`."""
    now = log[at]
    upto = log[: at + 1]
    entries = [
        Entry(e.time_us, int(e.values.get(spec.value, 0)), _label_of(e, upto), e is now)
        for e in upto
        if e.label is None
        and not e.duplicate
        and e.key == now.key
        and now.time_us - spec.delay_us - spec.over_us < e.time_us <= now.time_us - spec.delay_us
        and (spec.where < 0 or all(_holds(c, e) for c in stage.conditions[spec.where]))
    ]
    entries.sort(key=lambda entry: entry.time_us)
    meaning = aggregations()[spec.aggregation]
    return meaning.reference(entries, now.time_us, spec.over_us)


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


def _label_of(event: Fact, log: Sequence[Fact]) -> bool:
    """The last label in the log about an event; false when there is none."""
    verdict = False
    for fact in log:
        if (
            fact.label is not None
            and fact.key == event.key
            and fact.event_id == event.event_id
            and fact.time_us == event.time_us
        ):
            verdict = fact.label
    return verdict


def calendar(part: str, time_us: int) -> float:
    """A calendar column of an event time, in UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    if part == "is_weekend":
        return float(moment.isoweekday() >= 6)
    return float(moment.hour <= 6)


def stage_columns(plan: Plan, stage: StagePlan, log: Sequence[Fact]) -> list[dict[str, float]]:
    """Every window of a stage for every row of its log; empty for labels and duplicates."""
    return [
        {}
        if fact.label is not None or fact.duplicate
        else {spec.column: window(log, at, spec, stage) for spec in stage.windows}
        for at, fact in enumerate(log)
    ]

"""The page of a feature set: its contract, its stages and every column, from the plan alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from features.aggregations import aggregations
from features.contract import MAX_ID_LENGTH
from features.plan import Column, FieldPlan, Plan, ReferencePlan, StagePlan, WindowPlan
from features.wire import dead_letter_topic, late_topic

_TEMPLATE = Path(__file__).with_name("page.html")
_SAMPLE_TIME = "2026-01-05T12:00:00Z"
_SIGNS = {"lt": "<", "le": "≤", "gt": ">", "ge": "≥"}


@dataclass(frozen=True)
class Member:
    """One member of a topic's JSON object, in words, with a value that the contract takes."""

    name: str
    value: str
    sample: Any


@dataclass(frozen=True)
class Entry:
    """One column in words: `facts` are pairs of a question and its answer."""

    name: str
    meaning: str
    facts: list[tuple[str, str]]


def render(plan: Plan) -> str:
    """The page as one HTML document that needs no other file."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["name"] = _name
    template = environment.from_string(_TEMPLATE.read_text())
    event, label = event_members(plan), label_members(plan)
    references = [(each, reference_members(plan, each)) for each in plan.references]
    return template.render(
        plan=plan,
        entries=[entry(plan, column) for column in plan.columns],
        event=event,
        event_sample=sample(event),
        label=label,
        label_sample=sample(label),
        references=[(each, members, sample(members)) for each, members in references],
        dead_letter_topic=dead_letter_topic,
        late_topic=late_topic(plan.event_topic),
        span=span,
    )


def event_members(plan: Plan) -> list[Member]:
    """What a message of the event topic holds."""
    keys = {name for stage in plan.stages for name in stage.key_fields}
    return [*_identity(plan), *(_member(each, each.name in keys) for each in plan.fields)]


def label_members(plan: Plan) -> list[Member]:
    """What a message of the label topic holds; nothing where the set has no label."""
    if plan.label is None:
        return []
    fields = {each.name: each for each in plan.fields}
    keys = [_member(fields[key], is_key=True) for key in plan.label.keys]
    verdict = Member(plan.label.field, "true or false", True)
    return [*_identity(plan), *keys, verdict]


def reference_members(plan: Plan, reference: ReferencePlan) -> list[Member]:
    """What a message of a reference's topic holds."""
    fields = {each.name: each for each in plan.fields}
    since = "text, the time from which it holds, with an offset (RFC 3339)"
    return [
        *(_member(fields[name], is_key=True) for name in reference.key_fields),
        Member(reference.time_field, since, _SAMPLE_TIME),
        *(_member(each, is_key=False) for each in reference.fields),
    ]


def sample(members: list[Member]) -> str:
    """A message that the contract takes, as JSON."""
    return json.dumps({member.name: member.sample for member in members}, indent=2)


def entry(plan: Plan, column: Column) -> Entry:
    """A column in words."""
    for stage in plan.stages:
        for window in stage.windows:
            if column.name in window.columns:
                return _window(plan, column, stage, window)
    facts = [("Unit", _unit(column.unit))] if column.unit else []
    if column.kind == "field":
        facts.append(("Where there is none", "the event is refused: its contract demands it"))
        return Entry(column.name, _sentence(column.meaning), facts)
    if column.kind == "reference":
        meaning, _, none = column.meaning.partition("; ")
        facts.append(("Where there is none", none.split()[0]))
        return Entry(column.name, _sentence(meaning), facts)
    facts.insert(0, ("Formula", column.meaning))
    if "/" in column.meaning:
        facts.append(("Where it divides by 0", "0"))
    return Entry(column.name, "Computed from the event's other columns.", facts)


def span(duration_us: int) -> str:
    """A duration in words: `7 days`."""
    for unit, unit_us in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        number, rest = divmod(duration_us, unit_us * 1_000_000)
        if rest == 0 and number:
            return f"{number:,} {unit}{'s' * (number != 1)}"
    return f"{duration_us:,} µs"


def _name(name: str) -> Markup:
    """A long name may go on in the next line where its words meet."""
    return escape(name).replace("_", Markup("_<wbr>")).replace(".", Markup(".<wbr>"))


def _window(plan: Plan, column: Column, stage: StagePlan, window: WindowPlan) -> Entry:
    meaning = aggregations()[window.aggregation]
    over = f"{span(window.over_us)} up to the event, itself included"
    if window.delay_us:
        over = f"{span(window.over_us)}, ending {span(window.delay_us)} before the event"
    formula = meaning.formula
    if window.value:
        formula += f", where x is {window.value}"
    elif meaning.takes == "label" and plan.label is not None:
        formula += f", where y is {plan.label.field}"
    if window.resolution_us:
        over += f"; its edges are multiples of {span(window.resolution_us)}"
    facts = [
        ("Of", f"events of the same {' and '.join(stage.key_fields)} (stage {stage.name})"),
        ("Window", over),
        ("Formula", formula),
        *([("Unit", _unit(column.unit))] if column.unit else []),
        ("Where there is none", meaning.empty),
    ]
    if window.where >= 0:
        comparisons = stage.conditions[window.where]
        only = " and ".join(_comparison(c.field, c.operator, c.operand) for c in comparisons)
        facts.insert(2, ("Only events with", only))
    return Entry(column.name, _first_line(meaning.__doc__), facts)


_SAMPLES: dict[str, tuple[str, Any]] = {
    "boolean": ("true or false", True),
    "timestamp": ("text, a time with an offset (RFC 3339)", _SAMPLE_TIME),
    "position": (
        "degrees north and east, kept to a millionth",
        {"latitude": 48.137154, "longitude": 11.576124},
    ),
}


def _identity(plan: Plan) -> list[Member]:
    return [
        Member(plan.id_field, f"text, 1 to {MAX_ID_LENGTH} characters; names the event", "e-1"),
        Member(plan.time_field, "text, the event's time with an offset (RFC 3339)", _SAMPLE_TIME),
    ]


def _member(field: FieldPlan, is_key: bool) -> Member:
    if field.type == "text":
        value = f"text, {'1' if is_key else '0'} to {field.max_length} characters"
        if field.token:
            value += "; only a keyed hash of it is kept"
        text = f"{field.name.removesuffix('_id')}-1"[-field.max_length :]
        return Member(field.name, value, text)
    if field.type in _SAMPLES:
        value, example = _SAMPLES[field.type]
        return Member(field.name, value, example)
    if field.type == "category":
        return Member(field.name, f"one of {', '.join(field.values)}", field.values[0])
    if field.type == "list":
        value = f"up to {field.max_items} texts of at most {field.max_length} characters"
        return Member(field.name, value, ["a", "b"])
    if field.type == "float":
        value = "number"
        if field.decimals is not None:
            value += f", kept to {field.decimals} decimals"
        return Member(field.name, value, _number_within(field) / 10 ** (field.decimals or 0))
    value, number = f"integer, {_bounds(field)}", _number_within(field)
    if field.type == "money":
        money = {"minor": number, "currency": field.currency}
        return Member(field.name, f"an amount in {field.currency}; minor is an {value}", money)
    return Member(field.name, value, number)


def _bounds(field: FieldPlan) -> str:
    low, high = field.minimum, field.maximum
    if low is None and high is None:
        return "any of 64 bits"
    if high is None:
        return f"{low:,} and more"
    return f"up to {high:,}" if low is None else f"{low:,} to {high:,}"


def _number_within(field: FieldPlan) -> int:
    low = -(2**63) if field.minimum is None else field.minimum
    high = 2**63 - 1 if field.maximum is None else field.maximum
    return int(max(low, min(high, 1999)))


def _comparison(field: str, operator: str, operand: Any) -> str:
    if operator == "in":
        return f"{field} among {', '.join(map(str, operand))}"
    return f"{field} {_SIGNS.get(operator, operator)} {operand:,}"


def _unit(unit: str) -> str:
    return f"minor units of {unit.removesuffix(' minor')}" if unit.endswith(" minor") else unit


def _first_line(text: str | None) -> str:
    return _sentence((text or "").strip().partition("\n")[0])


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."

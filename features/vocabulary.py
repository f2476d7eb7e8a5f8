"""The words a definitions file is written in.

An `Entity` is what windows are kept by, an `Event` is a topic of facts, a `Label` is a topic of
later verdicts about those facts, and a `FeatureSet` is the one object everything else is compiled
from. Every object remembers the file and line that wrote it, so that a mistake names its place.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.errors import DefinitionError

CURRENCIES = frozenset({"CHF", "EUR", "GBP", "JPY", "USD"})
"""Currencies whose minor unit the generator and the contracts know (ISO 4217)."""


@dataclass(frozen=True)
class Place:
    """Where a declaration stands."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _caller() -> Place:
    """The first frame outside this module: the line of the definitions file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    # A dataclass's generated __init__ has no file of its own.
    while frame.f_back is not None and frame.f_code.co_filename.startswith("<"):
        frame = frame.f_back
    if frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return Place(Path(frame.f_code.co_filename).name, frame.f_lineno)


def wrong(place: Place, what: str, mend: str) -> DefinitionError:
    """A definition error in the one form they all have."""
    return DefinitionError(f"{place}: {what}; {mend}")


def did_you_mean(name: str, known: list[str]) -> str:
    """A suggestion for a misspelt name, or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is {', '.join(map(repr, known))}"


def days(n: float) -> int:
    """A duration in microseconds."""
    return int(n * 86_400_000_000)


def hours(n: float) -> int:
    """A duration in microseconds."""
    return int(n * 3_600_000_000)


def minutes(n: float) -> int:
    """A duration in microseconds."""
    return int(n * 60_000_000)


def seconds(n: float) -> int:
    """A duration in microseconds."""
    return int(n * 1_000_000)


def duration_name(duration_us: int) -> str:
    """The short form used in column names: `7d`, `12h`, `30m`, `45s`."""
    for suffix, unit_us in (("d", days(1)), ("h", hours(1)), ("m", minutes(1)), ("s", seconds(1))):
        if duration_us % unit_us == 0:
            return f"{duration_us // unit_us}{suffix}"
    return f"{duration_us}us"


@dataclass(frozen=True)
class Entity:
    """Something windows are kept by, named after the event field that carries its key."""

    key: str

    @property
    def name(self) -> str:
        """The stage's name: the key without `_id`."""
        return self.key.removesuffix("_id")


@dataclass(frozen=True)
class Text:
    """A string field; `token=True` replaces it by a keyed hash at ingest."""

    max: int = 64
    token: bool = False


@dataclass(frozen=True)
class Money:
    """An amount in integer minor units of one currency; `max` bounds sums."""

    currency: str
    min: int | None = None
    max: int = 10**12


@dataclass(frozen=True)
class Integer:
    """A 64-bit integer field."""

    min: int | None = None
    max: int | None = None


FieldType = Text | Money | Integer


@dataclass(frozen=True)
class FieldRef:
    """A field of an event, as written in a feature: `payments.amount`."""

    source: str
    name: str
    type: FieldType
    place: Place = field(default_factory=_caller, compare=False)


@dataclass(frozen=True)
class LabelRef:
    """The verdict field of a label topic: `chargebacks.is_fraud`."""

    source: str
    name: str
    known_after_us: int
    place: Place = field(default_factory=_caller, compare=False)


class Event:
    """A topic of facts, one JSON object a message.

    Args:
        topic: the users' topic.
        id: the text field that identifies an event; a second one within `lateness` of event time
            for the same first entity is a duplicate.
        time: the field that holds the event time (RFC 3339 with an offset).
        key: the entity whose key is the message key.
        lateness: how far (µs) behind the newest event time of its raw partition an event may be.
        fields: the other fields by name.
    """

    def __init__(
        self,
        topic: str,
        *,
        id: str,
        time: str,
        key: Entity,
        fields: dict[str, FieldType],
        lateness: int = hours(1),
    ) -> None:
        self.topic = topic
        self.id = id
        self.time = time
        self.key = key
        self.lateness_us = lateness
        self.fields = dict(fields)
        self.place = _caller()
        if lateness < 0:
            raise wrong(self.place, f"lateness is {lateness} µs", "give a duration of 0 or more")
        for name, kind in self.fields.items():
            if isinstance(kind, Money) and kind.currency not in CURRENCIES:
                raise wrong(
                    self.place,
                    f"field {name!r} has the unknown currency {kind.currency!r}",
                    did_you_mean(kind.currency, sorted(CURRENCIES)),
                )
        for name in (id, time):
            if name in self.fields:
                raise wrong(
                    self.place,
                    f"{name!r} is declared as id or time and again as a field",
                    "leave it out of fields",
                )
        self.field_of_entity(key)

    def field_of_entity(self, entity: Entity) -> str:
        """The field that holds an entity's key; refused when the event has none."""
        if not isinstance(self.fields.get(entity.key), Text):
            raise wrong(
                self.place,
                f"entity {entity.key!r} is no text field of {self.topic!r}",
                did_you_mean(
                    entity.key, [n for n, t in self.fields.items() if isinstance(t, Text)]
                ),
            )
        return entity.key

    def __getattr__(self, name: str) -> FieldRef:
        fields: dict[str, FieldType] = self.__dict__.get("fields", {})
        if name in fields:
            return FieldRef(self.topic, name, fields[name], _caller())
        if name.startswith("_") or not fields:
            raise AttributeError(name)
        raise wrong(
            _caller(),
            f"{self.topic!r} has no column {name!r}",
            did_you_mean(name, sorted(fields)),
        )


class Label:
    """A topic of later verdicts about events of another topic.

    Args:
        topic: the users' topic of the label.
        of: the event it speaks of; a label carries that event's id and time and every key it is
            grouped by.
        field: the boolean field of the verdict.
        known_after: after this long (µs) an event without a label counts as false.
    """

    def __init__(self, topic: str, *, of: Event, field: str, known_after: int) -> None:
        self.topic = topic
        self.of = of
        self.field = field
        self.known_after_us = known_after
        self.place = _caller()
        if known_after < 0:
            raise wrong(self.place, f"known_after is {known_after} µs", "give 0 or more")

    def __getattr__(self, name: str) -> LabelRef:
        own: str | None = self.__dict__.get("field")
        if name == own:
            return LabelRef(self.topic, name, self.known_after_us, _caller())
        if name.startswith("_") or own is None:
            raise AttributeError(name)
        raise wrong(_caller(), f"{self.topic!r} has no column {name!r}", did_you_mean(name, [own]))


@dataclass(frozen=True)
class Window:
    """`aggregation(over=W, delay=D)`: events with t − D − W < t' ≤ t − D, of the same key."""

    aggregation: str
    of: FieldRef | LabelRef | None
    entity: Entity
    over_us: int
    delay_us: int
    place: Place = field(compare=False)

    @property
    def name(self) -> str:
        """The output column's name."""
        what = "" if self.of is None else f"{self.of.name}_"
        after = f"_delay_{duration_name(self.delay_us)}" if self.delay_us else ""
        return f"{self.entity.name}_{what}{self.aggregation}_{duration_name(self.over_us)}{after}"


@dataclass(frozen=True)
class Calendar:
    """A part of the event time: `is_weekend` or `is_night`, in UTC."""

    part: str
    place: Place = field(compare=False)

    @property
    def name(self) -> str:
        """The output column's name."""
        return self.part


@dataclass(frozen=True)
class Ratio:
    """One column of the set divided by another; 0 where the divisor is 0."""

    name: str
    of: str
    to: str
    place: Place = field(compare=False)


Feature = FieldRef | Window | Calendar | Ratio


def _window(
    aggregation: str,
    of: FieldRef | LabelRef | None,
    by: Entity | Event,
    over: int,
    delay: int,
) -> Window:
    place = _caller()
    if not isinstance(by, Entity):
        raise wrong(place, f"by= of {aggregation}() is {by!r}", "give an Entity")
    if over <= 0:
        raise wrong(place, f"{aggregation}() has a window of {over} µs", "make over= positive")
    if delay < 0:
        raise wrong(place, f"{aggregation}() has a delay of {delay} µs", "make delay= 0 or more")
    return Window(aggregation, of, by, over, delay, place)


def count(*, by: Entity, over: int, delay: int = 0) -> Window:
    """How many events of the key lie in the window."""
    return _window("count", None, by, over, delay)


def sum(of: Any, *, by: Entity, over: int, delay: int = 0) -> Window:
    """The sum of an integer or money field over the window; 0 when it is empty."""
    return _window("sum", _number(of, "sum"), by, over, delay)


def mean(of: Any, *, by: Entity, over: int, delay: int = 0) -> Window:
    """float64(sum) / float64(count) over the window; 0 when it is empty."""
    return _window("mean", _number(of, "mean"), by, over, delay)


def rate(of: Any, *, by: Entity, over: int, delay: int = 0) -> Window:
    """The share of the window's events whose label is true; 0 when it is empty."""
    if not isinstance(of, LabelRef):
        raise wrong(_caller(), f"rate() of {of!r}", "rate() takes a label's field")
    return _window("rate", of, by, over, delay)


def is_weekend(event: Event) -> Calendar:
    """1 on Saturday and Sunday (UTC), else 0."""
    return Calendar("is_weekend", _caller())


def is_night(event: Event) -> Calendar:
    """1 from 00:00:00 to 06:59:59 (UTC), else 0."""
    return Calendar("is_night", _caller())


def ratio(name: str, of: str, to: str) -> Ratio:
    """A column that divides one column of the same set by another, both by name."""
    return Ratio(name, of, to, _caller())


def _number(of: Any, aggregation: str) -> FieldRef:
    place = _caller()
    if not isinstance(of, FieldRef):
        raise wrong(place, f"{aggregation}() of {of!r}", "give an event's field")
    if isinstance(of.type, Text):
        raise wrong(place, f"{aggregation}() of the text field {of.name!r}", "give a number")
    return of


class FeatureSet:
    """One declared set of features; everything else is compiled from it.

    Args:
        name: names topics, tables, the Feast service and the registered model.
        event: the event that is scored.
        label: the label that training learns, if there is one.
        owner: who answers for it.
        freshness: the promised time (µs) from an event to its visibility in the online store.
        features: in the order of the model's input vector.
    """

    def __init__(
        self,
        name: str,
        *,
        event: Event,
        features: list[Feature],
        label: Label | None = None,
        owner: str = "",
        freshness: int = seconds(1),
        version: int = 1,
    ) -> None:
        self.name = name
        self.event = event
        self.label = label
        self.owner = owner
        self.freshness_us = freshness
        self.version = version
        self.features = list(features)
        self.place = _caller()

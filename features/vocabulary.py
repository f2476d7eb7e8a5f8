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

from features.aggregations import aggregations
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


def _duration(n: float, unit_us: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | float):
        raise wrong(_caller(), f"a duration of {n!r}", "give a number")
    return int(n * unit_us)


def days(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, 86_400_000_000)


def hours(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, 3_600_000_000)


def minutes(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, 60_000_000)


def seconds(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, 1_000_000)


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

LARGEST_SUMMED = 2**63 // 10**6
"""A field that is added up stays below it, so that a million events fit a 64-bit sum."""


@dataclass(frozen=True)
class Comparison:
    """A field compared with a constant: what `where=` counts."""

    field: str
    operator: str  # lt, le, gt, ge, in
    operand: int | tuple[str, ...] | tuple[int, ...]

    @property
    def name(self) -> str:
        """The form used in column names: `amount_ge_10000`."""
        operand = self.operand if isinstance(self.operand, tuple) else (self.operand,)
        return "_".join([self.field, self.operator, *map(str, operand)])


@dataclass(frozen=True)
class Condition:
    """Comparisons that must all hold, as written in a feature: `payments.amount >= 10_000`."""

    source: str
    comparisons: tuple[Comparison, ...]

    def __and__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition) or other.source != self.source:
            raise wrong(_caller(), f"& with {other!r}", "combine conditions on one event")
        return Condition(self.source, self.comparisons + other.comparisons)

    def __bool__(self) -> bool:
        raise wrong(_caller(), "a condition has no truth of its own", "combine with & instead")


@dataclass(frozen=True)
class FieldRef:
    """A field of an event, as written in a feature: `payments.amount`."""

    source: str
    name: str
    type: FieldType
    place: Place = field(default_factory=_caller, compare=False)

    def __lt__(self, constant: int) -> Condition:
        return self._compared("lt", constant)

    def __le__(self, constant: int) -> Condition:
        return self._compared("le", constant)

    def __gt__(self, constant: int) -> Condition:
        return self._compared("gt", constant)

    def __ge__(self, constant: int) -> Condition:
        return self._compared("ge", constant)

    def is_in(self, *constants: Any) -> Condition:
        """A condition that the field is one of some constants."""
        kind = str if isinstance(self.type, Text) else int
        if not constants or not all(type(constant) is kind for constant in constants):
            raise wrong(
                _caller(),
                f"{self.name}.is_in({', '.join(map(repr, constants))})",
                f"give one or more constants of type {kind.__name__}",
            )
        return Condition(self.source, (Comparison(self.name, "in", constants),))

    def _compared(self, operator: str, constant: int) -> Condition:
        if isinstance(self.type, Text):
            raise wrong(
                _caller(), f"the text field {self.name!r} has no order", "use is_in(…) instead"
            )
        if type(constant) is not int:
            raise wrong(
                _caller(),
                f"{self.name!r} is compared with {constant!r}",
                "give an integer; money is in minor units",
            )
        return Condition(self.source, (Comparison(self.name, operator, constant),))


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
    where: Condition | None
    place: Place = field(compare=False)

    @property
    def name(self) -> str:
        """The output column's name."""
        what = "" if self.of is None else f"{self.of.name}_"
        after = f"_delay_{duration_name(self.delay_us)}" if self.delay_us else ""
        only = (
            "".join(f"_where_{c.name}" for c in self.where.comparisons)
            if self.where is not None
            else ""
        )
        over = duration_name(self.over_us)
        return f"{self.entity.name}_{what}{self.aggregation}_{over}{after}{only}"


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


class Aggregate:
    """A word of the vocabulary: `mean(payments.amount, by=customer, over=days(7))`.

    Called with the field or label it reads (`count` and its like read none), the entity whose
    events it looks at, the window's length `over` and its `delay` in µs, and `where`, a condition
    on fields that an event must meet to be looked at.
    """

    def __init__(self, name: str) -> None:
        self._meaning = aggregations()[name]
        self.__doc__ = self._meaning.__doc__

    def __call__(
        self,
        of: Any = None,
        *,
        by: Entity,
        over: int,
        delay: int = 0,
        where: Condition | None = None,
    ) -> Window:
        """Declare a window.

        Raises:
            DefinitionError: an argument is of no use, with the line and the mend.
        """
        place, name = _caller(), self._meaning.name
        if not isinstance(by, Entity):
            raise wrong(place, f"by= of {name}() is {by!r}", "give an Entity")
        if over <= 0:
            raise wrong(place, f"{name}() has a window of {over} µs", "make over= positive")
        if delay < 0:
            raise wrong(place, f"{name}() has a delay of {delay} µs", "make delay= 0 or more")
        if where is not None and not isinstance(where, Condition):
            raise wrong(
                place, f"where= of {name}() is {where!r}", "compare a field: payments.amount > 100"
            )
        self._check_source(of, place)
        return Window(name, of, by, over, delay, where, place)

    def _check_source(self, of: Any, place: Place) -> None:
        name = self._meaning.name
        match self._meaning.takes:
            case "nothing" if of is not None:
                raise wrong(place, f"{name}() of {of!r}", f"{name}() takes no field; use where=")
            case "label" if not isinstance(of, LabelRef):
                raise wrong(place, f"{name}() of {of!r}", f"{name}() takes a label's field")
            case "number" if not isinstance(of, FieldRef):
                raise wrong(place, f"{name}() of {of!r}", "give an event's field")
            case "number" if isinstance(of.type, Text):
                raise wrong(place, f"{name}() of the text field {of.name!r}", "give a number")


count = Aggregate("count")
sum = Aggregate("sum")
mean = Aggregate("mean")
std = Aggregate("std")
min = Aggregate("min")
max = Aggregate("max")
first = Aggregate("first")
last = Aggregate("last")
rate = Aggregate("rate")
label_count = Aggregate("label_count")
seconds_since_last = Aggregate("seconds_since_last")
seconds_since_label = Aggregate("seconds_since_label")
seconds_between = Aggregate("seconds_between")


def is_weekend(event: Event) -> Calendar:
    """1 on Saturday and Sunday (UTC), else 0."""
    return Calendar("is_weekend", _caller())


def is_night(event: Event) -> Calendar:
    """1 from 00:00:00 to 06:59:59 (UTC), else 0."""
    return Calendar("is_night", _caller())


def ratio(name: str, of: str, to: str) -> Ratio:
    """A column that divides one column of the same set by another, both by name."""
    return Ratio(name, of, to, _caller())


class FeatureSet:
    """One declared set of features; everything else is compiled from it.

    Args:
        name: names topics, tables, the Feast service and the registered model.
        event: the event that is scored.
        label: the label that training learns, if there is one.
        owner: who answers for it.
        freshness: the promised time (µs) from an event to its visibility in the online store.
        ttl: how long (µs) after its event time a vector may be served; 0 is for ever.
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
        ttl: int = 0,
        version: int = 1,
    ) -> None:
        self.name = name
        self.event = event
        self.label = label
        self.owner = owner
        self.freshness_us = freshness
        self.ttl_us = ttl
        self.version = version
        self.features = list(features)
        self.place = _caller()
        if type(ttl) is not int or ttl < 0:
            raise wrong(
                self.place, f"ttl is {ttl!r}", "give a duration, such as days(30), or 0 for ever"
            )

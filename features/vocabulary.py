"""The words a definitions file is written in.

An `Entity` is what windows are kept by, an `Event` is a topic of facts, a `Label` is a topic of
later verdicts about those facts, a `Reference` is a table of what is known about an entity, and a
`FeatureSet` is the one object everything else is compiled from. Every object remembers the file and
line that wrote it, so that a mistake names its place.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from features.aggregations import aggregations
from features.aggregations.base import Terms
from features.duration import DAY_US, HOUR_US, MINUTE_US, SECOND_US, duration_name
from features.place import Place, did_you_mean, wrong
from features.place import caller as _caller
from features.types import (
    Boolean,
    Category,
    FieldType,
    Float,
    Integer,
    List,
    Money,
    Position,
    Text,
    Timestamp,
)

__all__ = [
    "Aggregate",
    "Boolean",
    "Category",
    "Comparison",
    "Condition",
    "Entity",
    "Event",
    "Expression",
    "Feature",
    "FeatureSet",
    "FieldRef",
    "Float",
    "Integer",
    "Label",
    "LabelRef",
    "List",
    "Money",
    "Position",
    "Reference",
    "Text",
    "Timestamp",
    "Window",
    "age_seconds",
    "bucket",
    "category_hash",
    "clip",
    "count",
    "day_of_week",
    "days",
    "decay",
    "distinct",
    "duration_name",
    "entropy",
    "first",
    "histogram",
    "hour_of_day",
    "hours",
    "is_known",
    "is_night",
    "is_weekend",
    "label_count",
    "last",
    "last_k",
    "length",
    "log1p",
    "max",
    "mean",
    "min",
    "minute_of_day",
    "minutes",
    "percentile",
    "rate",
    "seconds",
    "seconds_between",
    "seconds_between_std",
    "seconds_since_label",
    "seconds_since_last",
    "speed",
    "std",
    "sum",
    "top_k",
    "velocity_ratio",
]


def _duration(n: float, unit_us: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | float):
        raise wrong(_caller(), f"a duration of {n!r}", "give a number")
    return int(n * unit_us)


def days(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, DAY_US)


def hours(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, HOUR_US)


def minutes(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, MINUTE_US)


def seconds(n: float) -> int:
    """A duration in microseconds."""
    return _duration(n, SECOND_US)


@dataclass(frozen=True, init=False, repr=False)
class Entity:
    """Something windows are kept by, named after the event fields that carry its key.

    `Entity("customer_id", "terminal_id")` is a customer at a terminal: its windows look at events
    that are the same in both fields.
    """

    fields: tuple[str, ...]

    def __init__(self, *fields: str) -> None:
        object.__setattr__(self, "fields", fields)
        if not fields or not all(isinstance(each, str) and each for each in fields):
            raise wrong(_caller(), f"{self}", "name one or more text fields of the event")
        for each in fields:
            if fields.count(each) > 1:
                raise wrong(_caller(), f"{self} has {each!r} twice", "name each field once")

    def __repr__(self) -> str:
        return f"Entity({', '.join(map(repr, self.fields))})"

    @property
    def name(self) -> str:
        """The stage's name: the fields without `_id`."""
        return "_".join(each.removesuffix("_id") for each in self.fields)

    @property
    def key(self) -> str:
        """The row's column that holds the key: the field itself, or one made of several."""
        return self.fields[0] if len(self.fields) == 1 else f"{self.name}_key"


LARGEST_SUMMED = 2**63 // 10**6
"""A field that is added up stays below it, so that a million events fit a 64-bit sum."""


@dataclass(frozen=True)
class Comparison:
    """A field compared with a constant in the row's units: what `where=` counts."""

    field: str
    operator: str  # lt, le, gt, ge, in
    operand: float | tuple[str, ...] | tuple[int, ...] | tuple[bool, ...]

    @property
    def name(self) -> str:
        """The form used in column names: `amount_ge_10000`."""
        operand = self.operand if isinstance(self.operand, tuple) else (self.operand,)
        return "_".join([self.field, self.operator, *map(str, operand)])


class _Operand:
    """What arithmetic can be done with: the result is a column once it has a name."""

    def __add__(self, other: Any) -> Expression:
        return Expression("+", (self, other))

    def __radd__(self, other: Any) -> Expression:
        return Expression("+", (other, self))

    def __sub__(self, other: Any) -> Expression:
        return Expression("-", (self, other))

    def __rsub__(self, other: Any) -> Expression:
        return Expression("-", (other, self))

    def __mul__(self, other: Any) -> Expression:
        return Expression("*", (self, other))

    def __rmul__(self, other: Any) -> Expression:
        return Expression("*", (other, self))

    def __truediv__(self, other: Any) -> Expression:
        return Expression("/", (self, other))

    def __rtruediv__(self, other: Any) -> Expression:
        return Expression("/", (other, self))


class _Comparable(_Operand):
    """An operand whose comparisons are 0 or 1."""

    def __lt__(self, other: Any) -> Expression:
        return Expression("<", (self, other))

    def __le__(self, other: Any) -> Expression:
        return Expression("<=", (self, other))

    def __gt__(self, other: Any) -> Expression:
        return Expression(">", (self, other))

    def __ge__(self, other: Any) -> Expression:
        return Expression(">=", (self, other))


@dataclass(frozen=True)
class Condition(_Operand):
    """Comparisons that must all hold, as written in a feature: `payments.amount >= 10_000`.

    It serves as `where=` of a window, and in arithmetic as 1 or 0.
    """

    source: str
    comparisons: tuple[Comparison, ...]
    place: Place = field(default_factory=_caller, compare=False)
    reference: Reference | None = field(default=None, compare=False)

    def __and__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition) or other.source != self.source:
            raise wrong(_caller(), f"& with {other!r}", "combine conditions on one event")
        both = self.comparisons + other.comparisons
        return Condition(self.source, both, reference=self.reference)

    def __bool__(self) -> bool:
        raise wrong(_caller(), "a condition has no truth of its own", "combine with & instead")

    def named(self, name: str) -> Expression:
        """The column of that name: 1 where it holds, else 0."""
        return (self * 1).named(name)


@dataclass(frozen=True)
class FieldRef(_Operand):
    """A field of an event, or of a reference, as written in a feature: `payments.amount`.

    `reference` is None where it is the event's own.
    """

    source: str
    name: str
    type: FieldType
    place: Place = field(default_factory=_caller, compare=False)
    reference: Reference | None = field(default=None, compare=False)

    @property
    def column(self) -> str:
        """The row's column that holds it."""
        if self.reference is None:
            return self.name
        return self.reference.column(self.name.removeprefix(f"{self.reference.name}_"))

    def __lt__(self, constant: float) -> Condition:
        return self._compared("lt", constant)

    def __le__(self, constant: float) -> Condition:
        return self._compared("le", constant)

    def __gt__(self, constant: float) -> Condition:
        return self._compared("gt", constant)

    def __ge__(self, constant: float) -> Condition:
        return self._compared("ge", constant)

    def is_in(self, *constants: Any) -> Condition:
        """A condition that the field is one of some constants."""
        kinds = {Text: str, Category: str, Boolean: bool, Integer: int, Money: int}
        kind = kinds.get(type(self.type))
        if kind is None:
            raise wrong(_caller(), f"{self.name}.is_in(…)", f"{self.name!r} is {self._kind}")
        fits = all(type(each) is kind for each in constants)
        if not constants or not fits or (kind is int and not all(map(_fits_64_bits, constants))):
            raise wrong(
                _caller(),
                f"{self.name}.is_in({', '.join(map(repr, constants))})",
                f"give one or more constants of type {kind.__name__}"
                f"{' and 64 bits' if kind is int else ''}",
            )
        if isinstance(self.type, Category):
            for constant in constants:
                if constant not in self.type.values:
                    raise wrong(
                        _caller(),
                        f"{self.name!r} is never {constant!r}",
                        did_you_mean(constant, list(self.type.values)),
                    )
        return self._condition("in", constants)

    @property
    def _kind(self) -> str:
        return f"a {type(self.type).__name__.lower()}"

    def _compared(self, operator: str, constant: float) -> Condition:
        if isinstance(self.type, Text | Category | Position | List | Boolean):
            raise wrong(
                _caller(),
                f"the {type(self.type).__name__.lower()} field {self.name!r} has no order",
                "use is_in(…) instead",
            )
        if isinstance(self.type, Float) and _is_number(constant):
            if self.type.decimals is None:
                return self._condition(operator, float(constant))
            scaled = constant * 10**self.type.decimals
            if abs(scaled) < 2**63 and abs(scaled - round(scaled)) < 1e-6:
                return self._condition(operator, round(scaled))
        elif type(constant) is int and _fits_64_bits(constant):
            return self._condition(operator, constant)
        raise wrong(
            _caller(),
            f"{self.name!r} is compared with {constant!r}",
            "give an integer of 64 bits; money is in minor units, a float has the decimals it "
            "declares",
        )

    def _condition(self, operator: str, operand: Any) -> Condition:
        comparison = Comparison(self.column, operator, operand)
        return Condition(self.source, (comparison,), reference=self.reference)


@dataclass(frozen=True)
class LabelRef:
    """The verdict field of a label topic: `chargebacks.is_fraud`."""

    source: str
    name: str
    known_after_us: int
    place: Place = field(default_factory=_caller, compare=False)


class _Fields:
    """Something with fields: `payments.amount`, or `payments["time"]` where that is also its own.

    A name that it does not have is refused with the one that was meant.
    """

    topic: str
    fields: dict[str, FieldType]

    def _ref(self, name: str) -> FieldRef:
        raise NotImplementedError

    def __getitem__(self, name: str) -> FieldRef:
        if name not in self.fields:
            raise wrong(
                _caller(),
                f"{self.topic!r} has no column {name!r}",
                did_you_mean(name, sorted(self.fields)),
            )
        return self._ref(name)

    def __getattr__(self, name: str) -> FieldRef:
        if name.startswith("_") or "fields" not in self.__dict__:
            raise AttributeError(name)
        return self[name]


class Event(_Fields):
    """A topic of facts, one JSON object a message.

    Args:
        topic: the users' topic.
        id: the text field that identifies an event; a second one within `lateness` of event time
            for the same first entity is a duplicate.
        time: the field that holds the event time (RFC 3339 with an offset).
        key: the entity whose key is the message key, so it has one field.
        lateness: how far (µs) behind the newest event time of its raw partition an event may be.
        fields: the other fields by name; `payments.amount` or `payments["amount"]` is one of them.
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
        self._place = _caller()
        if lateness < 0:
            raise wrong(self._place, f"lateness is {lateness} µs", "give a duration of 0 or more")
        _refuse_odd_fields(self.fields, self._place, {id: "id", time: "time"})
        if len(key.fields) > 1:
            raise wrong(
                self._place,
                f"key= is {key}, but a message key is one field",
                "give an entity of one field here, and the other to by=",
            )
        self.check_entity(key, self._place)

    def check_entity(self, entity: Entity, place: Place) -> None:
        """Refuse an entity that is no text field of the event, or has a part that is none."""
        texts = [name for name, kind in self.fields.items() if isinstance(kind, Text)]
        for each in entity.fields:
            if each not in texts:
                raise wrong(
                    place,
                    f"{each!r} of {entity} is no text field of {self.topic!r}",
                    did_you_mean(each, texts),
                )

    def _ref(self, name: str) -> FieldRef:
        return FieldRef(self.topic, name, self.fields[name], _caller())


class Label:
    """A topic of later verdicts about events of another topic.

    Args:
        topic: the users' topic of the label.
        of: the event it speaks of; a label carries that event's id and time and every field of
            the keys it is grouped by.
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


class Reference(_Fields):
    """A table that changes slowly: what is known about an entity, as of each event's time.

    Its topic holds versions of rows. For an event of time t, `merchants.rate` is the value in that
    version of the event's own key which has the greatest `time` ≤ t among those that arrived before
    the event; of equal ones the last to arrive. Where there is none a number is 0, a category's
    code −1, and `is_known(merchants)` 0.

    Args:
        topic: the users' topic, one JSON object for each version.
        key: the entity it is about.
        time: the member that says from when on the version holds (RFC 3339 with an offset); it may
            lie in the future.
        fields: the other members by name; `merchants.rate` or `merchants["rate"]` is one of them.
        name: what its columns and its table begin with; by default the topic's part before the
            version, `merchant` of `payments.merchant.v1`.
    """

    def __init__(
        self, topic: str, *, key: Entity, time: str, fields: dict[str, FieldType], name: str = ""
    ) -> None:
        self.topic = topic
        self.key = key
        self.time = time
        self.fields = dict(fields)
        self.name = name or _reference_name(topic)
        self.place = _caller()
        if not isinstance(key, Entity):
            raise wrong(self.place, f"key= of {topic!r} is {key!r}", "give an Entity")
        if not self.name.isidentifier():
            raise wrong(
                self.place, f"the name {self.name!r}", "give name=, of letters, digits and _"
            )
        if not self.fields:
            raise wrong(self.place, f"{topic!r} has no fields", "declare what is looked up")
        taken = {**dict.fromkeys(key.fields, "key"), time: "time"}
        _refuse_odd_fields(self.fields, self.place, taken)

    def column(self, field: str) -> str:
        """The row's column that holds a field: null where no version is known.

        `merchant__rate` is as it travels; the feature `merchant_rate` is a number everywhere.
        """
        return f"{self.name}__{field}"

    def _ref(self, name: str) -> FieldRef:
        return FieldRef(self.topic, f"{self.name}_{name}", self.fields[name], _caller(), self)


def _refuse_odd_fields(fields: dict[str, Any], place: Place, taken: dict[str, str]) -> None:
    """A field has a type, is a column of rows, of tables and of SQL, and is declared once."""
    for name, kind in fields.items():
        if not isinstance(kind, FieldType):
            mend = f"write {kind.__name__}(…)" if isinstance(kind, type) else "give a type"
            raise wrong(place, f"the field {name!r} is of type {kind!r}", mend)
        if not isinstance(name, str) or not name.isidentifier():
            raise wrong(place, f"a field is named {name!r}", "use letters, digits and _")
        if name in taken:
            raise wrong(
                place,
                f"{name!r} is declared as {taken[name]} and again as a field",
                "leave it out of fields",
            )


def _reference_name(topic: str) -> str:
    *parts, last = topic.split(".")
    is_version = last[:1] == "v" and last[1:].isdigit()
    return parts[-1] if is_version and parts else last


@dataclass(frozen=True)
class Window(_Comparable):
    """`aggregation(over=W, delay=D)`: events with t − D − W < t' ≤ t − D, of the same key."""

    aggregation: str
    of: FieldRef | LabelRef | None
    entity: Entity
    over_us: int
    delay_us: int
    resolution_us: int
    where: Condition | None
    parameters: tuple[int, ...]
    place: Place = field(compare=False)

    @property
    def terms(self) -> Terms:
        """What the aggregation is told of this window."""
        kind = self.of.type if isinstance(self.of, FieldRef) else None
        categories = kind.values if isinstance(kind, Category) else ()
        return Terms(self.over_us, self.parameters, categories)

    @property
    def columns(self) -> tuple[str, ...]:
        """The output columns' names."""
        what = "" if self.of is None else f"{self.of.name}_"
        after = f"_delay_{duration_name(self.delay_us)}" if self.delay_us else ""
        coarse = f"_every_{duration_name(self.resolution_us)}" if self.resolution_us else ""
        only = (
            "".join(f"_where_{c.name}" for c in self.where.comparisons)
            if self.where is not None
            else ""
        )
        over = duration_name(self.over_us)
        names = [
            f"{self.entity.name}_{what}{self.aggregation}{ending}_{over}{after}{coarse}{only}"
            for ending in aggregations()[self.aggregation].columns(self.terms)
        ]
        return tuple(map(_column_name, names))

    @property
    def name(self) -> str:
        """The name of its (first) column."""
        return self.columns[0]


def _fits_64_bits(whole: int) -> bool:
    return -(2**63) <= whole < 2**63


def _is_number(given: Any) -> bool:
    """Whether it is a finite number of a float64's range."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return abs(given) <= sys.float_info.max


def _column_name(name: str) -> str:
    """The name in letters, digits and _; conditions bring dots, signs and texts besides.

    Texts that would look alike then are told apart by a hash.
    """
    plain = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if re.fullmatch(r"[0-9A-Za-z_.-]*", name):
        return plain
    return f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Expression(_Comparable):
    """A column computed from others of the same event; a feature once it is `named`."""

    operator: str
    operands: tuple[Any, ...]
    name: str = ""
    unit: str = ""
    place: Place = field(default_factory=_caller, compare=False)

    def __post_init__(self) -> None:
        for operand in self.operands:
            fits = isinstance(operand, _Operand | tuple)
            if not fits and not _is_number(operand):
                raise wrong(
                    self.place,
                    f"{self.operator} with {operand!r}",
                    "use fields, features and numbers",
                )

    def named(self, name: str) -> Expression:
        """The same with the name of its column."""
        if not isinstance(name, str) or not name.isidentifier():
            raise wrong(_caller(), f"the name {name!r}", "use letters, digits and _")
        return Expression(self.operator, self.operands, name, self.unit, self.place)

    def windows(self) -> list[Window]:
        """Every window it reads."""
        found = []
        for operand in self.operands:
            if isinstance(operand, Window):
                found.append(operand)
            elif isinstance(operand, Expression):
                found += operand.windows()
        return found

    def fields(self) -> list[FieldRef | Condition]:
        """Every field, and condition on fields, that it reads."""
        found: list[FieldRef | Condition] = []
        for operand in self.operands:
            if isinstance(operand, FieldRef | Condition):
                found.append(operand)
            elif isinstance(operand, Expression):
                found += operand.fields()
        return found


Feature = FieldRef | Window | Expression


def _shown(given: Any) -> str:
    """What was given, in a few words."""
    if isinstance(given, FieldRef | LabelRef):
        return f"the field {given.name!r}"
    if isinstance(given, Window | Expression):
        return f"the feature {given.name!r}" if given.name else "an expression"
    return repr(given)[:80]


_SHORTEST_US = 1000
"""A shorter window or delay is a number of days or hours whose unit was forgotten."""


class Aggregate:
    """A word of the vocabulary: `mean(payments.amount, by=customer, over=days(7))`.

    Called with the field or label it reads (`count` and its like read none), the entity whose
    events it looks at, the window's length `over` and its `delay` in µs, `where`, a condition on
    fields that an event must meet to be looked at, and `resolution`, which rounds the window's
    edges up to its multiples. Some take arguments of their own.
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
        resolution: int = 0,
        **arguments: Any,
    ) -> Window:
        """Declare a window.

        Raises:
            DefinitionError: an argument is of no use, with the line and the mend.
        """
        place, name = _caller(), self._meaning.name
        for what, given in (("over", over), ("delay", delay), ("resolution", resolution)):
            if type(given) is not int:
                raise wrong(place, f"{what}= of {name}() is {given!r}", "give a duration: days(1)")
            if 0 < given < _SHORTEST_US:
                raise wrong(
                    place,
                    f"{what}= of {name}() is {given} microseconds",
                    f"write days({given}), hours({given}) or the like",
                )
        if not isinstance(by, Entity):
            raise wrong(place, f"by= of {name}() is {by!r}", "give an Entity")
        if over <= 0:
            raise wrong(place, f"{name}() has a window of {over} µs", "make over= positive")
        if delay < 0:
            raise wrong(place, f"{name}() has a delay of {delay} µs", "make delay= 0 or more")
        if resolution < 0 or resolution > over or (delay and resolution > delay):
            raise wrong(
                place,
                f"{name}() has a resolution of {resolution} µs",
                "make resolution= no longer than over=, nor than delay= where there is one",
            )
        if isinstance(where, bool):
            raise wrong(
                place,
                f"where= of {name}() is {where}, as == and != and in give it",
                "use payments.kind.is_in('a', 'b') of a field",
            )
        if where is not None and not isinstance(where, Condition):
            raise wrong(
                place,
                f"where= of {name}() is {_shown(where)}",
                "compare a field with a constant: payments.amount > 100, combined with &",
            )
        for read in (of, where):
            if isinstance(read, FieldRef | Condition) and read.reference is not None:
                raise wrong(
                    place,
                    f"{name}() reads the reference {read.reference.name!r}",
                    "windows read fields of the event; a reference is looked up for each event "
                    "alone",
                )
        for argument in arguments:
            if argument not in self._meaning.parameters:
                raise wrong(
                    place,
                    f"{name}() takes no {argument}=",
                    did_you_mean(
                        argument,
                        ["by", "over", "delay", "where", "resolution", *self._meaning.parameters],
                    ),
                )
        try:
            parameters = self._meaning.check(**arguments)
        except ValueError as error:
            raise wrong(place, f"{name}() with {error}", f"see {name}'s meaning") from None
        self._check_source(of, place)
        return Window(name, of, by, over, delay, resolution, where, parameters, place)

    def _check_source(self, of: Any, place: Place) -> None:
        name, takes = self._meaning.name, self._meaning.takes
        if takes == "nothing":
            if of is not None:
                raise wrong(
                    place, f"{name}() of {_shown(of)}", f"{name}() takes no field; use where="
                )
            return
        if takes == "label":
            if not isinstance(of, LabelRef):
                raise wrong(place, f"{name}() of {_shown(of)}", f"{name}() takes a label's field")
            return
        if not isinstance(of, FieldRef):
            raise wrong(place, f"{name}() of {_shown(of)}", "give an event's field")
        kind = of.type
        what = f"{name}() of the {type(kind).__name__.lower()} field {of.name!r}"
        if takes == "number" and isinstance(kind, Text | Category | Position | List):
            raise wrong(place, what, "give a number")
        if takes == "category" and not isinstance(kind, Category):
            raise wrong(place, what, "declare its values: Category('a', 'b', …)")
        if takes == "position" and not isinstance(kind, Position):
            raise wrong(place, what, "give a Position")
        if isinstance(kind, List) or (isinstance(kind, Float) and kind.decimals is None):
            raise wrong(place, what, "declare its decimals: Float(decimals=2)")


count = Aggregate("count")
sum = Aggregate("sum")
mean = Aggregate("mean")
std = Aggregate("std")
min = Aggregate("min")
max = Aggregate("max")
first = Aggregate("first")
last = Aggregate("last")
last_k = Aggregate("last_k")
distinct = Aggregate("distinct")
top_k = Aggregate("top_k")
percentile = Aggregate("percentile")
histogram = Aggregate("histogram")
entropy = Aggregate("entropy")
decay = Aggregate("decay")
rate = Aggregate("rate")
label_count = Aggregate("label_count")
seconds_since_last = Aggregate("seconds_since_last")
seconds_since_label = Aggregate("seconds_since_label")
seconds_between = Aggregate("seconds_between")
seconds_between_std = Aggregate("seconds_between_std")
speed = Aggregate("speed")


def velocity_ratio(
    of: FieldRef | None = None,
    *,
    by: Entity,
    short: int,
    long: int,
    delay: int = 0,
    where: Condition | None = None,
) -> Expression:
    """The pace over a short window against that over a long one: 1 where they are the same.

    The pace is the number of events, or the sum of a field, over the window's length.
    """
    if not 0 < short < long:
        raise wrong(_caller(), f"short={short} and long={long}", "make long= the longer one")
    word = count if of is None else sum
    recent, usual = (word(of, by=by, over=over, delay=delay, where=where) for over in (short, long))
    name = recent.name.replace(f"{recent.aggregation}_", "velocity_", 1)
    return (recent / usual * (long / short)).named(f"{name}_to_{duration_name(long)}")


def is_weekend(event: Event) -> Expression:
    """1 on Saturday and Sunday (UTC), else 0."""
    return Expression("is_weekend", (), "is_weekend", "0 or 1")


def is_night(event: Event) -> Expression:
    """1 from 00:00:00 to 06:59:59 (UTC), else 0."""
    return Expression("is_night", (), "is_night", "0 or 1")


def hour_of_day(event: Event) -> Expression:
    """0 to 23 (UTC)."""
    return Expression("hour_of_day", (), "hour_of_day", "h")


def minute_of_day(event: Event) -> Expression:
    """0 to 1439 (UTC)."""
    return Expression("minute_of_day", (), "minute_of_day", "min")


def day_of_week(event: Event) -> Expression:
    """0 on Monday to 6 on Sunday (UTC)."""
    return Expression("day_of_week", (), "day_of_week", "d")


def log1p(of: Any) -> Expression:
    """ln(1 + x); 0 where x ≤ -1."""
    return Expression("log1p", (of,))


def clip(of: Any, low: float, high: float) -> Expression:
    """The nearest number from `low` to `high`."""
    if not low <= high:
        raise wrong(_caller(), f"clip(…, {low!r}, {high!r})", "give the lower bound first")
    return Expression("clip", (of, float(low), float(high)))


def bucket(of: Any, edges: Sequence[float]) -> Expression:
    """How many of the rising edges are at or below x: 0 below the first."""
    made = tuple(float(edge) for edge in edges)
    rising = all(below < above for below, above in itertools.pairwise(made))
    if not made or not rising or not all(map(math.isfinite, made)):
        raise wrong(_caller(), f"bucket(…, {edges!r})", "give rising edges")
    return Expression("bucket", (of, made))


def category_hash(of: FieldRef, buckets: int) -> Expression:
    """The bucket of a text's hash, from 0 to `buckets` - 1."""
    if not isinstance(of, FieldRef) or not isinstance(of.type, Text | Category):
        raise wrong(_caller(), f"category_hash of {of!r}", "give a text or category field")
    if type(buckets) is not int or not 2 <= buckets <= 2**31:
        raise wrong(_caller(), f"category_hash into {buckets!r} buckets", "give 2 or more")
    return Expression("hash", (of, buckets), f"{of.name}_hash_{buckets}")


def length(of: FieldRef) -> Expression:
    """How many members a list field has."""
    if not isinstance(of, FieldRef) or not isinstance(of.type, List):
        raise wrong(_caller(), f"length of {of!r}", "give a list field")
    return Expression("length", (of,), f"{of.name}_length")


def is_known(reference: Reference) -> Expression:
    """1 where a version of the reference is known for the event's key and time, else 0."""
    if not isinstance(reference, Reference):
        raise wrong(_caller(), f"is_known of {reference!r}", "give a Reference")
    any_of_it = reference[next(iter(reference.fields))]
    return Expression("known", (any_of_it,), f"{reference.name}_is_known", "0 or 1")


def age_seconds(of: FieldRef) -> Expression:
    """Seconds from a timestamp field to the event's time; 0 where a reference has none."""
    if not isinstance(of, FieldRef) or not isinstance(of.type, Timestamp):
        raise wrong(_caller(), f"age_seconds of {of!r}", "give a timestamp field")
    return Expression("age_seconds", (of,), f"{of.name}_age_seconds", "s")


def _refuse_no_feature(feature: Any, number: int, place: Place) -> None:
    if isinstance(feature, FieldRef | Window | Expression | Condition):
        return
    mend = "give fields, windows and expressions"
    if isinstance(feature, list | tuple) or inspect.isgenerator(feature):
        mend = "write * before it to put in what it holds"
    elif isinstance(feature, Reference):
        mend = f"give a field of it, as {feature.name}.{next(iter(feature.fields))}"
    elif isinstance(feature, LabelRef):
        mend = "a label is known too late to be a feature; use label_count(…) or rate(…)"
    elif isinstance(feature, Aggregate):
        mend = "call it: count(by=…, over=days(1))"
    what = type(feature).__name__ if not isinstance(feature, str) else repr(feature)
    raise wrong(place, f"feature {number} of the list is no feature but {what}", mend)


class FeatureSet:
    """One declared set of features; everything else is compiled from it.

    Args:
        name: names topics, tables, the Feast service and the registered model.
        event: the event that is scored.
        label: the label that training learns, if there is one.
        owner: who answers for it.
        freshness: the promised time (µs) from an event to its visibility in the online store.
        version: names its topics and state; raised when a change alters values.
        description: what it tells and whom it serves, for its page and for catalogues.
        tags: words to find it by.
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
        description: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.event = event
        self.label = label
        self.owner = owner
        self.freshness_us = freshness
        self.ttl_us = ttl
        self.version = version
        self.features = list(features)
        self.description = inspect.cleandoc(description)
        self.tags = tuple(tags)
        self.place = _caller()
        given: tuple[Any, Any] = (event, label)
        if not isinstance(given[0], Event) or not isinstance(given[1], Label | None):
            wanted = "give an Event as event=, and a Label as label="
            raise wrong(self.place, f"event={event!r}, label={label!r}", wanted)
        for number, feature in enumerate(self.features, 1):
            _refuse_no_feature(feature, number, self.place)
        if type(version) is not int or version < 1:
            raise wrong(self.place, f"version is {version!r}", "give a whole number from 1 on")
        if isinstance(tags, str):
            raise wrong(self.place, f"tags is the text {tags!r}", f"write ({tags!r},)")
        for tag in self.tags:
            if not isinstance(tag, str) or not tag.strip():
                raise wrong(self.place, f"a tag is {tag!r}", "give words")
        if type(ttl) is not int or ttl < 0:
            raise wrong(
                self.place, f"ttl is {ttl!r}", "give a duration, such as days(30), or 0 for ever"
            )

"""The types a field of an event can have."""

from __future__ import annotations

from dataclasses import dataclass

from features.place import caller, did_you_mean, wrong

LARGEST_FLOAT = 1e300
"""Features are computed from floats: a sum of such numbers is still no infinity."""
LARGEST_WHOLE = 2**63 - 1
"""The kernels keep the smallest integer of 64 bits for where there is none."""
LARGEST_SCALED = 2**53
"""Past so many units a float64 has no decimals left to round."""

CURRENCIES = frozenset({"CHF", "EUR", "GBP", "JPY", "USD"})
"""Currencies whose minor unit the generator and the contracts know (ISO 4217)."""


@dataclass(frozen=True)
class Text:
    """A string; `token=True` replaces it by a keyed hash at ingest."""

    max: int = 64
    token: bool = False

    def __post_init__(self) -> None:
        _check_length("max", self.max)


@dataclass(frozen=True, init=False)
class Category:
    """One of some strings; its code is its place among them, from 0."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        fits = all(isinstance(value, str) and value for value in values)
        if not fits or not 1 <= len(set(values)) == len(values) <= 256:
            raise wrong(caller(), f"Category{values!r}", "give 1 to 256 different strings")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Money:
    """An amount in integer minor units of one currency; `max` bounds sums."""

    currency: str
    min: int | None = None
    max: int = 10**12

    def __post_init__(self) -> None:
        if self.currency not in CURRENCIES:
            raise wrong(
                caller(),
                f"the unknown currency {self.currency!r}",
                did_you_mean(self.currency, sorted(CURRENCIES)),
            )
        _check_whole(0 if self.min is None else self.min, self.max)


@dataclass(frozen=True)
class Integer:
    """A 64-bit integer, but for the smallest one."""

    min: int | None = None
    max: int | None = None

    def __post_init__(self) -> None:
        low, high = -LARGEST_WHOLE, LARGEST_WHOLE
        _check_whole(low if self.min is None else self.min, high if self.max is None else self.max)


@dataclass(frozen=True)
class Float:
    """A number with a fraction.

    With `decimals` it travels as an integer of units of 10^-decimals (half of one rounds to even),
    as money does in minor units, and can be aggregated: sums then do not depend on their order.
    Without, it is a float64 that columns may use, but windows may not. Bounds are in its own unit.
    """

    decimals: int | None = None
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        most = LARGEST_FLOAT
        if self.decimals is not None:
            if type(self.decimals) is not int or not 0 <= self.decimals <= 9:
                raise wrong(caller(), f"decimals={self.decimals!r}", "give 0 to 9, or leave it out")
            most = LARGEST_SCALED / 10**self.decimals
        low, high = (
            fallback if bound is None else bound
            for bound, fallback in ((self.min, -most), (self.max, most))
        )
        numbers = all(type(bound) in (int, float) for bound in (low, high))
        # A NaN is within nothing.
        if not (numbers and -most <= low <= high <= most):
            raise wrong(
                caller(), f"bounds from {low!r} to {high!r}", f"give rising ones within ±{most:g}"
            )


@dataclass(frozen=True)
class Boolean:
    """True or false; 1 or 0 where it is counted."""


@dataclass(frozen=True)
class Timestamp:
    """A time of its own beside the event's (RFC 3339 with an offset), in µs since 1970."""


@dataclass(frozen=True)
class Position:
    """An object with latitude and longitude in degrees, kept to a millionth of a degree."""


@dataclass(frozen=True)
class List:
    """Up to `max` strings, none longer than `max_text`."""

    max: int = 64
    max_text: int = 64

    def __post_init__(self) -> None:
        _check_length("max", self.max)
        _check_length("max_text", self.max_text)


FieldType = Text | Category | Money | Integer | Float | Boolean | Timestamp | Position | List
Ordered = Money | Integer | Float | Boolean | Timestamp
"""Types that are numbers."""


def _check_length(name: str, most: int) -> None:
    if type(most) is not int or most < 1:
        raise wrong(caller(), f"{name}={most!r}", "give a number from 1 on")


def _check_whole(low: int, high: int) -> None:
    whole = type(low) is int and type(high) is int
    if not (whole and -LARGEST_WHOLE <= low <= high <= LARGEST_WHOLE):
        raise wrong(
            caller(),
            f"bounds from {low!r} to {high!r}",
            f"give rising integers within ±{LARGEST_WHOLE}",
        )

"""The types a field of an event can have."""

from __future__ import annotations

from dataclasses import dataclass

from features.place import caller, did_you_mean, wrong

CURRENCIES = frozenset({"CHF", "EUR", "GBP", "JPY", "USD"})
"""Currencies whose minor unit the generator and the contracts know (ISO 4217)."""


@dataclass(frozen=True)
class Text:
    """A string; `token=True` replaces it by a keyed hash at ingest."""

    max: int = 64
    token: bool = False


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


@dataclass(frozen=True)
class Integer:
    """A 64-bit integer."""

    min: int | None = None
    max: int | None = None


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
        if self.decimals is not None and not 0 <= self.decimals <= 9:
            raise wrong(caller(), f"decimals={self.decimals!r}", "give 0 to 9, or leave it out")


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


FieldType = Text | Category | Money | Integer | Float | Boolean | Timestamp | Position | List
Ordered = Money | Integer | Float | Boolean | Timestamp
"""Types that are numbers."""

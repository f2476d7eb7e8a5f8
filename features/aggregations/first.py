"""The oldest number."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import (
    Aggregation,
    Entry,
    Floats,
    Ints,
    Primitive,
    Terms,
    value_or_zero,
)


class First(Aggregation):
    """The value of the oldest event; of several at one time, the one that arrived first."""

    name = "first"
    takes = "number"
    needs = (Primitive("one"), Primitive("first_value"))
    formula = "x of the first e"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return value_or_zero(*primitives)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(entries[0].value) if entries else 0.0

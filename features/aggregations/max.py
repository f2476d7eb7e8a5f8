"""The largest number."""

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


class Max(Aggregation):
    """The largest of the values."""

    name = "max"
    takes = "number"
    needs = (Primitive("one"), Primitive("largest"))
    formula = "max x"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return value_or_zero(*primitives)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(max((entry.value for entry in entries), default=0))

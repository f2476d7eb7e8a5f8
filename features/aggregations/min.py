"""The smallest number."""

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


class Min(Aggregation):
    """The smallest of the values."""

    name = "min"
    takes = "number"
    needs = (Primitive("one"), Primitive("smallest"))
    formula = "min x"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return value_or_zero(*primitives)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(min((entry.value for entry in entries), default=0))

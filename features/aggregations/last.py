"""The newest number."""

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


class Last(Aggregation):
    """The value of the newest event; of several at one time, the one that arrived last."""

    name = "last"
    takes = "number"
    needs = (Primitive("one"), Primitive("last_value"))
    formula = "x of the last e"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return value_or_zero(*primitives)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(entries[-1].value) if entries else 0.0

"""The mean of a number."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms, quotient


class Mean(Aggregation):
    """The arithmetic mean of the values."""

    name = "mean"
    takes = "number"
    needs = (Primitive("one"), Primitive("value"))
    formula = "float64(Σ x) / float64(n)"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        count, total = primitives
        return quotient(total, count)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        if not entries:
            return 0.0
        return float(sum(entry.value for entry in entries)) / float(len(entries))

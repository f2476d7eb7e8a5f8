"""The mean of a number."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, quotient


class Mean(Aggregation):
    """The arithmetic mean of the values."""

    name = "mean"
    takes = "number"
    primitives = (Primitive("one"), Primitive("value"))
    formula = "float64(Σ x) / float64(n)"

    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        count, total = primitives
        return quotient(total, count)

    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        if not entries:
            return 0.0
        return float(sum(entry.value for entry in entries)) / float(len(entries))

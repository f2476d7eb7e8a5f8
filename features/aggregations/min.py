"""The smallest number."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive


class Min(Aggregation):
    """The smallest of the values."""

    name = "min"
    takes = "number"
    primitives = (Primitive("one"), Primitive("smallest"))
    formula = "min x"

    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        count, smallest = primitives
        return (smallest * (count > 0)).astype("float64")

    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        return float(min((entry.value for entry in entries), default=0))

    def bounds(self, low: float, high: float, fewest: int, over_us: int) -> tuple[float, float]:
        return (low, high) if fewest else (min(low, 0.0), max(high, 0.0))

"""The largest number."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive


class Max(Aggregation):
    """The largest of the values."""

    name = "max"
    takes = "number"
    primitives = (Primitive("one"), Primitive("largest"))
    formula = "max x"

    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        count, largest = primitives
        return (largest * (count > 0)).astype("float64")

    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        return float(max((entry.value for entry in entries), default=0))

    def bounds(self, low: float, high: float, fewest: int, over_us: int) -> tuple[float, float]:
        return (low, high) if fewest else (min(low, 0.0), max(high, 0.0))

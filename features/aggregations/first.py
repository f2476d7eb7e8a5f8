"""The oldest number."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive


class First(Aggregation):
    """The value of the oldest event; of several at one time, the one that arrived first."""

    name = "first"
    takes = "number"
    primitives = (Primitive("one"), Primitive("first_value"))
    formula = "x of the first e"

    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        count, value = primitives
        return (value * (count > 0)).astype("float64")

    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        return float(entries[0].value) if entries else 0.0

    def bounds(self, low: float, high: float, fewest: int, over_us: int) -> tuple[float, float]:
        return (low, high) if fewest else (min(low, 0.0), max(high, 0.0))

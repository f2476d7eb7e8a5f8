"""The sum of a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive


class Sum(Aggregation):
    """The sum of the values, exact until its last step to float64."""

    name = "sum"
    takes = "number"
    primitives = (Primitive("value"),)
    formula = "Σ x"

    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        return primitives[0].astype("float64")

    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        return float(sum(entry.value for entry in entries))

    def bounds(self, low: float, high: float, fewest: int, over_us: int) -> tuple[float, float]:
        return (low * fewest if low >= 0 else -math.inf), math.inf

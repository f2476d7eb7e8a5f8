"""The sum of a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms


class Sum(Aggregation):
    """The sum of the values, exact until its last step to float64."""

    name = "sum"
    takes = "number"
    needs = (Primitive("value"),)
    formula = "Σ x"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return primitives[0].astype("float64")

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(sum(entry.value for entry in entries))

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return (low * fewest if low >= 0 else -math.inf), math.inf

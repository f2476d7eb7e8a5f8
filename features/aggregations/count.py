"""How many events."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms


class Count(Aggregation):
    """The number of events."""

    name = "count"
    takes = "nothing"
    needs = (Primitive("one"),)
    formula = "n"
    unit = "events"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return primitives[0].astype("float64")

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(len(entries))

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return float(fewest), math.inf

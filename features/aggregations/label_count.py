"""How many events whose label is true."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms


class LabelCount(Aggregation):
    """The number of true labels; an event without a label counts as false."""

    name = "label_count"
    takes = "label"
    needs = (Primitive("one", labelled=True),)
    formula = "Σ y"
    unit = "events"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return primitives[0].astype("float64")

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        return float(sum(entry.label for entry in entries))

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, math.inf

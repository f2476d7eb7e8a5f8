"""The share of events whose label is true."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms, quotient


class Rate(Aggregation):
    """True labels over events; an event without a label counts as false."""

    name = "rate"
    takes = "label"
    needs = (Primitive("one"), Primitive("one", labelled=True))
    formula = "float64(Σ y) / float64(n)"
    unit = "share"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        count, hits = primitives
        return quotient(hits, count)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        if not entries:
            return 0.0
        return float(sum(entry.label for entry in entries)) / float(len(entries))

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, 1.0

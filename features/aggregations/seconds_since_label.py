"""How long ago the last event with a true label was."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import (
    Aggregation,
    Entry,
    Floats,
    Ints,
    Primitive,
    Terms,
    seconds_since,
)


class SecondsSinceLabel(Aggregation):
    """Seconds from the newest event of the window whose label is true to this one."""

    name = "seconds_since_label"
    takes = "label"
    needs = (Primitive("last_time", labelled=True),)
    formula = "float64(t − max t of e with y, µs) / 10⁶"
    empty = "the window's length"
    unit = "s"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return seconds_since(primitives[0], times_us, terms.over_us)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        true = [entry.time_us for entry in entries if entry.label]
        return float(now.time_us - max(true) if true else terms.over_us) / 1e6

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, float("inf")

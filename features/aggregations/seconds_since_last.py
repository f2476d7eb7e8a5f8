"""How long ago the event before this one was."""

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


class SecondsSinceLast(Aggregation):
    """Seconds from the newest event of the window, this one left out, to this one."""

    name = "seconds_since_last"
    takes = "nothing"
    needs = (Primitive("previous_time"),)
    formula = "float64(t − max t of the earlier e, µs) / 10⁶"
    empty = "the window's length"
    unit = "s"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return seconds_since(primitives[0], times_us, terms.over_us)

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        earlier = [entry.time_us for entry in entries if not entry.is_current]
        return float(now.time_us - max(earlier) if earlier else terms.over_us) / 1e6

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, float("inf")

"""The mean time between events."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms


class SecondsBetween(Aggregation):
    """The mean inter-arrival time of the window's events, in event time."""

    name = "seconds_between"
    takes = "nothing"
    needs = (Primitive("one"), Primitive("first_time"), Primitive("last_time"))
    formula = "float64(max t − min t, µs) / float64(n − 1) / 10⁶"
    empty = "the window's length, as with one event"
    unit = "s"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        count, first, last = primitives
        apart_us = last - first
        apart_us[count < 2] = terms.over_us
        return apart_us / (count - 1).clip(1) / 1e6

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        if len(entries) < 2:
            return float(terms.over_us) / 1.0 / 1e6
        times = [entry.time_us for entry in entries]
        return float(max(times) - min(times)) / float(len(times) - 1) / 1e6

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, float(terms.over_us) / 1e6

"""The mean time between events."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive


class SecondsBetween(Aggregation):
    """The mean inter-arrival time of the window's events, in event time."""

    name = "seconds_between"
    takes = "nothing"
    primitives = (Primitive("one"), Primitive("first_time"), Primitive("last_time"))
    formula = "float64(max t − min t, µs) / float64(n − 1) / 10⁶"
    empty = "the window's length, as with one event"
    unit = "s"

    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        count, first, last = primitives
        apart_us = last - first
        apart_us[count < 2] = over_us
        return apart_us / (count - 1).clip(1) / 1e6

    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        if len(entries) < 2:
            return float(over_us) / 1.0 / 1e6
        times = [entry.time_us for entry in entries]
        return float(max(times) - min(times)) / float(len(times) - 1) / 1e6

    def bounds(self, low: float, high: float, fewest: int, over_us: int) -> tuple[float, float]:
        return 0.0, float(over_us) / 1e6

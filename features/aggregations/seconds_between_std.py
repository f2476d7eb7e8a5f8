"""How regular events are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms


class SecondsBetweenStd(Aggregation):
    """The standard deviation of the inter-arrival times of the window's events, in event time."""

    name = "seconds_between_std"
    takes = "nothing"
    needs = (
        Primitive("one"),
        Primitive("first_time"),
        Primitive("last_time"),
        Primitive("gap_squares"),
    )
    formula = "sqrt(m·Σ d² − (Σ d)²) / m / 10⁶ of the m = n − 1 times d between neighbours, µs"
    empty = "0, as with one event"
    source = "kernels/spread.py"
    unit = "s"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        import numpy as np

        from kernels.spread import spread

        count, first, last, low, high = primitives
        gaps = (count - 1).clip(0)
        out = np.empty(len(times_us))
        spread(gaps, (last - first) * (gaps > 0), low, high, out)
        return out / 1e6

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        times = sorted(entry.time_us for entry in entries)
        gaps = [b - a for a, b in itertools.pairwise(times)]
        m = len(gaps)
        if m == 0:
            return 0.0
        spread = m * sum(gap**2 for gap in gaps) - sum(gaps) ** 2
        return math.sqrt(spread) / float(m) / 1e6

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, float(terms.over_us) / 1e6

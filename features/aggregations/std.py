"""The standard deviation of a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms


class Std(Aggregation):
    """The population's standard deviation, from exact integer sums."""

    name = "std"
    takes = "number"
    needs = (
        Primitive("one"),
        Primitive("value"),
        Primitive("square_low"),
        Primitive("square_high"),
    )
    formula = "sqrt(n·Σ x² − (Σ x)²) / n"
    source = "kernels/spread.py"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        # Numba, which the plan can do without.
        from kernels.spread import spread

        out = times_us.astype("float64")
        spread(*primitives, out)
        return out

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        n = len(entries)
        if n == 0:
            return 0.0
        squares = sum(entry.value**2 for entry in entries)
        return math.sqrt(n * squares - sum(entry.value for entry in entries) ** 2) / float(n)

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, high - low

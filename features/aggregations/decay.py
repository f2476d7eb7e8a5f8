"""A sum in which what is older counts less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms
from features.duration import duration_name


class Decay(Aggregation):
    """The sum of a number, each weighed by its age: half as much after each half-life."""

    name = "decay"
    takes = "number"
    parameters = ("half_life",)
    formula = "Σ x · 2^(−(t − t′) / half-life), the oldest first, in float64"
    source = "kernels/transcend.py"

    def check(self, **given: Any) -> tuple[int, ...]:
        half_life = given.get("half_life")
        if type(half_life) is not int or half_life <= 0:
            raise ValueError(f"half_life= is {half_life!r}; give a duration, as days(1)")
        return (half_life,)

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return (Primitive("decayed", parameter=terms.parameters[0]),)

    def columns(self, terms: Terms) -> tuple[str, ...]:
        return (f"_half_{duration_name(terms.parameters[0])}",)

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        # The kernel writes the bits of a float64.
        return primitives[0].view("float64").copy()

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        from kernels.transcend import exp2

        total = 0.0
        for entry in entries:
            age = float(now.time_us - entry.time_us) / float(terms.parameters[0])
            total += float(entry.value) * exp2(-age)
        return total

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return (0.0 if low >= 0 else -math.inf), math.inf

"""A percentile of a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from features.aggregations.base import (
    Aggregation,
    Entry,
    Floats,
    Ints,
    Primitive,
    Terms,
    read_or_zero,
)


class Percentile(Aggregation):
    """The nearest-rank percentile: exact, for every event of the window is at hand."""

    name = "percentile"
    takes = "number"
    parameters = ("p",)
    formula = "the ⌈p/100 · n⌉-th smallest x"
    source = "Hyndman, Fan, Sample quantiles in statistical packages, 1996, definition 1"

    def check(self, **given: Any) -> tuple[int, ...]:
        p = given.get("p")
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p <= 100:
            raise ValueError(f"p= is {p!r}; give a percentage above 0, up to 100")
        if abs(round(p * 100) - p * 100) > 1e-9:
            raise ValueError(f"p= is {p!r}; give at most two decimals")
        return (round(p * 100),)

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return (Primitive("quantile", parameter=terms.parameters[0]),)

    def columns(self, terms: Terms) -> tuple[str, ...]:
        return (f"_p{terms.parameters[0] / 100:g}",)

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return read_or_zero(primitives[0])

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        if not entries:
            return 0.0
        rank = -(-terms.parameters[0] * len(entries) // 10_000)
        return float(sorted(entry.value for entry in entries)[rank - 1])

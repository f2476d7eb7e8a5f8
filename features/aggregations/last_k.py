"""The newest numbers, as a list."""

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
    numbered,
    read_or_zero,
    small_count,
)


class LastK(Aggregation):
    """The values of the k newest events, the newest first, a column each."""

    name = "last_k"
    takes = "number"
    parameters = ("k",)
    formula = "x of the last e, of the one before, …"

    def check(self, **given: Any) -> tuple[int, ...]:
        return (small_count("k", given.get("k"), 64),)

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return tuple(Primitive("last_value", parameter=n) for n in range(terms.parameters[0]))

    def columns(self, terms: Terms) -> tuple[str, ...]:
        return numbered(terms.parameters[0])

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> list[Floats]:
        return [read_or_zero(value) for value in primitives]

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> list[float]:
        newest = [float(entry.value) for entry in reversed(entries)]
        k = terms.parameters[0]
        return (newest + [0.0] * k)[:k]

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return min(low, 0.0), max(high, 0.0)

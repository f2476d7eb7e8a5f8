"""The most frequent categories, as a list."""

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
    counters,
    numbered,
    small_count,
)


class TopK(Aggregation):
    """The k most frequent categories, a column each: the place of each in its declaration, from 1.

    Of equally frequent ones the one declared first comes first; 0 where there are fewer.
    """

    name = "top_k"
    takes = "category"
    parameters = ("k",)
    formula = "the categories by falling |{e: x = c}|"
    unit = "place in the declaration"

    def check(self, **given: Any) -> tuple[int, ...]:
        return (small_count("k", given.get("k"), 64),)

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return counters("code", len(terms.categories))

    def columns(self, terms: Terms) -> tuple[str, ...]:
        return numbered(terms.parameters[0])

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> list[Floats]:
        import numpy as np

        counts = np.stack(primitives, axis=1)
        order = np.argsort(-counts, axis=1, kind="stable")
        found = np.where(np.take_along_axis(counts, order, axis=1) > 0, order + 1, 0)
        none = np.zeros(len(times_us))
        return [
            found[:, n].astype("float64") if n < found.shape[1] else none
            for n in range(terms.parameters[0])
        ]

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> list[float]:
        values = [entry.value for entry in entries]
        there = [c for c in terms.categories if c in values]
        ranked = sorted(there, key=lambda c: -values.count(c))
        places = [float(terms.categories.index(c) + 1) for c in ranked]
        k = terms.parameters[0]
        return (places + [0.0] * k)[:k]

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, float(len(terms.categories))

"""How many events in each range of a number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms, counters


class Histogram(Aggregation):
    """Events by value between edges, a column each; a value on an edge counts above it."""

    name = "histogram"
    takes = "number"
    parameters = ("edges",)
    formula = "|{e: edge ≤ x < next edge}|"
    unit = "events"

    def check(self, **given: Any) -> tuple[int, ...]:
        edges = given.get("edges")
        whole = isinstance(edges, list | tuple) and all(type(edge) is int for edge in edges)
        made = tuple(edges) if whole and edges else ()
        if not 1 <= len(made) <= 63 or sorted(set(made)) != [*made]:
            raise ValueError(f"edges= is {edges!r}; give 1 to 63 rising integers")
        return made

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return counters("bucket", len(terms.parameters) + 1)

    def columns(self, terms: Terms) -> tuple[str, ...]:
        edges = terms.parameters
        between = [f"_{low}_to_{high}" for low, high in itertools.pairwise(edges)]
        return (f"_below_{edges[0]}", *between, f"_from_{edges[-1]}")

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> list[Floats]:
        return [count.astype("float64") for count in primitives]

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> list[float]:
        edges = (-math.inf, *terms.parameters, math.inf)
        return [
            float(sum(low <= entry.value < high for entry in entries))
            for low, high in itertools.pairwise(edges)
        ]

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return 0.0, math.inf

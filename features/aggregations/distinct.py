"""How many different values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from features.aggregations.base import (
    Aggregation,
    Entry,
    Floats,
    Ints,
    Primitive,
    Terms,
    small_count,
)

DEFAULT_CAP = 1024


class Distinct(Aggregation):
    """The number of different values: exact up to `cap`, above it within 1.6 % (one sigma)."""

    name = "distinct"
    takes = "any"
    parameters = ("cap",)
    formula = "|{x}|, above the cap HyperLogLog with 2¹² registers, rounded"
    source = "Flajolet, Fusy, Gandouet, Meunier, HyperLogLog, 2007"
    unit = "values"

    def check(self, **given: Any) -> tuple[int, ...]:
        return (small_count("cap", given.get("cap", DEFAULT_CAP), 1_000_000),)

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return (Primitive("distinct", coding="hash", parameter=terms.parameters[0]),)

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        return primitives[0].astype("float64")

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        values = {entry.value for entry in entries}
        if len(values) <= terms.parameters[0]:
            return float(len(values))
        # The sketch's hashes and its last step are one routine; the registers are made anew here.
        import numpy as np

        from features.coding import hash_of
        from kernels.readings import HLL_BITS, from_registers, mixed

        registers = np.zeros(1 << HLL_BITS, np.int64)
        for value in values:
            bits = f"{int(mixed(hash_of(value))):064b}"
            at, rest = int(bits[:HLL_BITS], 2), bits[HLL_BITS:]
            registers[at] = max(registers[at], len(rest) - len(rest.lstrip("0")) + 1)
        return float(from_registers(registers))

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        return min(fewest, 1), math.inf

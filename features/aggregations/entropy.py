"""How evenly events spread over categories."""

from __future__ import annotations

import math
from collections.abc import Sequence

from features.aggregations.base import Aggregation, Entry, Floats, Ints, Primitive, Terms, counters


class Entropy(Aggregation):
    """Shannon's entropy of a category, in nats: 0 where all events are of one."""

    name = "entropy"
    takes = "category"
    formula = "ln n − Σ_c n_c · ln n_c / n, categories in declared order"
    source = "Shannon, A mathematical theory of communication, 1948; kernels/transcend.py"
    unit = "nat"

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        return counters("code", len(terms.categories))

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        import numpy as np

        from kernels.entropy import entropy

        out = np.empty(len(times_us))
        entropy(np.stack(primitives, axis=1), out)
        return out

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        from kernels.transcend import log

        n = len(entries)
        counts = [sum(entry.value == c for entry in entries) for c in terms.categories]
        if n in (0, *counts):
            return 0.0
        total = 0.0
        for count in counts:
            if count:
                total += float(count) * log(float(count))
        return log(float(n)) - total / float(n)

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        # Rounding may carry it a little past either end.
        return -1e-12, math.log(max(len(terms.categories), 1)) + 1e-12

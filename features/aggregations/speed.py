"""How fast one would have had to travel since the last event."""

from __future__ import annotations

from collections.abc import Sequence

from features.aggregations.base import NONE, Aggregation, Entry, Floats, Ints, Primitive, Terms


class Speed(Aggregation):
    """Kilometres an hour from the position of the event before, along the great circle.

    Less than a second between them counts as one; 0 where there is none before.
    """

    name = "speed"
    takes = "position"
    needs = (Primitive("previous_value"), Primitive("previous_time"), Primitive("own"))
    formula = "haversine(position, position of the e before) / max(t − t′, 1 s) · 3.6"
    source = "kernels/transcend.py"
    unit = "km/h"

    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Floats:
        import numpy as np

        from kernels.speed import speed_kmh

        before, before_us, own = primitives
        out = np.empty(len(times_us))
        speed_kmh(before, before_us, own, times_us, before_us != NONE, out)
        return out

    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> float:
        from kernels.transcend import distance_m

        earlier = [entry for entry in entries if not entry.is_current]
        if not earlier:
            return 0.0
        there, here = ([part / 1e6 for part in entry.value] for entry in (earlier[-1], now))
        seconds = max(now.time_us - earlier[-1].time_us, 1_000_000) / 1e6
        return distance_m(*there, *here) / seconds * 3.6

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        # Half the earth's circumference in a second.
        return 0.0, 7.3e7

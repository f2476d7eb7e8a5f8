"""Speeds between positions: great-circle distance over time.

A position travels as one integer: latitude and longitude in millionths of a degree, each moved to
be positive, the latitude in the high half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels.transcend import distance_m

LATITUDE_SHIFT, LONGITUDE_SHIFT = 90_000_000, 180_000_000


@njit(cache=True)
def _degrees(packed: int) -> tuple[float, float]:
    latitude = (packed >> 32) - LATITUDE_SHIFT
    longitude = (packed & 0xFFFFFFFF) - LONGITUDE_SHIFT
    return np.float64(latitude) / 1e6, np.float64(longitude) / 1e6


@njit(cache=True)
def speed_kmh(before: Any, before_us: Any, now: Any, now_us: Any, known: Any, out: Any) -> None:
    """Write km/h from one position to the other; 0 where none is known before.

    Args:
        before, now: int64 [n], packed positions; before_us, now_us: int64 [n], their times.
        known: bool [n].
        out: float64 [n].
    """
    for i in range(out.shape[0]):
        if not known[i]:
            out[i] = 0.0
            continue
        there = _degrees(before[i])
        here = _degrees(now[i])
        apart_m = distance_m(there[0], there[1], here[0], here[1])
        seconds = np.float64(max(now_us[i] - before_us[i], 1_000_000)) / 1e6
        out[i] = apart_m / seconds * 3.6

"""The standard deviation from exact sums.

σ = sqrt(n·Σx² − (Σx)²) / n, the population's, from integers: no rounding happens before the square
root, so the order of events cannot matter and nothing cancels. (In floating point this form is
unusable: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels.wide import product, square


@njit(cache=True)
def _to_float(high: np.uint64, low: np.uint64) -> float:
    """The double nearest to a 128-bit number, ties to even."""
    shift = 0
    top, rest = high, low
    lost = np.uint64(0)
    while top != np.uint64(0):
        lost |= rest & np.uint64(1)
        rest = (rest >> np.uint64(1)) | (top << np.uint64(63))
        top >>= np.uint64(1)
        shift += 1
    # What was shifted out matters only as "a little more".
    return np.float64(rest | lost) * 2.0**shift


@njit(cache=True)
def spread(count: Any, total: Any, square_low: Any, square_high: Any, out: Any) -> None:
    """Write the standard deviation of each row's window; 0 where it is empty.

    Args:
        count, total, square_low, square_high: int64 [n], n, Σx and the halves of Σx².
        out: float64 [n].
    """
    for i in range(count.shape[0]):
        if count[i] == 0:
            out[i] = 0.0
            continue
        n = np.uint64(count[i])
        carried, low = product(n, np.uint64(square_low[i]))
        high = n * np.uint64(square_high[i]) + carried
        total_high, total_low = square(total[i])
        high -= total_high + (np.uint64(1) if low < total_low else np.uint64(0))
        low -= total_low
        out[i] = np.sqrt(_to_float(high, low)) / np.float64(count[i])

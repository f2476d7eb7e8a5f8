"""Shannon's entropy from counts: H = ln n − Σ n_c · ln n_c / n, in nats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels.transcend import log


@njit(cache=True)
def entropy(counts: Any, out: Any) -> None:
    """Write the entropy of each row; 0 where all of it is in one category, or nothing is.

    Args:
        counts: int64 [n, categories].
        out: float64 [n].
    """
    for i in range(counts.shape[0]):
        n = np.int64(0)
        largest = np.int64(0)
        total = 0.0
        for c in range(counts.shape[1]):
            count = counts[i, c]
            n += count
            largest = max(largest, count)
            if count:
                total += np.float64(count) * log(np.float64(count))
        out[i] = 0.0 if n == largest else log(np.float64(n)) - total / np.float64(n)

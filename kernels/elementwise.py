"""Row by row: quotients that are never infinite, and ln(1 + x) with the same bits everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels import transcend


def quotient(above: Any, below: Any) -> Any:
    """above / below, float64; 0 where `below` is 0."""
    zero = np.equal(below, 0.0)
    return np.where(zero, 0.0, above / np.where(zero, 1.0, below))


@njit(cache=True)
def integer_quotient(above: Any, below: Any, out: Any) -> None:
    """Write float64(above) / float64(below), int64 [n] each; 0 where both are 0."""
    for i in range(out.shape[0]):
        out[i] = np.float64(above[i]) / np.float64(max(below[i], 1))


@njit(cache=True)
def _log1p(x: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = transcend.log1p(x[i]) if x[i] > -1.0 else 0.0


def log1p(x: Any, shape: tuple[int, ...]) -> Any:
    """ln(1 + x) of each x, float64 of `shape`; 0 where x ≤ -1."""
    out = np.empty(shape, np.float64)
    _log1p(np.ascontiguousarray(np.broadcast_to(x, shape), np.float64), out)
    return out

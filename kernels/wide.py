"""Products of 64-bit numbers, all 128 bits of them."""

from __future__ import annotations

import numpy as np
from numba import njit

_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@njit(cache=True)
def product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(high, low) 64 bits of a·b."""
    a_high, a_low = a >> _HALF, a & _LOW_HALF
    b_high, b_low = b >> _HALF, b & _LOW_HALF
    low = a_low * b_low
    middle = a_high * b_low + (low >> _HALF)
    other = a_low * b_high + (middle & _LOW_HALF)
    high = a_high * b_high + (middle >> _HALF) + (other >> _HALF)
    return high, (other << _HALF) | (low & _LOW_HALF)


@njit(cache=True)
def square(x: int) -> tuple[np.uint64, np.uint64]:
    """(high, low) 64 bits of x², for a signed x."""
    magnitude = np.uint64(x) if x >= 0 else np.uint64(0) - np.uint64(x)
    return product(magnitude, magnitude)

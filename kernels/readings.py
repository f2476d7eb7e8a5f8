"""What is read entry by entry from one window: distinct values, quantiles, gaps, decayed sums.

None of these follows a window in constant time without keeping a table for each window and key, so
they look at every entry of it. They get the rows [low, high) of the matrix, sorted by time, and
look at those whose mark has all flags of `mask`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels.arena import NONE
from kernels.transcend import exp2, log
from kernels.wide import product, square

HLL_BITS = 12
"""2^12 registers: a relative standard error of 1.04 / sqrt(4096) = 1.6 %."""


@njit(cache=True)
def mixed(x: int) -> np.uint64:
    """A 64-bit hash of a number."""
    high, low = product(np.uint64(x) ^ np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB))
    high, low = product(high ^ low, np.uint64(0x8EBC6AF09C88C6E3))
    return high ^ low


@njit(cache=True)
def distinct(held: Any, column: int, mark: int, mask: int, cap: int, low: int, high: int) -> Any:
    """How many different values: exact up to `cap`, above it HyperLogLog's estimate, rounded.

    Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog", 2007, with linear counting in its low range. A
    register keeps a maximum, so the estimate depends on the set of values alone.
    """
    size = 16
    while size < 2 * min(cap, high - low):
        size *= 2
    table = np.zeros(size, np.int64)
    used = np.zeros(size, np.bool_)
    found = 0
    for row in range(low, high):
        if mask and (held[row, mark] & mask) != mask:
            continue
        x = held[row, column]
        place = np.int64(mixed(x) & np.uint64(size - 1))
        while used[place] and table[place] != x:
            place = (place + 1) & (size - 1)
        if used[place]:
            continue
        if found == cap:
            return _estimate(held, column, mark, mask, low, high)
        used[place] = True
        table[place] = x
        found += 1
    return found


@njit(cache=True)
def _estimate(held: Any, column: int, mark: int, mask: int, low: int, high: int) -> Any:
    registers = np.zeros(1 << HLL_BITS, np.int64)
    for row in range(low, high):
        if mask and (held[row, mark] & mask) != mask:
            continue
        bits = mixed(held[row, column])
        register = np.int64(bits >> np.uint64(64 - HLL_BITS))
        rest = bits << np.uint64(HLL_BITS)
        rank = 1
        while rank <= 64 - HLL_BITS and not rest >> np.uint64(63):
            rank += 1
            rest <<= np.uint64(1)
        registers[register] = max(registers[register], rank)
    return from_registers(registers)


@njit(cache=True)
def from_registers(registers: Any) -> Any:
    """HyperLogLog's estimate from its registers, rounded."""
    size = registers.shape[0]
    total = np.int64(0)
    empty = 0
    for rank in registers:
        # Σ 2^-rank in units of 2^-53: an exact sum.
        total += np.int64(1) << (53 - rank)
        empty += rank == 0
    estimate = 0.7213 / (1.0 + 1.079 / size) * size * size / (total / 2.0**53)
    if estimate <= 2.5 * size and empty:
        estimate = size * log(size / empty)
    return np.int64(estimate + 0.5)


@njit(cache=True)
def quantile(
    held: Any, column: int, mark: int, mask: int, hundredths: int, low: int, high: int
) -> int:
    """The nearest-rank percentile, in hundredths of a percent; `NONE` where nothing qualifies."""
    values = np.empty(high - low, np.int64)
    n = 0
    for row in range(low, high):
        if mask and (held[row, mark] & mask) != mask:
            continue
        values[n] = held[row, column]
        n += 1
    if n == 0:
        return NONE
    rank = max((hundredths * n + 9_999) // 10_000, 1) - 1
    # Hoare's selection (1961) around the middle of three.
    first, last = 0, n - 1
    while first < last:
        a, b, c = values[first], values[(first + last) // 2], values[last]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            last = j
        elif rank >= i:
            first = i
        else:
            break
    return values[rank]


@njit(cache=True)
def gap_squares(held: Any, mark: int, mask: int, low: int, high: int) -> tuple[Any, Any]:
    """(low, high) halves of the sum of squares of the times between neighbours, in µs²."""
    total_low, total_high = np.uint64(0), np.uint64(0)
    before = NONE
    for row in range(low, high):
        if mask and (held[row, mark] & mask) != mask:
            continue
        if before != NONE:
            top, rest = square(held[row, 0] - before)
            total_low += rest
            total_high += top + (np.uint64(1) if total_low < rest else np.uint64(0))
        before = held[row, 0]
    return np.int64(total_low), np.int64(total_high)


@njit(cache=True)
def decayed(
    held: Any, column: int, mark: int, mask: int, half_life_us: int, t: int, low: int, high: int
) -> float:
    """Σ x · 2^(-(t - t') / half-life), the oldest first; x is 1 where `column` is 0."""
    total = 0.0
    for row in range(low, high):
        if mask and (held[row, mark] & mask) != mask:
            continue
        x = 1.0 if column == 0 else np.float64(held[row, column])
        total += x * exp2(-np.float64(t - held[row, 0]) / np.float64(half_life_us))
    return total

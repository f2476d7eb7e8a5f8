"""Minimum and maximum of a sliding window in a constant number of comparisons an update.

DABA Lite (Tangwongsan, Hirzel, Schneider, "In-order sliding-window aggregation in worst-case
constant time", The VLDB Journal 2021) on a stretch of the matrix. A column holds a partial result
for every entry. The window [low, high) is cut at L, R, A and B (`bounds`, in this order):

    [low, L) and [A, B): the extreme from the entry to B;  [L, R): from the entry to R;
    [R, A): from R to the entry;  [B, high): from B to the entry.

The front's and the back's partial results give the window's. Each step does a bounded part of the
work that turns the back into the next front. `sign` is 1 for a minimum, -1 for a maximum; an entry
without all flags of the mask counts as nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_LARGEST, _SMALLEST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


@njit(cache=True)
def nothing(sign: int) -> int:
    """What changes no extreme."""
    return _LARGEST if sign > 0 else _SMALLEST


@njit(cache=True)
def combine(a: int, b: int, sign: int) -> int:
    """The more extreme of two."""
    return min(a, b) if sign > 0 else max(a, b)


@njit(cache=True)
def value_of(held: Any, row: int, value: int, mark: int, mask: int, sign: int) -> int:
    """An entry's own value, or nothing where it does not qualify."""
    if mask and (held[row, mark] & mask) != mask:
        return nothing(sign)
    return held[row, value]


@njit(cache=True, inline="always")
def fix(
    held: Any,
    begin: int,
    value: int,
    column: int,
    mark: int,
    mask: int,
    sign: int,
    bounds: Any,
    slot: int,
    e: int,
    low: int,
    high: int,
) -> None:
    """Do one step of the work after an entry came or went; `bounds[slot, e]` are this window's."""
    if low == bounds[slot, e, 3]:
        bounds[slot, e, 0] = bounds[slot, e, 1] = bounds[slot, e, 2] = bounds[slot, e, 3] = high
        return
    if bounds[slot, e, 0] == bounds[slot, e, 3]:
        bounds[slot, e, 0] = low
        bounds[slot, e, 1] = bounds[slot, e, 3]
        bounds[slot, e, 2] = bounds[slot, e, 3] = high
    left, right = bounds[slot, e, 0], bounds[slot, e, 1]
    after, back = bounds[slot, e, 2], bounds[slot, e, 3]
    if left == right:
        bounds[slot, e, 0] += 1
        bounds[slot, e, 1] += 1
        bounds[slot, e, 2] += 1
        return
    later = nothing(sign) if after == back else held[begin + after, column]
    middle = nothing(sign) if right == after else held[begin + after - 1, column]
    own = held[begin + left, column]
    held[begin + left, column] = combine(combine(own, middle, sign), later, sign)
    bounds[slot, e, 0] += 1
    last = value_of(held, begin + after - 1, value, mark, mask, sign)
    held[begin + after - 1, column] = combine(last, later, sign)
    bounds[slot, e, 2] -= 1


@njit(cache=True, inline="always")
def came(
    held: Any,
    begin: int,
    value: int,
    column: int,
    mark: int,
    mask: int,
    sign: int,
    bounds: Any,
    slot: int,
    e: int,
    low: int,
    high: int,
) -> None:
    """The entry at `high - 1` has come to the window's end."""
    row = begin + high - 1
    own = value_of(held, row, value, mark, mask, sign)
    if bounds[slot, e, 3] < high - 1:
        own = combine(held[row - 1, column], own, sign)
    held[row, column] = own
    fix(held, begin, value, column, mark, mask, sign, bounds, slot, e, low, high)


@njit(cache=True)
def came_between(
    held: Any,
    begin: int,
    value: int,
    column: int,
    mark: int,
    mask: int,
    sign: int,
    bounds: Any,
    slot: int,
    e: int,
    low: int,
    high: int,
    at: int,
) -> None:
    """An entry has been put in at `at`, before the window's end; `high` counts it already.

    In the back this costs as many comparisons as entries follow it; in the front, the whole window.
    """
    if at < bounds[slot, e, 3]:
        begin_anew(held, begin, value, column, mark, mask, sign, bounds, slot, e, low, high)
        return
    for j in range(at, high):
        own = value_of(held, begin + j, value, mark, mask, sign)
        if j > bounds[slot, e, 3]:
            own = combine(held[begin + j - 1, column], own, sign)
        held[begin + j, column] = own
    fix(held, begin, value, column, mark, mask, sign, bounds, slot, e, low, high)


@njit(cache=True)
def begin_anew(
    held: Any,
    begin: int,
    value: int,
    column: int,
    mark: int,
    mask: int,
    sign: int,
    bounds: Any,
    slot: int,
    e: int,
    low: int,
    high: int,
) -> None:
    """Compute every partial result of a window."""
    found = nothing(sign)
    for j in range(high - 1, low - 1, -1):
        found = combine(found, value_of(held, begin + j, value, mark, mask, sign), sign)
        held[begin + j, column] = found
    # All is front. One entry more before L than in the back, as after every step.
    bounds[slot, e, 0] = bounds[slot, e, 1] = bounds[slot, e, 2] = min(low + 1, high)
    bounds[slot, e, 3] = high


@njit(cache=True, inline="always")
def extreme(
    held: Any,
    begin: int,
    column: int,
    sign: int,
    bounds: Any,
    slot: int,
    e: int,
    low: int,
    high: int,
) -> int:
    """The extreme of a window; `nothing` where it is empty."""
    front = nothing(sign) if low == bounds[slot, e, 3] else held[begin + low, column]
    back = nothing(sign) if bounds[slot, e, 3] == high else held[begin + high - 1, column]
    return combine(front, back, sign)


@njit(cache=True)
def scan(
    held: Any, value: int, mark: int, mask: int, sign: int, low_row: int, high_row: int
) -> int:
    """The extreme of the rows [low_row, high_row), entry by entry."""
    found = nothing(sign)
    for row in range(low_row, high_row):
        found = combine(found, value_of(held, row, value, mark, mask, sign), sign)
    return found

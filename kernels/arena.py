"""The state of sliding windows: one matrix of entries, a segment of it for every key.

A row of the matrix is an entry: its event time, a mark (identity and flags, where they are needed),
the values that are read one by one, and *running sums*. The sum over any stretch of entries is the
difference of two running sums, so no window keeps sums of its own, and an entry costs the same
however many windows it lies in. The first row of a segment is no entry: it holds the running sums
up to the first one.

All numbers are 64-bit integers. Running sums may wrap around: differences of them are exact as long
as the sum of one window fits, which the plan makes sure of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from kernels.wide import square

ARRIVED, LABEL, FIRST_CONDITION = 1, 2, 4
"""Flags of an entry; the bits from `FIRST_CONDITION` on belong to the caller's conditions."""

FLAG_BITS = 16
"""The low bits of a mark are flags, the others a hash of the event id: enough to tell apart events
of one key and one microsecond."""

FLAGS = (1 << FLAG_BITS) - 1

ONE, VALUE, SQUARE = 0, 1, 2
"""What is summed: entries, a value, or its square (two columns, the low half first)."""

BEFORE_ALL = np.iinfo(np.int64).min
"""The time of a segment's first row."""

NONE = np.iinfo(np.int64).min
"""What a reading gives where no entry qualifies."""


class Spec(NamedTuple):
    """What is kept and read: int64 arrays, but for `mark` and `counters`.

    `over_us`, `delay_us`, `resolution_us` [ranges]: the edges of each range.
    `mark`: the matrix column of marks, 0 where there is none.
    `raw` [values]: the column that keeps each value, -1 where only sums of it are kept.
    `sum_*` [sums]: what is summed (`ONE`, `VALUE`, `SQUARE`), of which value, of entries with which
    flags, and its column.
    `first` [ranges + 1]: readings of range r are `first[r]` to `first[r + 1]`. A reading has a
    `kind`, a column (or an index) `at`, the column `by` of the running number of entries that
    qualify (-1: all do), their `mask`, and a `parameter`.
    `extreme_first` [ranges + 1] and `extreme_*`: minima (sign 1) and maxima (sign -1) of a range,
    the column of the values and the column of their partial results.
    `counter_first` [ranges + 1] and `counter_*`: counts of small codes, their column, and where
    their counters begin; `counters` is how many there are in all.
    `reach_us`: how far back any range looks. `block_us`: entries that have been settled for
    `exact_us` are kept as one row a block of this length (0: each is kept), with the extremes of
    `merged_column` in the sense of `merged_sign`. `coarse` [ranges]: 1 where a range has its edges
    at the blocks' ends and reads nothing else of what lies in them.
    """

    over_us: Any
    delay_us: Any
    resolution_us: Any
    mark: int
    raw: Any
    sum_kind: Any
    sum_value: Any
    sum_mask: Any
    sum_column: Any
    first: Any
    kind: Any
    at: Any
    by: Any
    mask: Any
    parameter: Any
    extreme_first: Any
    extreme_sign: Any
    extreme_value: Any
    extreme_mask: Any
    extreme_column: Any
    counter_first: Any
    counter_value: Any
    counter_mask: Any
    counter_offset: Any
    counters: int
    reach_us: int
    block_us: int
    exact_us: int
    coarse: Any
    merged_sign: Any
    merged_column: Any


class Arena(NamedTuple):
    """The state of every key.

    By key: `start` int64, `length` and `capacity` int32 of its segment (the first row counts),
    `cursor_us` int64 (the event time its cursors stand at), `cursors` int32 [keys, ranges, 2] (the
    first row inside each range and the one after its last, from the segment's start), `bounds`
    int32 [keys, extremes, 4] (see `kernels/extremes.py`), `counters` int32 [keys, counters].
    `held` int64 [rows, columns] is the matrix, `used` int64 [1] how many of its rows are given out.
    """

    start: Any
    length: Any
    capacity: Any
    cursor_us: Any
    cursors: Any
    bounds: Any
    counters: Any
    held: Any
    used: Any


@njit(cache=True)
def round_up(t: int, resolution: int) -> int:
    """The first multiple of a resolution that is not below t; t itself where there is none."""
    return t if resolution == 0 else -((-t) // resolution) * resolution


@njit(cache=True)
def edges(t: int, over: int, delay: int, resolution: int) -> tuple[int, int]:
    """(after, until): a range as of t holds the entries with after < time ≤ until."""
    until = t if delay == 0 else round_up(t - delay, resolution)
    return round_up(t - delay - over, resolution), until


@njit(cache=True)
def first_after(held: Any, lo: int, hi: int, t: int) -> int:
    """The first row in [lo, hi) whose time is greater than t, searched from the newest end."""
    # Most searches end near the newest entry: gallop back before bisecting.
    step = 1
    right = hi
    left = hi
    while left > lo and held[left - 1, 0] > t:
        right = left - 1
        left = max(lo, right - step)
        step *= 2
    while left < right:
        middle = (left + right) // 2
        if held[middle, 0] > t:
            right = middle
        else:
            left = middle + 1
    return left


@njit(cache=True)
def first_above(held: Any, lo: int, hi: int, column: int, bound: int) -> int:
    """The first row in [lo, hi) whose running number is greater than a bound; hi where none is."""
    while lo < hi:
        middle = (lo + hi) // 2
        if held[middle, column] > bound:
            hi = middle
        else:
            lo = middle + 1
    return lo


@njit(cache=True)
def add(held: Any, row: int, column: int, kind: int, x: int, sign: int) -> None:
    """Add an entry's share to a running sum, or take it off."""
    if kind == ONE:
        held[row, column] += sign
    elif kind == VALUE:
        held[row, column] += sign * x
    else:
        high, low = square(x)
        old = np.uint64(held[row, column])
        top = np.uint64(held[row, column + 1])
        if sign > 0:
            new = old + low
            top += high + (np.uint64(1) if new < old else np.uint64(0))
        else:
            new = old - low
            top -= high + (np.uint64(1) if old < low else np.uint64(0))
        held[row, column] = np.int64(new)
        held[row, column + 1] = np.int64(top)


@njit(cache=True)
def move_rows(held: Any, source: int, target: int, count: int) -> None:
    """Move rows within the matrix; they may overlap."""
    if target < source:
        for j in range(count):
            for c in range(held.shape[1]):
                held[target + j, c] = held[source + j, c]
    else:
        for j in range(count - 1, -1, -1):
            for c in range(held.shape[1]):
                held[target + j, c] = held[source + j, c]

"""How the ranges of a key follow its newest event: two cursors each, and what is kept between them.

A cursor moves over each entry once, so following costs O(1) an event, amortised.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from kernels import extremes
from kernels.arena import BEFORE_ALL, Arena, Spec


# What runs for every entry takes arrays, not the tuples that hold them: numba counts references to
# every array of a tuple at each call.
@njit(cache=True, inline="always")
def come(
    held: Any,
    row: int,
    mark: int,
    counters: Any,
    slot: int,
    first: int,
    end: int,
    value: Any,
    masks: Any,
    offset: Any,
    sign: int,
) -> None:
    """Count the entry of a row into the counters [first, end) of a range, or out of them."""
    for g in range(first, end):
        if masks[g] == 0 or (held[row, mark] & masks[g]) == masks[g]:
            counters[slot, offset[g] + held[row, value[g]]] += sign


@njit(cache=True, inline="always")
def advance(
    held: Any,
    begin: int,
    mark: int,
    slot: int,
    low: int,
    high: int,
    n: int,
    after: int,
    until: int,
    bounds: Any,
    first: int,
    end: int,
    signs: Any,
    values: Any,
    masks: Any,
    columns: Any,
    counters: Any,
    first_counter: int,
    end_counter: int,
    counted: Any,
    counter_masks: Any,
    offset: Any,
) -> tuple[int, int]:
    """Where the cursors of a range come to that keeps extremes [first, end) or counters."""
    while high < n and held[begin + high, 0] <= until:
        row = begin + high
        high += 1
        come(
            held,
            row,
            mark,
            counters,
            slot,
            first_counter,
            end_counter,
            counted,
            counter_masks,
            offset,
            1,
        )
        for e in range(first, end):
            extremes.came(
                held,
                begin,
                values[e],
                columns[e],
                mark,
                masks[e],
                signs[e],
                bounds,
                slot,
                e,
                low,
                high,
            )
    while low < high and held[begin + low, 0] <= after:
        row = begin + low
        come(
            held,
            row,
            mark,
            counters,
            slot,
            first_counter,
            end_counter,
            counted,
            counter_masks,
            offset,
            -1,
        )
        low += 1
        for e in range(first, end):
            extremes.fix(
                held,
                begin,
                values[e],
                columns[e],
                mark,
                masks[e],
                signs[e],
                bounds,
                slot,
                e,
                low,
                high,
            )
    return low, high


@njit(cache=True)
def leave(arena: Arena, spec: Spec, slot: int, r: int, after: int) -> None:
    """Move the lower cursor of a range past every entry up to a time."""
    low, high = advance(
        arena.held,
        arena.start[slot],
        spec.mark,
        slot,
        arena.cursors[slot, r, 0],
        arena.cursors[slot, r, 1],
        arena.length[slot],
        after,
        BEFORE_ALL,
        arena.bounds,
        spec.extreme_first[r],
        spec.extreme_first[r + 1],
        spec.extreme_sign,
        spec.extreme_value,
        spec.extreme_mask,
        spec.extreme_column,
        arena.counters,
        spec.counter_first[r],
        spec.counter_first[r + 1],
        spec.counter_value,
        spec.counter_mask,
        spec.counter_offset,
    )
    arena.cursors[slot, r, 0] = low
    arena.cursors[slot, r, 1] = high


@njit(cache=True)
def rescan(arena: Arena, spec: Spec, slot: int, r: int) -> None:
    """Compute the partial extremes of a range anew."""
    for e in range(spec.extreme_first[r], spec.extreme_first[r + 1]):
        extremes.begin_anew(
            arena.held,
            arena.start[slot],
            spec.extreme_value[e],
            spec.extreme_column[e],
            spec.mark,
            spec.extreme_mask[e],
            spec.extreme_sign[e],
            arena.bounds,
            slot,
            e,
            arena.cursors[slot, r, 0],
            arena.cursors[slot, r, 1],
        )

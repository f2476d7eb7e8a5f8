"""The segments of the matrix: room for entries to come, and letting go of what no event can reach.

What is *settled* is known to get no more entries: no event comes whose time is below it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels import extremes
from kernels.arena import BEFORE_ALL, Arena, Spec, first_after, move_rows, round_up
from kernels.cursors import leave, rescan


@njit(cache=True)
def begin_segment(arena: Arena, slot: int, t: int) -> None:
    """The row before the first entry, and cursors that stand at a time."""
    row = arena.start[slot]
    for c in range(arena.held.shape[1]):
        arena.held[row, c] = 0
    arena.held[row, 0] = BEFORE_ALL
    arena.length[slot] = 1
    arena.cursor_us[slot] = t
    arena.cursors[slot] = 1
    arena.bounds[slot] = 1
    arena.counters[slot] = 0


@njit(cache=True)
def drop_expired(arena: Arena, spec: Spec, slot: int, before_us: int) -> int:
    """Take what is older out of the ranges of a key; returns how many rows go.

    The rows stay where they are, the last of them as the segment's first row to be: the caller
    moves those that are kept and sets `length`.
    """
    held, begin, n = arena.held, arena.start[slot], arena.length[slot]
    dropped = 0
    while dropped + 1 < n and held[begin + dropped + 1, 0] < before_us:
        dropped += 1
    if dropped == 0:
        return 0
    for r in range(spec.over_us.shape[0]):
        # As if the window had moved on: everything up to the last one dropped leaves.
        low, high = arena.cursors[slot, r, 0], arena.cursors[slot, r, 1]
        last = min(high, dropped + 1)
        if low < last:
            leave(arena, spec, slot, r, held[begin + last - 1, 0])
        arena.cursors[slot, r, 0] = max(arena.cursors[slot, r, 0] - dropped, 1)
        arena.cursors[slot, r, 1] = max(arena.cursors[slot, r, 1] - dropped, 1)
        for e in range(spec.extreme_first[r], spec.extreme_first[r + 1]):
            for b in range(4):
                arena.bounds[slot, e, b] = max(arena.bounds[slot, e, b] - dropped, 1)
    held[begin + dropped, 0] = BEFORE_ALL
    return dropped


@njit(cache=True)
def merge_settled(arena: Arena, spec: Spec, slot: int, until_us: int) -> int:
    """Make one row of the entries of each block up to a time; returns how many rows go.

    The last entry of a block stays, with the running sums up to it and the extremes of them all:
    the ranges that still reach it have their edges at the blocks' ends.
    """
    held, begin, n = arena.held, arena.start[slot], np.int64(arena.length[slot])
    end = first_after(held, begin + 1, begin + n, until_us) - begin
    kept = np.int64(1)
    for j in range(1, end):
        kept += j + 1 == end or not _same_block(held, begin + j, spec.block_us)
    if kept == end:
        return 0
    for r in range(spec.over_us.shape[0]):
        low, last = arena.cursors[slot, r, 0], min(arena.cursors[slot, r, 1], end)
        if not spec.coarse[r] and low < last:
            # As if the window had moved on: nothing up to here is in it at the next event.
            leave(arena, spec, slot, r, held[begin + last - 1, 0])
    place = np.empty(end, np.int64)
    kept = np.int64(1)
    for j in range(1, end):
        place[j] = kept
        if j + 1 < end and _same_block(held, begin + j, spec.block_us):
            for e in range(spec.merged_column.shape[0]):
                c = spec.merged_column[e]
                held[begin + j + 1, c] = extremes.combine(
                    held[begin + j, c], held[begin + j + 1, c], spec.merged_sign[e]
                )
        else:
            move_rows(held, begin + j, begin + kept, 1)
            kept += 1
    gone = end - kept
    move_rows(held, begin + end, begin + kept, n - end)
    arena.length[slot] = n - gone
    for r in range(spec.over_us.shape[0]):
        for b in range(2):
            at = arena.cursors[slot, r, b]
            arena.cursors[slot, r, b] = place[at] if at < end else at - gone
        rescan(arena, spec, slot, r)
    return gone


@njit(cache=True)
def _same_block(held: Any, row: int, block_us: int) -> bool:
    """Whether an entry and the one after it lie in the same block."""
    return round_up(held[row, 0], block_us) == round_up(held[row + 1, 0], block_us)


@njit(cache=True)
def _let_go(arena: Arena, spec: Spec, slot: int, settled_us: int) -> tuple[int, int]:
    """(rows dropped, rows merged) of a key; of these two, `length` counts only the first still."""
    merged = 0
    if spec.block_us:
        merged = merge_settled(arena, spec, slot, settled_us - spec.exact_us)
    return drop_expired(arena, spec, slot, settled_us - spec.reach_us), merged


@njit(cache=True)
def reserve(slots: Any, skip: Any, wanted: Any, arena: Arena, spec: Spec, settled_us: int) -> int:
    """Make room in the segments for rows to come.

    Args:
        slots: int64 [n], the key of each row; `skip`: bool [n], rows that keep no entry.
        wanted: int32 [keys], all 0, and again on return.
        arena, spec: the state.
        settled_us: what no event reaches that comes from now on, and is no older than this, is let
            go of where a segment is full; `BEFORE_ALL` where nothing is settled.

    Returns:
        0, or how many rows the matrix has to have free: `rebuild` it, and reserve again.
    """
    held = arena.held
    n = slots.shape[0]
    for i in range(n):
        if not skip[i]:
            wanted[slots[i]] += 1
    asked = 0
    fits = True
    for i in range(n):
        slot = slots[i]
        extra = wanted[slot]
        if extra == 0:
            continue
        wanted[slot] = 0
        kept = arena.length[slot]
        if kept == 0:
            # The first row of a segment is no entry.
            extra += 1
        if kept + extra <= arena.capacity[slot]:
            continue
        begin, dropped, merged = arena.start[slot], 0, 0
        if kept and settled_us != BEFORE_ALL:
            dropped, merged = _let_go(arena, spec, slot, settled_us)
            kept -= dropped + merged
        target = begin
        if (dropped + merged) * 4 < kept or kept + extra > arena.capacity[slot]:
            # Small segments grow by half, large ones by a quarter: that bounds what lies idle.
            needed = kept + extra
            size = needed + (needed // 2 if needed < 64 else needed // 4)
            asked += size
            if arena.used[0] + size > held.shape[0]:
                fits = False
            else:
                target = arena.used[0]
                arena.start[slot] = target
                arena.capacity[slot] = size
                arena.used[0] += size
        move_rows(held, begin + dropped, target, kept)
        arena.length[slot] = kept
    # Rebuilding takes back what has fitted.
    return 0 if fits else asked


@njit(cache=True)
def gather(held: Any, start: Any, length: Any, slots: Any, out: Any) -> None:
    """Write the segments of some slots, int64 [k], one after the other."""
    at = 0
    for k in range(slots.shape[0]):
        begin = start[slots[k]]
        for j in range(length[slots[k]]):
            for c in range(held.shape[1]):
                out[at, c] = held[begin + j, c]
            at += 1


@njit(cache=True, nogil=True)
def rebuild(arena: Arena, spec: Spec, target: Any, keys: int, slack: int, settled_us: int) -> None:
    """Move the segments to a new matrix, without what no event reaches any more.

    Each gets room for one entry more in `slack`, if the matrix has it.
    """
    held = arena.held
    used = 0
    for slot in range(keys):
        if arena.length[slot] == 0:
            arena.capacity[slot] = 0
            continue
        dropped = 0
        if settled_us != BEFORE_ALL:
            dropped, _ = _let_go(arena, spec, slot, settled_us)
        kept = arena.length[slot] - dropped
        begin = arena.start[slot] + dropped
        for j in range(kept):
            for c in range(held.shape[1]):
                target[used + j, c] = held[begin + j, c]
        arena.start[slot] = used
        arena.length[slot] = kept
        used += kept + min(kept // slack + 1, target.shape[0] - used - kept)
        arena.capacity[slot] = used - arena.start[slot]
    arena.used[0] = used

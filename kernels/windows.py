"""Exact sliding windows by key: rows in, the readings of every range out.

A *range* is one (window, delay, resolution). For each key and range two cursors mark the entries
inside it as of the key's newest event. An event in order is added at the end of its key's segment
and moves each cursor forward, so an update costs O(1), amortised; sums are differences of running
sums (`kernels/arena.py`), extremes follow in O(1) (`kernels/extremes.py`). An event out of order is
put in its place, and its own windows are found by bisection; the cursors stay.

A label changes the flags of its event. One that comes before its event stands in the matrix without
the flag `ARRIVED`: it counts nowhere until its event comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels import extremes, readings
from kernels.arena import (
    ARRIVED,
    BEFORE_ALL,
    FLAG_BITS,
    FLAGS,
    LABEL,
    NONE,
    SQUARE,
    Arena,
    Spec,
    add,
    edges,
    first_above,
    first_after,
    move_rows,
)

KINDS = (
    "one",
    "value",
    "square_low",
    "square_high",
    "first",
    "last",
    "previous",
    "extreme",
    "counter",
    "distinct",
    "quantile",
    "gap_square_low",
    "gap_square_high",
    "decayed",
    "own",
)
"""What a reading can be."""

ONE, VALUE, SQUARE_LOW, SQUARE_HIGH, FIRST, LAST, PREVIOUS, EXTREME, COUNTER = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
)
DISTINCT, QUANTILE, GAP_SQUARE_LOW, GAP_SQUARE_HIGH, DECAYED, OWN = 9, 10, 11, 12, 13, 14


@njit(cache=True)
def _share(
    held: Any,
    row: int,
    end: int,
    before: int,
    after: int,
    x: Any,
    i: int,
    kind: Any,
    value: Any,
    mask: Any,
    column: Any,
) -> None:
    """Change the running sums of rows [row, end) by what an entry with these flags gives.

    `before` and `after` are its flags so far (-1: it was not there) and from now on.
    """
    for k in range(kind.shape[0]):
        was = before >= 0 and (before & mask[k]) == mask[k]
        is_now = after >= 0 and (after & mask[k]) == mask[k]
        if was == is_now:
            continue
        own = x[value[k], i] if value[k] >= 0 else 1
        for j in range(row, end):
            add(held, j, column[k], kind[k], own, 1 if is_now else -1)


# What runs for every entry takes arrays, not the tuples that hold them: numba counts references to
# every array of a tuple at each call.
@njit(cache=True)
def _come(
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


@njit(cache=True)
def _advance(
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
        _come(
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
        _come(
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
def _leave(arena: Arena, spec: Spec, slot: int, r: int, after: int) -> None:
    """Move the lower cursor of a range past every entry up to a time."""
    low, high = _advance(
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
def _rescan(arena: Arena, spec: Spec, slot: int, r: int) -> None:
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
            _leave(arena, spec, slot, r, held[begin + last - 1, 0])
        arena.cursors[slot, r, 0] = max(arena.cursors[slot, r, 0] - dropped, 1)
        arena.cursors[slot, r, 1] = max(arena.cursors[slot, r, 1] - dropped, 1)
        for e in range(spec.extreme_first[r], spec.extreme_first[r + 1]):
            for b in range(4):
                arena.bounds[slot, e, b] = max(arena.bounds[slot, e, b] - dropped, 1)
    held[begin + dropped, 0] = BEFORE_ALL
    return dropped


@njit(cache=True)
def reserve(
    slots: Any, skip: Any, wanted: Any, arena: Arena, spec: Spec, expire_before_us: int
) -> int:
    """Make room in the segments for rows to come.

    Args:
        slots: int64 [n], the key of each row; `skip`: bool [n], rows that keep no entry.
        wanted: int32 [keys], all 0, and again on return.
        arena, spec: the state.
        expire_before_us: older entries are let go of where a segment is full.

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
        begin, dropped = arena.start[slot], 0
        if kept:
            dropped = drop_expired(arena, spec, slot, expire_before_us)
            kept -= dropped
        target = begin
        if dropped * 4 < kept or kept + extra > arena.capacity[slot]:
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
def _begin_segment(arena: Arena, slot: int, t: int) -> None:
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
def rebuild(
    arena: Arena, spec: Spec, target: Any, keys: int, slack: int, expire_before_us: int
) -> None:
    """Move the segments to a new matrix, without what has expired.

    Each gets room for one entry more in `slack`, if the matrix has it.
    """
    held = arena.held
    used = 0
    for slot in range(keys):
        if arena.length[slot] == 0:
            arena.capacity[slot] = 0
            continue
        dropped = drop_expired(arena, spec, slot, expire_before_us)
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


@njit(cache=True)
def _insert(
    arena: Arena, spec: Spec, slot: int, at: int, t: int, mark: int, values: Any, i: int
) -> None:
    """Put an entry in its place and into the ranges it lies in, as of where the cursors stand."""
    held, begin, n = arena.held, arena.start[slot], arena.length[slot]
    move_rows(held, begin + at, begin + at + 1, n - at)
    row = begin + at
    n += 1
    arena.length[slot] = n
    held[row] = held[row - 1]
    held[row, 0] = t
    flags = 0
    if spec.mark:
        held[row, spec.mark] = mark
        flags = mark & FLAGS
    for v in range(spec.raw.shape[0]):
        if spec.raw[v] >= 0:
            held[row, spec.raw[v]] = values[v, i]
    _share(
        held,
        row,
        begin + n,
        -1,
        flags,
        values,
        i,
        spec.sum_kind,
        spec.sum_value,
        spec.sum_mask,
        spec.sum_column,
    )
    for r in range(spec.over_us.shape[0]):
        after, until = edges(
            arena.cursor_us[slot], spec.over_us[r], spec.delay_us[r], spec.resolution_us[r]
        )
        if t > until:
            continue
        arena.cursors[slot, r, 1] += 1
        for e in range(spec.extreme_first[r], spec.extreme_first[r + 1]):
            for b in range(4):
                if t <= after or at < arena.bounds[slot, e, b]:
                    arena.bounds[slot, e, b] += 1
        if t <= after:
            arena.cursors[slot, r, 0] += 1
            continue
        _come(
            held,
            row,
            spec.mark,
            arena.counters,
            slot,
            spec.counter_first[r],
            spec.counter_first[r + 1],
            spec.counter_value,
            spec.counter_mask,
            spec.counter_offset,
            1,
        )
        for e in range(spec.extreme_first[r], spec.extreme_first[r + 1]):
            extremes.came_between(
                held,
                begin,
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
                at,
            )


@njit(cache=True)
def _remove(arena: Arena, spec: Spec, slot: int, at: int) -> None:
    """Take out a label that waited: it is in no sum."""
    begin, n = arena.start[slot], arena.length[slot]
    move_rows(arena.held, begin + at + 1, begin + at, n - at - 1)
    arena.length[slot] = n - 1
    for r in range(spec.over_us.shape[0]):
        if at < arena.cursors[slot, r, 1]:
            arena.cursors[slot, r, 1] -= 1
            if at < arena.cursors[slot, r, 0]:
                arena.cursors[slot, r, 0] -= 1
            _rescan(arena, spec, slot, r)


@njit(cache=True)
def _take_label(
    arena: Arena,
    spec: Spec,
    slot: int,
    at: int,
    t: int,
    identity: int,
    label: int,
    values: Any,
    i: int,
) -> None:
    """A label changes its event, or waits for it."""
    held, begin = arena.held, arena.start[slot]
    found = False
    row = begin + at - 1
    while held[row, 0] == t:
        if held[row, spec.mark] >> FLAG_BITS == identity >> FLAG_BITS:
            found = True
            flags = held[row, spec.mark] & FLAGS
            if bool(flags & LABEL) != bool(label):
                held[row, spec.mark] ^= LABEL
                # Labelled sums count entries; they read no value.
                _share(
                    held,
                    row,
                    begin + arena.length[slot],
                    flags,
                    flags ^ LABEL,
                    values,
                    i,
                    spec.sum_kind,
                    spec.sum_value,
                    spec.sum_mask,
                    spec.sum_column,
                )
        row -= 1
    # An event without a label counts as false: only a true one has something to say later.
    if not found and label:
        _insert(arena, spec, slot, at, t, (identity & ~FLAGS) | LABEL, values, i)


@njit(cache=True)
def _nth(held: Any, kind: int, by: int, n: int, own_counts: bool, low: int, high: int) -> int:
    """The row of the first entry, the n-th from the last, or the last but the event's own; or -1.

    `by` is the column of the running number of entries that qualify, -1 where all do.
    """
    if by < 0:
        row = low if kind == FIRST else high - 1 - n - (kind == PREVIOUS and own_counts)
        return row if low <= row < high else -1
    before, until = held[low - 1, by], held[high - 1, by]
    wanted = before if kind == FIRST else until - 1 - n - (kind == PREVIOUS and own_counts)
    if wanted < before or wanted >= until:
        return -1
    return first_above(held, low, high, by, wanted)


@njit(cache=True)
def _read(
    held: Any,
    mark: int,
    kind: int,
    at: int,
    by: int,
    mask: int,
    parameter: int,
    t: int,
    own_counts: bool,
    low: int,
    high: int,
) -> int:
    """A reading of the rows [low, high) that is no plain difference of sums."""
    if kind in (FIRST, LAST, PREVIOUS):
        row = _nth(held, kind, by, parameter, own_counts, low, high)
        return held[row, at] if row >= 0 else NONE
    if kind == SQUARE_HIGH:
        borrow = np.uint64(held[high - 1, at - 1]) < np.uint64(held[low - 1, at - 1])
        return held[high - 1, at] - held[low - 1, at] - np.int64(borrow)
    if kind == DISTINCT:
        return readings.distinct(held, at, mark, mask, parameter, low, high)
    if kind == QUANTILE:
        return readings.quantile(held, at, mark, mask, parameter, low, high)
    low_half, high_half = readings.gap_squares(held, mark, mask, low, high)
    return low_half if kind == GAP_SQUARE_LOW else high_half


@njit(cache=True)
def _read_late(
    arena: Arena,
    spec: Spec,
    slot: int,
    t: int,
    flags: int,
    values: Any,
    i: int,
    out: Any,
    real: Any,
) -> None:
    """Every reading of an event behind its key's cursors, its ranges found by bisection."""
    held, begin, n = arena.held, arena.start[slot], arena.length[slot]
    for r in range(spec.over_us.shape[0]):
        after, until = edges(t, spec.over_us[r], spec.delay_us[r], spec.resolution_us[r])
        low = first_after(held, begin + 1, begin + n, after)
        high = first_after(held, low, begin + n, until)
        for p in range(spec.first[r], spec.first[r + 1]):
            kind, at, mask = spec.kind[p], spec.at[p], spec.mask[p]
            if kind == ONE and at < 0:
                out[p, i] = high - low
            elif kind <= SQUARE_LOW:
                out[p, i] = held[high - 1, at] - held[low - 1, at]
            elif kind == EXTREME:
                out[p, i] = extremes.scan(
                    held,
                    spec.extreme_value[at],
                    spec.mark,
                    spec.extreme_mask[at],
                    spec.extreme_sign[at],
                    low,
                    high,
                )
            elif kind == COUNTER:
                out[p, i] = 0
                for row in range(low, high):
                    code = held[row, spec.counter_value[at]]
                    flagged = mask == 0 or (held[row, spec.mark] & mask) == mask
                    out[p, i] += flagged and code == spec.parameter[p]
            elif kind == OWN:
                out[p, i] = values[at, i]
            elif kind == DECAYED:
                real[p, i] = readings.decayed(
                    held, at, spec.mark, mask, spec.parameter[p], t, low, high
                )
            else:
                own_counts = spec.delay_us[r] == 0 and (flags & mask) == mask
                out[p, i] = _read(
                    held,
                    spec.mark,
                    kind,
                    at,
                    spec.by[p],
                    mask,
                    spec.parameter[p],
                    t,
                    own_counts,
                    low,
                    high,
                )


@njit(cache=True)
def fold_rows(
    is_label: Any,
    skip: Any,
    slots: Any,
    times: Any,
    identities: Any,
    values: Any,
    labels: Any,
    conditions: Any,
    arena: Arena,
    spec: Spec,
    out: Any,
    real: Any,
) -> None:
    """Fold rows in their order and write every reading of each event.

    Args:
        is_label: bool [n]; a label row changes state and has no output.
        skip: bool [n]; rows that neither change state nor have an output (duplicates).
        slots: int64 [n], the key of each row.
        times: int64 [n], event times in µs.
        identities: int64 [n], a hash of the event id; read only where marks are kept.
        values: int64 [columns, n].
        labels: int8 [n], 0 or 1 on label rows.
        conditions: uint16 [n], the conditions that hold, as flags.
        arena, spec: the state, with room for the rows (`reserve`), and what is kept.
        out: int64 [readings, n], written for events that are not skipped.
        real: the same memory as float64.
    """
    start, length = arena.start, arena.length
    cursor_us, cursors, counters = arena.cursor_us, arena.cursors, arena.counters
    bounds, held, mark = arena.bounds, arena.held, spec.mark
    over_us, delay_us, resolution_us = spec.over_us, spec.delay_us, spec.resolution_us
    raw = spec.raw
    sum_kind, sum_value, sum_mask, sum_column = (
        spec.sum_kind,
        spec.sum_value,
        spec.sum_mask,
        spec.sum_column,
    )
    first, kinds, ats, bys, masks, parameters = (
        spec.first,
        spec.kind,
        spec.at,
        spec.by,
        spec.mask,
        spec.parameter,
    )
    extreme_first, counter_first = spec.extreme_first, spec.counter_first
    extreme_sign, extreme_column = spec.extreme_sign, spec.extreme_column
    extreme_value, extreme_mask = spec.extreme_value, spec.extreme_mask
    counter_value, counter_mask = spec.counter_value, spec.counter_mask
    counter_offset = spec.counter_offset
    ranges, sums, kept_values = over_us.shape[0], sum_kind.shape[0], raw.shape[0]
    # The row after a segment may be read (never used), so there has to be one.
    last_row = held.shape[0] - 1
    for i in range(slots.shape[0]):
        if skip[i]:
            continue
        slot, t = slots[i], times[i]
        if length[slot] == 0:
            _begin_segment(arena, slot, t)
        begin, n = np.int64(start[slot]), np.int64(length[slot])
        at = n
        if held[begin + n - 1, 0] > t:
            at = first_after(held, begin + 1, begin + n, t) - begin
        if is_label[i]:
            _take_label(arena, spec, slot, at, t, identities[i], labels[i], values, i)
            continue
        flags = np.int64(0)
        own_mark = np.int64(0)
        if mark:
            flags = conditions[i] | ARRIVED
            before = at - 1
            while held[begin + before, 0] == t:
                other = held[begin + before, mark]
                if other >> FLAG_BITS == identities[i] >> FLAG_BITS:
                    flags |= other & LABEL
                    if not other & ARRIVED:
                        _remove(arena, spec, slot, before)
                        at -= 1
                        n -= 1
                before -= 1
            own_mark = (identities[i] & ~FLAGS) | flags
        if at < n or t < cursor_us[slot]:
            _insert(arena, spec, slot, at, t, own_mark, values, i)
            if t < cursor_us[slot]:
                _read_late(arena, spec, slot, t, flags, values, i, out, real)
                continue
        else:
            row = begin + n
            held[row, 0] = t
            if mark:
                held[row, mark] = own_mark
            for v in range(kept_values):
                if raw[v] >= 0:
                    held[row, raw[v]] = values[v, i]
            for k in range(sums):
                c = sum_column[k]
                held[row, c] = held[row - 1, c]
                if sum_kind[k] == SQUARE:
                    held[row, c + 1] = held[row - 1, c + 1]
                if (flags & sum_mask[k]) == sum_mask[k]:
                    x = values[sum_value[k], i] if sum_value[k] >= 0 else 1
                    add(held, row, c, sum_kind[k], x, 1)
            length[slot] = n + 1
        n += 1
        cursor_us[slot] = t
        for r in range(ranges):
            after, until = edges(t, over_us[r], delay_us[r], resolution_us[r])
            low, high = np.int64(cursors[slot, r, 0]), np.int64(cursors[slot, r, 1])
            if extreme_first[r] < extreme_first[r + 1] or counter_first[r] < counter_first[r + 1]:
                low, high = _advance(
                    held,
                    begin,
                    mark,
                    slot,
                    low,
                    high,
                    n,
                    after,
                    until,
                    bounds,
                    extreme_first[r],
                    extreme_first[r + 1],
                    extreme_sign,
                    extreme_value,
                    extreme_mask,
                    extreme_column,
                    counters,
                    counter_first[r],
                    counter_first[r + 1],
                    counter_value,
                    counter_mask,
                    counter_offset,
                )
            else:
                if delay_us[r] == 0:
                    # Nothing that has arrived lies between this event and its own time.
                    high = at + 1
                else:
                    while high < n and held[begin + high, 0] <= until:
                        high += 1
                # Mostly none, one or two entries leave: two steps without a branch to guess.
                low += (low < high) & (held[min(begin + low, last_row), 0] <= after)
                low += (low < high) & (held[min(begin + low, last_row), 0] <= after)
                while low < high and held[begin + low, 0] <= after:
                    low += 1
            cursors[slot, r, 0] = low
            cursors[slot, r, 1] = high
            low_row, high_row = begin + low, begin + high
            for p in range(first[r], first[r + 1]):
                kind, at_ = kinds[p], ats[p]
                if kind == ONE and at_ < 0:
                    out[p, i] = high - low
                elif kind <= SQUARE_LOW:
                    out[p, i] = held[high_row - 1, at_] - held[low_row - 1, at_]
                elif kind == EXTREME:
                    out[p, i] = extremes.extreme(
                        held,
                        begin,
                        extreme_column[at_],
                        extreme_sign[at_],
                        bounds,
                        slot,
                        at_,
                        low,
                        high,
                    )
                elif kind == COUNTER:
                    out[p, i] = counters[slot, counter_offset[at_] + parameters[p]]
                elif kind == OWN:
                    out[p, i] = values[at_, i]
                elif kind == DECAYED:
                    real[p, i] = readings.decayed(
                        held, at_, mark, masks[p], parameters[p], t, low_row, high_row
                    )
                else:
                    own_counts = delay_us[r] == 0 and (flags & masks[p]) == masks[p]
                    out[p, i] = _read(
                        held,
                        mark,
                        kind,
                        at_,
                        bys[p],
                        masks[p],
                        parameters[p],
                        t,
                        own_counts,
                        low_row,
                        high_row,
                    )

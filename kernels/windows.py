"""Exact sliding windows by key: rows in, the readings of every range out.

A *range* is one (window, delay, resolution). For each key and range two cursors mark the entries
inside it as of the key's newest event. An event in order is added at the end of its key's segment
and moves each cursor forward, so an update costs O(1), amortised; sums are differences of running
sums (`kernels/arena.py`), extremes follow in O(1) (`kernels/extremes.py`). An event out
of order is put in its place, and its own windows are found by bisection; the cursors stay.

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
from kernels.cursors import advance, come, rescan
from kernels.segments import begin_segment

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
    "gap_squares",
    "gap_squares_high",
    "decayed",
    "own",
)
"""What a reading can be; the high half of `gap_squares` comes after the low one, and with it."""

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
DISTINCT, QUANTILE, GAP_SQUARES, GAP_SQUARES_HIGH, DECAYED, OWN = 9, 10, 11, 12, 13, 14


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
        # What is settled may have left before its time: a label can still come to it.
        has_left = t <= after or at < arena.cursors[slot, r, 0]
        arena.cursors[slot, r, 1] += 1
        for e in range(spec.extreme_first[r], spec.extreme_first[r + 1]):
            for b in range(4):
                if has_left or at < arena.bounds[slot, e, b]:
                    arena.bounds[slot, e, b] += 1
        if has_left:
            arena.cursors[slot, r, 0] += 1
            continue
        come(
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
            rescan(arena, spec, slot, r)


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


@njit(cache=True, inline="always")
def _read(
    held: Any,
    mark: int,
    kind: int,
    at: int,
    by: int,
    mask: int,
    parameter: int,
    is_delayed: bool,
    t: int,
    low: int,
    high: int,
    p: int,
    i: int,
    out: Any,
    real: Any,
) -> None:
    """Write the reading `p` of the event i from the rows [low, high), which it looks at."""
    if kind in (FIRST, LAST, PREVIOUS):
        # Without a delay the event itself is the last one of its range.
        own_counts = not is_delayed and (mask == 0 or (held[high - 1, mark] & mask) == mask)
        row = _nth(held, kind, by, parameter, own_counts, low, high)
        out[p, i] = held[row, at] if row >= 0 else NONE
    elif kind == SQUARE_HIGH:
        borrow = np.uint64(held[high - 1, at - 1]) < np.uint64(held[low - 1, at - 1])
        out[p, i] = held[high - 1, at] - held[low - 1, at] - np.int64(borrow)
    elif kind == DECAYED:
        real[p, i] = readings.decayed(held, at, mark, mask, parameter, t, low, high)
    elif kind == DISTINCT:
        out[p, i] = readings.distinct(held, at, mark, mask, parameter, low, high)
    elif kind == QUANTILE:
        out[p, i] = readings.quantile(held, at, mark, mask, parameter, low, high)
    elif kind == GAP_SQUARES:
        out[p, i], out[p + 1, i] = readings.gap_squares(held, mark, mask, low, high)


@njit(cache=True)
def _read_late(
    arena: Arena,
    spec: Spec,
    slot: int,
    t: int,
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
            elif kind == OWN:
                out[p, i] = values[at, i]
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
            else:
                _read(
                    held,
                    spec.mark,
                    kind,
                    at,
                    spec.by[p],
                    mask,
                    spec.parameter[p],
                    spec.delay_us[r] > 0,
                    t,
                    low,
                    high,
                    p,
                    i,
                    out,
                    real,
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
            if is_label[i] and not labels[i]:
                # Of a key without entries it says nothing, and no room was asked for it.
                continue
            begin_segment(arena, slot, t)
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
                _read_late(arena, spec, slot, t, values, i, out, real)
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
                low, high = advance(
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
                else:
                    _read(
                        held,
                        mark,
                        kind,
                        at_,
                        bys[p],
                        masks[p],
                        parameters[p],
                        delay_us[r] > 0,
                        t,
                        low_row,
                        high_row,
                        p,
                        i,
                        out,
                        real,
                    )

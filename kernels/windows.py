"""Exact sliding windows by key, on flat arrays.

Every key owns one segment of an arena, sorted by (event time, arrival). A *range* is one (window,
delay) pair; for each key and range two cursors mark the entries inside it, and sums follow the
cursors: an event that comes in order moves each cursor forward, so an update costs O(1), amortised.
An event out of order is put in its place and the cursors go back as far as it is late. Sums are
64-bit integers (squares 128-bit): they do not depend on the order of arrival.

A *primitive* is one number the kernel keeps or reads for a range. Additive ones (`ONE`, `VALUE`,
`SQUARE_LOW` with `SQUARE_HIGH`) follow the cursors; the others are read from the entries between
them. Each counts only entries that carry every flag of its mask: that an event has arrived, that
its label is true, that a condition holds. A label that comes before its event stands in the arena
without the flag `ARRIVED`: it counts nowhere until its event comes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from kernels.wide import square

ARRIVED, LABEL, FIRST_CONDITION = 1, 2, 4
"""Flags of an entry; the bits from `FIRST_CONDITION` on belong to the caller's conditions."""

KINDS = (
    "one",
    "value",
    "square_low",
    "square_high",
    "first_value",
    "last_value",
    "first_time",
    "last_time",
    "previous_time",
    "smallest",
    "largest",
)
"""What a primitive can be. Those up to `square_high` are additive."""

ONE, VALUE, SQUARE_LOW, SQUARE_HIGH = 0, 1, 2, 3
FIRST_VALUE, LAST_VALUE, FIRST_TIME, LAST_TIME, PREVIOUS_TIME = 4, 5, 6, 7, 8
SMALLEST, LARGEST = 9, 10

NONE = np.iinfo(np.int64).min
"""What a reading gives where no entry qualifies."""


class Spec(NamedTuple):
    """What is kept, as arrays.

    `over_us` and `delay_us` are int64 [ranges]. Primitives are sorted by range, additive ones
    first: those of range r are `first[r]` to `first[r + 1]`, additive up to `additive_end[r]`.
    `kind`, `column` (of `values`) and `mask` are int64 [primitives].
    """

    over_us: Any
    delay_us: Any
    first: Any
    additive_end: Any
    kind: Any
    column: Any
    mask: Any


class Arena(NamedTuple):
    """The state of every key.

    By key: `start`, `length`, `capacity` of its segment, `cursor_us` (the event time its cursors
    stand at), `lower` and `upper` int32 [keys, ranges] (counted from the segment's start), `sums`
    int64 [keys, primitives]. By entry: `time`, `identity` (empty where no label is used), `flags`
    uint16, `values` int64 [entries, columns].
    """

    start: Any
    length: Any
    capacity: Any
    cursor_us: Any
    lower: Any
    upper: Any
    sums: Any
    time: Any
    identity: Any
    flags: Any
    values: Any


@njit(cache=True)
def _first_after(time: Any, lo: int, hi: int, t: int) -> int:
    """The first index in [lo, hi) whose time is greater than t, searched from the newest end."""
    # Most events are near the end: gallop back before bisecting.
    step = 1
    right = hi
    left = hi
    while left > lo and time[left - 1] > t:
        right = left - 1
        left = max(lo, right - step)
        step *= 2
    while left < right:
        middle = (left + right) // 2
        if time[middle] > t:
            right = middle
        else:
            left = middle + 1
    return left


@njit(cache=True)
def _add_square(sums: Any, slot: int, p: int, x: int, sign: int) -> None:
    """Add x² to, or take it from, a 128-bit sum whose halves stand at p and p + 1."""
    high, low = square(x)
    old = np.uint64(sums[slot, p])
    top = np.uint64(sums[slot, p + 1])
    if sign > 0:
        new = old + low
        top += high + (np.uint64(1) if new < old else np.uint64(0))
    else:
        new = old - low
        top -= high + (np.uint64(1) if old < low else np.uint64(0))
    sums[slot, p] = np.int64(new)
    sums[slot, p + 1] = np.int64(top)


# The innermost steps take arrays, not the tuples that hold them: numba counts references to every
# array of a tuple at each call, which makes an update ten times as dear.
@njit(cache=True)
def _count(
    sums: Any,
    flags: Any,
    values: Any,
    kind: Any,
    column: Any,
    mask: Any,
    first: int,
    end: int,
    slot: int,
    entry: int,
    sign: int,
) -> None:
    """Let an entry enter (sign 1) or leave (sign -1) the additive primitives [first, end)."""
    for p in range(first, end):
        if (flags[entry] & mask[p]) != mask[p]:
            continue
        if kind[p] == ONE:
            sums[slot, p] += sign
        elif kind[p] == VALUE:
            sums[slot, p] += sign * values[entry, column[p]]
        elif kind[p] == SQUARE_LOW:
            _add_square(sums, slot, p, values[entry, column[p]], sign)


@njit(cache=True)
def _change(arena: Arena, spec: Spec, slot: int, r: int, entry: int, sign: int) -> None:
    """Let an entry enter or leave the sums of a range."""
    _count(
        arena.sums,
        arena.flags,
        arena.values,
        spec.kind,
        spec.column,
        spec.mask,
        spec.first[r],
        spec.additive_end[r],
        slot,
        entry,
        sign,
    )


@njit(cache=True)
def _move(arena: Arena, source: int, target: int) -> None:
    arena.time[target] = arena.time[source]
    arena.flags[target] = arena.flags[source]
    if arena.identity.shape[0]:
        arena.identity[target] = arena.identity[source]
    for v in range(arena.values.shape[1]):
        arena.values[target, v] = arena.values[source, v]


@njit(cache=True)
def _drop_expired(arena: Arena, spec: Spec, slot: int, before_us: int) -> int:
    """Take what is older out of the sums and cursors of a key; returns how many entries go.

    The entries stay where they are: the caller moves those that are kept.
    """
    begin = arena.start[slot]
    dropped = 0
    while dropped < arena.length[slot] and arena.time[begin + dropped] < before_us:
        dropped += 1
    if dropped:
        for r in range(spec.over_us.shape[0]):
            lower, upper = arena.lower[slot, r], arena.upper[slot, r]
            for j in range(lower, min(upper, dropped)):
                _change(arena, spec, slot, r, begin + j, -1)
            arena.lower[slot, r] = max(lower - dropped, 0)
            arena.upper[slot, r] = max(upper - dropped, 0)
    return dropped


@njit(cache=True)
def reserve(
    slots: Any, extra: Any, arena: Arena, spec: Spec, used: int, expire_before_us: int
) -> tuple[int, int]:
    """Make room for `extra[i]` entries in the segment of `slots[i]`.

    Entries with a time before `expire_before_us` are dropped where a segment is full. A segment
    that is still full moves to the arena's end with twice its size.

    Returns:
        (entries of the arena in use, 0), or (entries in use, entries the arena lacks); in the
        second case everything is consistent and the call is repeated with a larger arena.
    """
    for i in range(slots.shape[0]):
        slot = slots[i]
        if arena.length[slot] + extra[i] <= arena.capacity[slot]:
            continue
        begin = arena.start[slot]
        dropped = _drop_expired(arena, spec, slot, expire_before_us)
        kept = arena.length[slot] - dropped
        target = begin
        lacking = 0
        if kept + extra[i] > arena.capacity[slot]:
            size = max(4, 2 * (kept + extra[i]))
            if used + size > arena.time.shape[0]:
                lacking = used + size - arena.time.shape[0]
            else:
                target = used
                used += size
                arena.capacity[slot] = size
        for j in range(kept):
            _move(arena, begin + dropped + j, target + j)
        arena.start[slot] = target
        arena.length[slot] = kept
        if lacking:
            return used, lacking
    return used, 0


@njit(cache=True)
def compact(slots: Any, arena: Arena, spec: Spec, expire_before_us: int) -> int:
    """Drop what has expired of every key and move the segments to the front, without gaps.

    Args:
        slots: int64, every key that has entries, sorted by `start`.

    Returns:
        Entries of the arena in use.
    """
    used = 0
    for i in range(slots.shape[0]):
        slot = slots[i]
        begin = arena.start[slot]
        dropped = _drop_expired(arena, spec, slot, expire_before_us)
        kept = arena.length[slot] - dropped
        for j in range(kept):
            _move(arena, begin + dropped + j, used + j)
        arena.start[slot] = used
        arena.length[slot] = kept
        arena.capacity[slot] = kept
        used += kept
    return used


@njit(cache=True)
def _insert(
    arena: Arena, spec: Spec, slot: int, at: int, t: int, identity: int, flags: int
) -> None:
    """Put an entry (without its values) at an index of the arena; it enters no sum yet."""
    for j in range(arena.start[slot] + arena.length[slot], at, -1):
        _move(arena, j - 1, j)
    arena.time[at] = t
    arena.flags[at] = flags
    if arena.identity.shape[0]:
        arena.identity[at] = identity
    arena.length[slot] += 1
    for r in range(spec.over_us.shape[0]):
        until = arena.cursor_us[slot] - spec.delay_us[r]
        if t <= until:
            arena.upper[slot, r] += 1
            if t <= until - spec.over_us[r]:
                arena.lower[slot, r] += 1


@njit(cache=True)
def _remove(arena: Arena, spec: Spec, slot: int, at: int) -> None:
    """Take out an entry that is in no sum."""
    begin = arena.start[slot]
    for j in range(at, begin + arena.length[slot] - 1):
        _move(arena, j + 1, j)
    arena.length[slot] -= 1
    for r in range(spec.over_us.shape[0]):
        if at - begin < arena.lower[slot, r]:
            arena.lower[slot, r] -= 1
        if at - begin < arena.upper[slot, r]:
            arena.upper[slot, r] -= 1


@njit(cache=True)
def _count_inside(arena: Arena, spec: Spec, slot: int, entry: int, sign: int) -> None:
    """Let an entry enter or leave every range it lies in."""
    at = entry - arena.start[slot]
    for r in range(spec.over_us.shape[0]):
        if arena.lower[slot, r] <= at < arena.upper[slot, r]:
            _change(arena, spec, slot, r, entry, sign)


@njit(cache=True)
def _take_label(
    arena: Arena, spec: Spec, slot: int, at: int, t: int, identity: int, label: int
) -> None:
    """A label changes its event, or waits for it."""
    entry = at - 1
    found = False
    while entry >= arena.start[slot] and arena.time[entry] == t:
        if arena.identity[entry] == identity:
            found = True
            if bool(arena.flags[entry] & LABEL) != bool(label):
                _count_inside(arena, spec, slot, entry, -1)
                arena.flags[entry] ^= LABEL
                _count_inside(arena, spec, slot, entry, 1)
        entry -= 1
    # An event without a label counts as false: only a true one has something to say later.
    if not found and label:
        _insert(arena, spec, slot, at, t, identity, LABEL)


@njit(cache=True)
def _retreat(arena: Arena, spec: Spec, slot: int, t: int) -> None:
    """Move the cursors of a key back to an event time."""
    begin = arena.start[slot]
    for r in range(spec.over_us.shape[0]):
        until = t - spec.delay_us[r]
        after = until - spec.over_us[r]
        lower, upper = arena.lower[slot, r], arena.upper[slot, r]
        # Wider before narrower, so that nothing leaves the window that is not in it.
        while lower > 0 and arena.time[begin + lower - 1] > after:
            lower -= 1
            _change(arena, spec, slot, r, begin + lower, 1)
        while upper > lower and arena.time[begin + upper - 1] > until:
            upper -= 1
            _change(arena, spec, slot, r, begin + upper, -1)
        arena.lower[slot, r] = lower
        arena.upper[slot, r] = upper
    arena.cursor_us[slot] = t


@njit(cache=True)
def _read(
    time: Any,
    flags: Any,
    values: Any,
    kind: int,
    column: int,
    mask: int,
    lower: int,
    upper: int,
    own: int,
) -> int:
    """A primitive that is no sum, of the entries in [lower, upper); `own` is the event's entry."""
    if kind in (FIRST_VALUE, FIRST_TIME):
        for j in range(lower, upper):
            if (flags[j] & mask) == mask:
                return time[j] if kind == FIRST_TIME else values[j, column]
        return NONE
    if kind in (LAST_VALUE, LAST_TIME, PREVIOUS_TIME):
        for j in range(upper - 1, lower - 1, -1):
            if (flags[j] & mask) == mask and (kind != PREVIOUS_TIME or j != own):
                return values[j, column] if kind == LAST_VALUE else time[j]
        return NONE
    found = NONE
    for j in range(lower, upper):
        if (flags[j] & mask) == mask:
            value = values[j, column]
            if found == NONE or (value < found if kind == SMALLEST else value > found):
                found = value
    return found


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
) -> None:
    """Fold rows in their order and write every primitive of each event.

    Args:
        is_label: bool [n]; a label row changes state and has no output.
        skip: bool [n]; rows that neither change state nor have an output (duplicates).
        slots: int64 [n], the key of each row.
        times: int64 [n], event times in µs.
        identities: int64 [n], a hash of the event id; read only where the arena keeps identities.
        values: int64 [n, columns].
        labels: int8 [n], 0 or 1 on label rows.
        conditions: uint16 [n], the conditions that hold, as flags.
        arena, spec: the state, with room for the rows (`reserve`), and what is kept.
        out: int64 [n, primitives], written for events that are not skipped.
    """
    # Bound once: see `_count`.
    start, length, cursor_us = arena.start, arena.length, arena.cursor_us
    lower, upper, sums = arena.lower, arena.upper, arena.sums
    time, identity, flags, held = arena.time, arena.identity, arena.flags, arena.values
    over_us, delay_us, first, additive_end = (
        spec.over_us,
        spec.delay_us,
        spec.first,
        spec.additive_end,
    )
    kind, column, mask = spec.kind, spec.column, spec.mask
    labelled = identity.shape[0] > 0
    for i in range(slots.shape[0]):
        if skip[i]:
            continue
        slot, t = slots[i], times[i]
        begin = start[slot]
        if length[slot] == 0:
            cursor_us[slot] = t
        at = _first_after(time, begin, begin + length[slot], t)
        if is_label[i]:
            _take_label(arena, spec, slot, at, t, identities[i], labels[i])
            continue
        flag = conditions[i] | ARRIVED
        if labelled:
            entry = at - 1
            while entry >= begin and time[entry] == t:
                if identity[entry] == identities[i]:
                    flag |= flags[entry] & LABEL
                    if not flags[entry] & ARRIVED:
                        _remove(arena, spec, slot, entry)
                        at -= 1
                entry -= 1
        # An event that nothing lies behind has been passed by no cursor.
        in_order = at == begin + length[slot] and t >= cursor_us[slot]
        if in_order:
            length[slot] += 1
            time[at] = t
            flags[at] = flag
            if labelled:
                identity[at] = identities[i]
        else:
            _insert(arena, spec, slot, at, t, identities[i], flag)
        for v in range(values.shape[1]):
            held[at, v] = values[i, v]
        if not in_order:
            _count_inside(arena, spec, slot, at, 1)
            if t < cursor_us[slot]:
                _retreat(arena, spec, slot, t)
        cursor_us[slot] = t
        n = length[slot]
        for r in range(over_us.shape[0]):
            until = t - delay_us[r]
            after = until - over_us[r]
            low, high = lower[slot, r], upper[slot, r]
            p, end = first[r], additive_end[r]
            # Wider before narrower, so that nothing leaves the window that is not in it.
            while high < n and time[begin + high] <= until:
                _count(sums, flags, held, kind, column, mask, p, end, slot, begin + high, 1)
                high += 1
            while low < high and time[begin + low] <= after:
                _count(sums, flags, held, kind, column, mask, p, end, slot, begin + low, -1)
                low += 1
            lower[slot, r] = low
            upper[slot, r] = high
            for p in range(first[r], end):
                out[i, p] = sums[slot, p]
            for p in range(end, first[r + 1]):
                out[i, p] = _read(
                    time,
                    flags,
                    held,
                    kind[p],
                    column[p],
                    mask[p],
                    begin + low,
                    begin + high,
                    at,
                )

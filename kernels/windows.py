"""Exact sliding windows by key, on flat arrays.

Every key owns one segment of an arena, sorted by (event time, arrival). An entry holds the event's
time, an identity, whether the event itself has arrived, its label, and prefix sums of everything
that is added up, so a window is two binary searches and a subtraction. Sums are 64-bit integers:
they do not depend on the order of arrival, and a difference of wrapped prefixes is still exact.

A label that comes before its event stands in the arena as an entry that has not arrived
(`present` 0): it counts nowhere until its event comes.

Layout of `prefix` (int64 [capacity, 2 + values]): column 0 counts events, column 1 true labels,
the rest add up the values. Prefixes are inclusive and run since the key's first event; `base`
(int64 [keys, 2 + values]) is what expired entries left behind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

COUNT, SUM, MEAN, RATE = 0, 1, 2, 3
AGGREGATIONS = {"count": COUNT, "sum": SUM, "mean": MEAN, "rate": RATE}


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
def reserve(
    slots: Any,
    extra: Any,
    start: Any,
    length: Any,
    capacity: Any,
    base: Any,
    time: Any,
    identity: Any,
    present: Any,
    label: Any,
    prefix: Any,
    used: int,
    expire_before_us: int,
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
        need = length[slot] + extra[i]
        if need <= capacity[slot]:
            continue
        begin = start[slot]
        dropped = 0
        while dropped < length[slot] and time[begin + dropped] < expire_before_us:
            dropped += 1
        if dropped:
            base[slot, :] = prefix[begin + dropped - 1, :]
        kept = length[slot] - dropped
        target = begin
        if kept + extra[i] > capacity[slot]:
            size = max(4, 2 * (kept + extra[i]))
            if used + size > time.shape[0]:
                size_lacking = used + size - time.shape[0]
                if dropped:
                    for j in range(kept):
                        _move(
                            time, identity, present, label, prefix, begin + dropped + j, begin + j
                        )
                    length[slot] = kept
                return used, size_lacking
            target = used
            used += size
            capacity[slot] = size
        for j in range(kept):
            _move(time, identity, present, label, prefix, begin + dropped + j, target + j)
        start[slot] = target
        length[slot] = kept
    return used, 0


@njit(cache=True)
def _move(
    time: Any, identity: Any, present: Any, label: Any, prefix: Any, source: int, target: int
) -> None:
    time[target] = time[source]
    identity[target] = identity[source]
    present[target] = present[source]
    label[target] = label[source]
    for v in range(prefix.shape[1]):
        prefix[target, v] = prefix[source, v]


@njit(cache=True)
def fold_rows(
    is_label: Any,
    skip: Any,
    slots: Any,
    times: Any,
    identities: Any,
    values: Any,
    labels: Any,
    start: Any,
    length: Any,
    base: Any,
    time: Any,
    identity: Any,
    present: Any,
    label: Any,
    prefix: Any,
    aggregation: Any,
    value_index: Any,
    over_us: Any,
    delay_us: Any,
    out: Any,
) -> None:
    """Fold rows in their order and write each event's windows.

    Args:
        is_label: bool [n]; a label row changes state and has no output.
        skip: bool [n]; rows that neither change state nor have an output (duplicates).
        slots: int64 [n], the key of each row.
        times: int64 [n], event times in µs.
        identities: int64 [n], a hash of the event id.
        values: int64 [n, values].
        labels: int8 [n], 0 or 1 on label rows.
        start, length, base, time, identity, present, label, prefix: the arena (module docstring).
        aggregation, value_index, over_us, delay_us: int64 [windows].
        out: float64 [n, windows], written for events that are not skipped.
    """
    sums = prefix.shape[1]
    for i in range(slots.shape[0]):
        if skip[i]:
            continue
        slot = slots[i]
        t = times[i]
        lo = start[slot]
        hi = lo + length[slot]
        at = _first_after(time, lo, hi, t)
        # The entry of this very event, if its label or the event came before.
        entry = at - 1
        while entry >= lo and time[entry] == t and identity[entry] != identities[i]:
            entry -= 1
        known = entry >= lo and time[entry] == t
        if is_label[i]:
            if known:
                change = np.int64(labels[i]) - np.int64(label[entry])
                label[entry] = labels[i]
                if present[entry] and change != 0:
                    for j in range(entry, hi):
                        prefix[j, 1] += change
                continue
            arrived = np.int8(0)
        else:
            arrived = np.int8(1)
        if known and not is_label[i] and not present[entry]:
            present[entry] = 1
            for j in range(entry, hi):
                prefix[j, 0] += 1
                prefix[j, 1] += label[entry]
                for v in range(values.shape[1]):
                    prefix[j, 2 + v] += values[i, v]
        else:
            for j in range(hi, at, -1):
                _move(time, identity, present, label, prefix, j - 1, j)
            time[at] = t
            identity[at] = identities[i]
            present[at] = arrived
            label[at] = labels[i] if is_label[i] else 0
            hi += 1
            length[slot] += 1
            for v in range(sums):
                prefix[at, v] = prefix[at - 1, v] if at > lo else base[slot, v]
            if arrived:
                for j in range(at, hi):
                    prefix[j, 0] += 1
                    for v in range(values.shape[1]):
                        prefix[j, 2 + v] += values[i, v]
        if is_label[i]:
            continue
        for w in range(aggregation.shape[0]):
            upper = _first_after(time, lo, hi, t - delay_us[w])
            lower = _first_after(time, lo, upper, t - delay_us[w] - over_us[w])
            if upper == lower:
                out[i, w] = 0.0
                continue
            column = 0
            if aggregation[w] == RATE:
                column = 1
            elif aggregation[w] != COUNT:
                column = 2 + value_index[w]
            before = prefix[lower - 1, column] if lower > lo else base[slot, column]
            total = np.float64(prefix[upper - 1, column] - before)
            if aggregation[w] == COUNT or aggregation[w] == SUM:
                out[i, w] = total
                continue
            count_before = prefix[lower - 1, 0] if lower > lo else base[slot, 0]
            events = np.float64(prefix[upper - 1, 0] - count_before)
            out[i, w] = total / events if events > 0 else 0.0

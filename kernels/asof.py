"""Versions of rows that change slowly: which one holds at a time.

Every key has a chain of versions, the newest first. A version that comes in order goes to the head
of its chain; one out of order, or from the future, is put in its place. A look-up walks from the
newest back to the first that is not younger than the event.
"""

from __future__ import annotations

from typing import Any

from numba import njit

NONE = -1
"""The end of a chain, and what a look-up gives where there is no version."""


@njit(cache=True)
def fold_versions(
    slots: Any,
    is_version: Any,
    times: Any,
    head: Any,
    following: Any,
    valid_from: Any,
    used: int,
    out: Any,
) -> int:
    """Take rows in their order: keep versions, and find that of every other row.

    Args:
        slots: int64 [n], the key of each row, or -1 where it is left out.
        is_version: bool [n].
        times: int64 [n] µs, from when on a version holds, or an event's time.
        head: int64 [keys], the newest version of each key, or -1.
        following: int64 [versions], the next older version, or -1.
        valid_from: int64 [versions] µs; there is room for those that come.
        used: how many versions are kept.
        out: int64 [n], the version that a row is, or sees; -1 where there is none.

    Returns:
        How many versions are kept now. Of one instant the last replaces the others.
    """
    for i in range(slots.shape[0]):
        slot = slots[i]
        out[i] = NONE
        if slot < 0:
            continue
        before, at = NONE, head[slot]
        while at >= 0 and valid_from[at] > times[i]:
            before = at
            at = following[at]
        if is_version[i]:
            if at >= 0 and valid_from[at] == times[i]:
                at = following[at]
            following[used] = at
            valid_from[used] = times[i]
            if before >= 0:
                following[before] = used
            else:
                head[slot] = used
            at = used
            used += 1
        out[i] = at
    return used


@njit(cache=True)
def copy(
    keep: Any,
    head: Any,
    following: Any,
    valid_from: Any,
    settled_us: int,
    new_head: Any,
    new_following: Any,
    new_valid_from: Any,
    kept: Any,
) -> int:
    """Write the chains of some keys anew, without what only events before a time could see.

    Args:
        keep: int64 [new keys], the old slots, in their new order.
        head, following, valid_from: the old chains.
        settled_us: no event before it will come.
        new_head: int64 [at least new keys].
        new_following, new_valid_from: int64 [at least versions].
        kept: int64 [at least versions], the old number of each version in its new place.

    Returns:
        How many versions were written. The oldest of a key holds at `settled_us`.
    """
    written = 0
    for slot in range(keep.shape[0]):
        at = head[keep[slot]]
        new_head[slot] = written if at >= 0 else NONE
        while at >= 0:
            kept[written] = at
            new_valid_from[written] = valid_from[at]
            is_last = following[at] < 0 or valid_from[at] <= settled_us
            new_following[written] = NONE if is_last else written + 1
            written += 1
            at = NONE if is_last else following[at]
    return written

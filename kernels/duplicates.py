"""Which events were seen before: an open-addressed table of (key, identity, event time).

The size is a power of two and at most half of it is in use, so a search ends after a few steps
(linear probing, Knuth, The Art of Computer Programming, volume 3, section 6.4). Nothing is ever
taken out: a table that is too full, or holds what is too old, is written anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit


class Seen(NamedTuple):
    """The table: int64 [size] each, and `used` uint8 [size], 1 where there is an entry."""

    key: Any
    identity: Any
    time: Any
    used: Any


def empty(size: int) -> Seen:
    """A table of a power-of-two size."""
    return Seen(
        key=np.zeros(size, np.int64),
        identity=np.zeros(size, np.int64),
        time=np.zeros(size, np.int64),
        used=np.zeros(size, np.uint8),
    )


@njit(cache=True)
def _place(key: int, identity: int, size: int) -> int:
    return (key ^ (identity >> 7) ^ identity) & (size - 1)


@njit(cache=True)
def judge(
    keys: Any, identities: Any, times: Any, skip: Any, horizon_us: int, seen: Seen, out: Any
) -> int:
    """Tell which events repeat one of the same key and identity, and remember the others.

    Args:
        keys, identities: int64 [n], hashes.
        times: int64 [n], event times in µs; a repeat lies within `horizon_us` of what it repeats.
        skip: bool [n], rows that are neither judged nor remembered.
        seen: the table, with room for n more.
        out: bool [n], set where a row is a repeat.

    Returns:
        How many were remembered.
    """
    size = seen.used.shape[0]
    remembered = 0
    for i in range(keys.shape[0]):
        if skip[i]:
            continue
        at = _place(keys[i], identities[i], size)
        repeated = False
        while seen.used[at]:
            if (
                seen.key[at] == keys[i]
                and seen.identity[at] == identities[i]
                and abs(seen.time[at] - times[i]) <= horizon_us
            ):
                repeated = True
                break
            at = (at + 1) & (size - 1)
        out[i] = repeated
        if not repeated:
            seen.key[at] = keys[i]
            seen.identity[at] = identities[i]
            seen.time[at] = times[i]
            seen.used[at] = 1
            remembered += 1
    return remembered


@njit(cache=True)
def copy(seen: Seen, target: Seen, before_us: int, only_key: bool, key: int) -> int:
    """Write what is not older than `before_us`, of one key or of all, into an empty table.

    Returns:
        How many entries were written.
    """
    size = target.used.shape[0]
    written = 0
    for i in range(seen.used.shape[0]):
        if not seen.used[i] or seen.time[i] < before_us or (only_key and seen.key[i] != key):
            continue
        at = _place(seen.key[i], seen.identity[i], size)
        while target.used[at]:
            at = (at + 1) & (size - 1)
        target.key[at] = seen.key[i]
        target.identity[at] = seen.identity[i]
        target.time[at] = seen.time[i]
        target.used[at] = 1
        written += 1
    return written

"""Which events were seen before: an open-addressed table of (key, identity, event time).

The size is a power of two and at most half of it is in use, so a search ends after a few steps
(linear probing, Knuth, The Art of Computer Programming, volume 3, section 6.4). Nothing is ever
taken out: a table that is too full, or holds what is too old, is written anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


def empty(size: int) -> Any:
    """A table of a power-of-two size: int64 [size, 4], (key, identity, time, 1 where in use)."""
    return np.zeros((size, 4), np.int64)


@njit(cache=True)
def _place(key: int, identity: int, size: int) -> int:
    return (key ^ (identity >> 7) ^ identity) & (size - 1)


@njit(cache=True)
def judge(
    keys: Any, identities: Any, times: Any, skip: Any, horizon_us: int, seen: Any, out: Any
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
    size = seen.shape[0]
    remembered = 0
    for i in range(keys.shape[0]):
        if skip[i]:
            continue
        at = _place(keys[i], identities[i], size)
        repeated = False
        while seen[at, 3]:
            if (
                seen[at, 0] == keys[i]
                and seen[at, 1] == identities[i]
                and abs(seen[at, 2] - times[i]) <= horizon_us
            ):
                repeated = True
                break
            at = (at + 1) & (size - 1)
        out[i] = repeated
        if not repeated:
            seen[at, 0] = keys[i]
            seen[at, 1] = identities[i]
            seen[at, 2] = times[i]
            seen[at, 3] = 1
            remembered += 1
    return remembered


@njit(cache=True)
def _stays(seen: Any, at: int, before_us: int, only_key: bool, key: int) -> bool:
    return seen[at, 3] and seen[at, 2] >= before_us and (not only_key or seen[at, 0] == key)


@njit(cache=True)
def staying(seen: Any, before_us: int, only_key: bool, key: int) -> int:
    """How many entries `copy` would write."""
    found = 0
    for at in range(seen.shape[0]):
        found += _stays(seen, at, before_us, only_key, key)
    return found


@njit(cache=True)
def copy(seen: Any, target: Any, before_us: int, only_key: bool, key: int) -> int:
    """Write what is not older than `before_us`, of one key or of all, into an empty table.

    Returns:
        How many entries were written.
    """
    size = target.shape[0]
    written = 0
    for i in range(seen.shape[0]):
        if not _stays(seen, i, before_us, only_key, key):
            continue
        at = _place(seen[i, 0], seen[i, 1], size)
        while target[at, 3]:
            at = (at + 1) & (size - 1)
        target[at] = seen[i]
        written += 1
    return written

"""Which events were seen before: entries in the order they came, found by an open-addressed index.

An entry is (key, identity, event time). The index holds places among the entries, so that it stays
small enough for a processor's cache; its size is a power of two and at most half of it is in use,
so a search ends after a few steps (linear probing, Knuth, The Art of Computer Programming, volume
3, section 6.4). Nothing is taken out of it: entries are closed up, and the index is made anew.
"""

from __future__ import annotations

from typing import Any

from numba import njit


@njit(cache=True)
def _start(key: int, identity: int, size: int) -> int:
    return (key ^ (identity >> 7) ^ identity) & (size - 1)


@njit(cache=True)
def judge(
    keys: Any,
    identities: Any,
    times: Any,
    skip: Any,
    horizon_us: int,
    index: Any,
    held: Any,
    entries: int,
    out: Any,
) -> int:
    """Tell which events repeat one of the same key and identity, and remember the others.

    Args:
        keys, identities: int64 [n], hashes.
        times: int64 [n], event times in µs; a repeat lies within `horizon_us` of what it repeats.
        skip: bool [n], rows that are neither judged nor remembered.
        index: int32 [a power of two], an entry's place + 1, or 0; twice as long as `held`.
        held: int64 [room, 3], the entries (key, identity, time), with room for n more.
        entries: how many there are.
        out: bool [n], set where a row is a repeat.

    Returns:
        How many entries there are now.
    """
    size = index.shape[0]
    for i in range(keys.shape[0]):
        if skip[i]:
            continue
        at = _start(keys[i], identities[i], size)
        repeated = False
        while index[at]:
            other = index[at] - 1
            if (
                held[other, 0] == keys[i]
                and held[other, 1] == identities[i]
                and abs(held[other, 2] - times[i]) <= horizon_us
            ):
                repeated = True
                break
            at = (at + 1) & (size - 1)
        out[i] = repeated
        if not repeated:
            held[entries, 0] = keys[i]
            held[entries, 1] = identities[i]
            held[entries, 2] = times[i]
            entries += 1
            index[at] = entries
    return entries


@njit(cache=True)
def close_up(held: Any, entries: int, before_us: int, only_key: bool, key: int) -> int:
    """Keep what is not older than `before_us`, of one key or of all, at the beginning of `held`.

    Returns:
        How many entries are kept.
    """
    kept = 0
    for i in range(entries):
        if held[i, 2] >= before_us and (not only_key or held[i, 0] == key):
            for column in range(3):
                held[kept, column] = held[i, column]
            kept += 1
    return kept


@njit(cache=True)
def fill(index: Any, held: Any, first: int, entries: int) -> None:
    """Put the entries [first, entries) into an index that has those before them."""
    size = index.shape[0]
    for i in range(first, entries):
        at = _start(held[i, 0], held[i, 1], size)
        while index[at]:
            at = (at + 1) & (size - 1)
        index[at] = i + 1

"""Which key has which slot: an open-addressed table over the keys' own bytes.

Slots are given out in the order of first sight. The table holds slot numbers and grows by powers
of two; at most three quarters of it are in use (linear probing, Knuth, The Art of Computer
Programming, volume 3, section 6.4). Bytes are compared, so two keys never share a slot.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from kernels.identity import hash_string


class Keys(NamedTuple):
    """`place` int32 [a power of two], slot + 1 or 0 where free; by slot: `hash` int64 [capacity],
    `end` int64 [capacity + 1], where each key's bytes end in `text` uint8."""

    place: Any
    hash: Any
    end: Any
    text: Any


def empty(keys: int, text_bytes: int) -> Keys:
    """Room for some keys."""
    size = 16
    while size * 3 < keys * 4:
        size *= 2
    return Keys(
        place=np.zeros(size, np.int32),
        hash=np.zeros(keys, np.int64),
        end=np.zeros(keys + 1, np.int64),
        text=np.zeros(text_bytes, np.uint8),
    )


@njit(cache=True)
def find(
    begin_at: int, offsets: Any, text: Any, known: Keys, count: Any, out: Any
) -> tuple[int, int]:
    """Write each key's slot; unknown keys get the next ones.

    Args:
        begin_at: the key to begin with.
        offsets: int32 or int64 [n + 1], where each key begins and ends in `text`, uint8.
        known: the table; `count` of its slots are given out.
        out: int64 [n].

    Returns:
        (the key before which the table has to grow, or n; how many slots are given out).
    """
    place, hashes, ends, names = known.place, known.hash, known.end, known.text
    last = place.shape[0] - 1
    for i in range(begin_at, out.shape[0]):
        begin, end = np.int64(offsets[i]), np.int64(offsets[i + 1])
        if i > begin_at and begin - offsets[i - 1] == end - begin:
            # Rows sorted by key repeat the one before.
            same_until = begin
            while same_until < end and text[same_until] == text[same_until - (end - begin)]:
                same_until += 1
            if same_until == end:
                out[i] = out[i - 1]
                continue
        hashed = hash_string(text, begin, end)
        at = hashed & last
        slot = np.int64(-1)
        while place[at]:
            other = np.int64(place[at]) - 1
            if hashes[other] == hashed and ends[other + 1] - ends[other] == end - begin:
                same = True
                for j in range(end - begin):
                    if names[ends[other] + j] != text[begin + j]:
                        same = False
                        break
                if same:
                    slot = other
                    break
            at = (at + 1) & last
        if slot < 0:
            full = (count + 1) * 4 > place.shape[0] * 3 or count == hashes.shape[0]
            if full or ends[count] + end - begin > names.shape[0]:
                return i, count
            slot = np.int64(count)
            count += 1
            place[at] = count
            hashes[slot] = hashed
            ends[count] = ends[slot] + end - begin
            for j in range(end - begin):
                names[ends[slot] + j] = text[begin + j]
        out[i] = slot
    return out.shape[0], count


@njit(cache=True)
def look_up(offsets: Any, text: Any, known: Keys, out: Any) -> None:
    """Write each key's slot, or -1 where it has none; the arguments are those of `find`."""
    place, hashes, ends, names = known.place, known.hash, known.end, known.text
    last = place.shape[0] - 1
    for i in range(out.shape[0]):
        begin, end = np.int64(offsets[i]), np.int64(offsets[i + 1])
        hashed = hash_string(text, begin, end)
        at = hashed & last
        out[i] = -1
        while place[at]:
            slot = np.int64(place[at]) - 1
            same = hashes[slot] == hashed and ends[slot + 1] - ends[slot] == end - begin
            for j in range(end - begin):
                if not same:
                    break
                same = names[ends[slot] + j] == text[begin + j]
            if same:
                out[i] = slot
                break
            at = (at + 1) & last


@njit(cache=True)
def copy(known: Keys, keep: Any, target: Keys) -> None:
    """Write the keys of some slots, in their order, into an empty table with room for them."""
    last = target.place.shape[0] - 1
    for slot in range(keep.shape[0]):
        old = keep[slot]
        size = known.end[old + 1] - known.end[old]
        target.hash[slot] = known.hash[old]
        target.end[slot + 1] = target.end[slot] + size
        for j in range(size):
            target.text[target.end[slot] + j] = known.text[known.end[old] + j]
        at = known.hash[old] & last
        while target.place[at]:
            at = (at + 1) & last
        target.place[at] = slot + 1

"""64-bit hashes of strings, straight from Arrow's buffers.

Eight bytes at a time are mixed by a 64 × 64 bit product whose halves are folded together, after
Wang Yi's wyhash (https://github.com/wangyi-fudan/wyhash). Whoever needs more than 64 bits hashes a
second string beside the first, as the table of duplicates does with key and event id.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels.wide import product

_A = np.uint64(0xA0761D6478BD642F)
_B = np.uint64(0xE7037ED1A0B428DB)
_C = np.uint64(0x8EBC6AF09C88C6E3)


@njit(cache=True)
def _mix(a: np.uint64, b: np.uint64) -> np.uint64:
    high, low = product(a, b)
    return high ^ low


@njit(cache=True)
def hash_string(text: Any, begin: int, end: int) -> Any:
    """The hash of the bytes [begin, end) of `text`, uint8."""
    state = _A ^ np.uint64(end - begin)
    at = begin
    while at < end:
        word = np.uint64(0)
        if at + 8 <= end:
            # Spelt out, these eight become one load.
            word = (
                np.uint64(text[at])
                | np.uint64(text[at + 1]) << np.uint64(8)
                | np.uint64(text[at + 2]) << np.uint64(16)
                | np.uint64(text[at + 3]) << np.uint64(24)
                | np.uint64(text[at + 4]) << np.uint64(32)
                | np.uint64(text[at + 5]) << np.uint64(40)
                | np.uint64(text[at + 6]) << np.uint64(48)
                | np.uint64(text[at + 7]) << np.uint64(56)
            )
        else:
            for j in range(at, end):
                word |= np.uint64(text[j]) << np.uint64(8 * (j - at))
        state = _mix(word ^ _B, state ^ _C)
        at += 8
    return np.int64(_mix(state ^ _C, _B))


@njit(cache=True)
def hash_strings(offsets: Any, text: Any, out: Any) -> None:
    """Write the hash of each string.

    Args:
        offsets: int32 or int64 [n + 1], where each string begins and ends in `text`.
        text: uint8, the bytes of all of them.
        out: int64 [n].
    """
    for i in range(out.shape[0]):
        out[i] = hash_string(text, np.int64(offsets[i]), np.int64(offsets[i + 1]))

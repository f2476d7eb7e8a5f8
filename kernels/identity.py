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
def hash_strings(offsets: Any, text: Any, out: Any) -> None:
    """Write the hash of each string.

    Args:
        offsets: int32 or int64 [n + 1], where each string begins and ends in `text`.
        text: uint8, the bytes of all of them.
        out: int64 [n].
    """
    for i in range(out.shape[0]):
        begin, end = offsets[i], offsets[i + 1]
        state = _A ^ np.uint64(end - begin)
        for at in range(begin, end, 8):
            word = np.uint64(0)
            for j in range(at, min(at + 8, end)):
                word |= np.uint64(text[j]) << np.uint64(8 * (j - at))
            state = _mix(word ^ _B, state ^ _C)
        out[i] = np.int64(_mix(state ^ _C, _B))

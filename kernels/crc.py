"""CRC-32 of strings, straight from Arrow's buffers: the checksum of zlib (RFC 1952, section 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_POLYNOMIAL = 0xEDB88320


def _table() -> Any:
    """The remainder of every byte."""
    rest = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rest = np.where(rest & 1, (rest >> 1) ^ np.uint32(_POLYNOMIAL), rest >> 1)
    return rest


_TABLE = _table()


@njit(cache=True)
def crc32(offsets: Any, text: Any, out: Any) -> None:
    """Write the CRC-32 of each string.

    Args:
        offsets: int32 or int64 [n + 1], where each string begins and ends in `text`, uint8.
        out: uint32 [n].
    """
    for i in range(out.shape[0]):
        rest = np.uint32(0xFFFFFFFF)
        for j in range(offsets[i], offsets[i + 1]):
            rest = _TABLE[(rest ^ text[j]) & np.uint32(0xFF)] ^ (rest >> np.uint32(8))
        out[i] = rest ^ np.uint32(0xFFFFFFFF)

"""The keys that something is remembered of, each with a slot: a table that grows with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.coding import string_buffers
from kernels import keys as key_table

_FEWEST_KEYS, _FEWEST_BYTES = 64, 1024

Ints = npt.NDArray[np.int64]


class Slots:
    """Keys by slot, 0 first; what is remembered of a key lies at its slot in arrays of `room`."""

    def __init__(self) -> None:
        self._start(0, 0)

    def _start(self, keys: int, text_bytes: int) -> None:
        """An empty table with room for some keys, and half as many again."""
        self.keys = 0
        self._table = key_table.empty(
            max(_FEWEST_KEYS, half_more(keys)), half_more(text_bytes) + _FEWEST_BYTES
        )

    @property
    def room(self) -> int:
        """How many slots there can be before the table grows."""
        return len(self._table.hash)

    @property
    def nbytes(self) -> int:
        """Memory of all of it, room to grow included."""
        return sum(int(array.nbytes) for array in self._table)

    def of(self, keys: pa.Array) -> Ints:
        """The slot of each key, int64 [n]; new keys get one, and `room` may grow."""
        return self._find(*string_buffers(keys), np.empty(len(keys), np.int64))

    def _find(self, offsets: Any, text: Any, out: Ints) -> Ints:
        done = 0
        while True:
            done, self.keys = key_table.find(done, offsets, text, self._table, self.keys, out)
            if done == len(out):
                return out
            self._copy(np.arange(self.keys), int(offsets[done + 1] - offsets[done]))

    def look_up(self, keys: pa.Array) -> Ints:
        """The slot of each key, int64 [n]; -1 where it has none."""
        out = np.empty(len(keys), np.int64)
        key_table.look_up(*string_buffers(keys), self._table, out)
        return out

    def hashes(self, slots: Ints) -> Ints:
        """The hash of each slot's key."""
        found: Ints = self._table.hash[slots]
        return found

    def keep(self, slots: Ints) -> None:
        """Forget all keys but those of some slots, which get the slots 0, 1, … in their order."""
        self._copy(slots, 0)

    def _copy(self, slots: Ints, text_bytes: int) -> None:
        known = self._table
        named = int((known.end[slots + 1] - known.end[slots]).sum())
        self._start(len(slots), named + text_bytes)
        key_table.copy(known, slots, self._table)
        self.keys = len(slots)

    def pack(self, first: int = 0) -> dict[str, Any]:
        """The keys from a slot on, as plain bytes; `unpack` is its inverse."""
        known = self._table
        ends = known.end[first : self.keys + 1]
        return {
            "ends": (ends - ends[0]).tobytes(),
            "text": known.text[ends[0] : ends[-1]].tobytes(),
        }

    def unpack(self, packed: dict[str, Any]) -> None:
        """Add the keys of `pack`, which get the next slots."""
        ends = np.frombuffer(packed["ends"], np.int64)
        text = np.frombuffer(packed["text"], np.uint8)
        self._find(ends, text, np.empty(len(ends) - 1, np.int64))


def half_more(size: int) -> int:
    """What arrays grow to, so that growth costs each entry no more than a few copies."""
    return size + size // 2

"""The event ids that a stage has folded and that may come again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.slots import Ints, half_more
from kernels import duplicates

_FEWEST = 512


class SeenIds:
    """Ids by their key, as hashes, with the event times they came with."""

    def __init__(self) -> None:
        self.entries = 0
        """How many are remembered."""
        self.epoch = 0
        """Grows when those that were remembered move to other places."""
        self._held = np.empty((_FEWEST, 3), np.int64)
        self._index = np.zeros(2 * _FEWEST, np.int32)

    @property
    def nbytes(self) -> int:
        """Memory of all of it, room to grow included."""
        return int(self._held.nbytes + self._index.nbytes)

    def judge(
        self,
        keys: Ints,
        ids: Ints,
        times_us: Ints,
        skip: npt.NDArray[np.bool_],
        horizon_us: int,
        before_us: int,
    ) -> npt.NDArray[np.bool_]:
        """Which rows repeat an id of the same key; the others are remembered.

        Args:
            keys, ids: hashes [n].
            times_us: event times; a repeat lies within `horizon_us` of what it repeats.
            skip: rows that are neither judged nor remembered.
            before_us: no row comes again from before; what is older makes room where it is needed.
        """
        n = len(keys)
        if self.entries + n > len(self._held):
            self._close_up(before_us)
            self._resize(half_more(self.entries) + n)
        repeated = np.zeros(n, np.bool_)
        self.entries = duplicates.judge(
            keys,
            ids,
            times_us,
            skip,
            horizon_us,
            self._index,
            self._held,
            self.entries,
            repeated,
        )
        return repeated

    def forget(self, before_us: int) -> None:
        """Let go of ids from before a time, and of the room they took."""
        self._close_up(before_us)
        self._resize(half_more(self.entries))

    def keep_only(self, key: int, before_us: int) -> None:
        """Let go of what has another key or is from before; a batch as large may follow."""
        self._close_up(before_us, key)
        self._index[:] = 0
        duplicates.fill(self._index, self._held, 0, self.entries)

    def _close_up(self, before_us: int, key: int | None = None) -> None:
        only = key is not None
        self.epoch += 1
        self.entries = duplicates.close_up(self._held, self.entries, before_us, only, key or 0)

    def _resize(self, room: int) -> None:
        held = np.empty((max(_FEWEST, room), 3), np.int64)
        held[: self.entries] = self._held[: self.entries]
        self._held = held
        self._index = np.zeros(1 << (2 * len(held) - 1).bit_length(), np.int32)
        duplicates.fill(self._index, self._held, 0, self.entries)

    def pack(self, first: int = 0) -> bytes:
        """Those from a place on, as plain bytes; `unpack` is its inverse."""
        return self._held[first : self.entries].tobytes()

    def unpack(self, packed: bytes) -> None:
        """Add those of `pack`."""
        more = np.frombuffer(packed, np.int64).reshape(-1, 3)
        first, entries = self.entries, self.entries + len(more)
        if entries > len(self._held):
            self._resize(half_more(entries))
        self._held[first:entries] = more
        duplicates.fill(self._index, self._held, first, entries)
        self.entries = entries

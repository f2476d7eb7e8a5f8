"""What a stage remembers of its keys: their slots, and the windows' entries.

Memory follows what is retained: arrays grow by half, the matrix is written anew, without what has
expired, whenever it is full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.layout import Layout
from features.slots import Slots
from features.wire import NEVER_US
from kernels.arena import Arena
from kernels.segments import gather, rebuild, reserve
from kernels.windows import fold_rows

_FEWEST_ROWS = 512
_BY_KEY = Arena._fields.index("held")
"""The arena's arrays before this one have a row for each key."""


class State:
    """The keys and entries of one stage and partition.

    Args:
        layout: what is kept.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._slots = Slots()
        self._arena = layout.arena(self._slots.room, _FEWEST_ROWS)
        self._out = np.zeros(0, np.int64)
        self._changed = np.zeros(self._slots.room, np.int32)
        self.generation = 1
        """What a key that changes now is marked with."""
        self.epoch = 0
        """Grows when keys get other slots."""

    @property
    def keys(self) -> int:
        """How many keys have state."""
        return self._slots.keys

    @property
    def entries(self) -> int:
        """How many events and waiting labels are retained."""
        length = self._arena.length[: self.keys]
        return int(length.sum()) - int(np.count_nonzero(length))

    @property
    def keeps_ids(self) -> bool:
        """Whether `fold` reads the hashes of event ids."""
        return bool(self._layout.spec.mark)

    @property
    def reach_us(self) -> int:
        """How far back any window looks."""
        return int(self._layout.spec.reach_us)

    @property
    def nbytes(self) -> int:
        """Memory of all of it, room to grow included."""
        arrays = (*self._arena, self._changed)
        return self._slots.nbytes + sum(int(array.nbytes) for array in arrays)

    @property
    def bytes_by_key(self) -> int:
        """That part of the memory which is there for keys, not for entries."""
        return self.nbytes - int(self._arena.held.nbytes)

    def slots(self, keys: pa.Array) -> npt.NDArray[np.int64]:
        """The slot of each key, int64 [n]; new keys get one."""
        found = self._slots.of(keys)
        if self._slots.room > len(self._arena.length):
            self._fit(np.arange(len(self._arena.length)))
        return found

    def hashes(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The hash of each slot's key."""
        return self._slots.hashes(slots)

    def _keep(self, slots: npt.NDArray[np.int64]) -> None:
        self.epoch += 1
        self._slots.keep(slots)
        self._fit(slots)

    def _fit(self, slots: npt.NDArray[np.int64]) -> None:
        """Move what is kept by key to the slots 0, 1, …, with the room that the slots have."""
        self._arena = Arena(
            *(_grown(array[slots], self._slots.room) for array in self._arena[:_BY_KEY]),
            *self._arena[_BY_KEY:],
        )
        self._changed = _grown(self._changed[slots], self._slots.room)

    def fold(
        self,
        rows: pa.RecordBatch,
        slots: npt.NDArray[np.int64],
        is_label: npt.NDArray[np.bool_],
        skip: npt.NDArray[np.bool_],
        times_us: npt.NDArray[np.int64],
        identities: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int8],
        conditions: npt.NDArray[np.uint16],
        settled_us: int,
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Fold rows and give every window's columns, float64 [n]; 0 on rows that are skipped."""
        n = rows.num_rows
        layout = self._layout
        self._changed[slots] = self.generation
        values = np.empty((len(layout.values), n), np.int64)
        for index, coded in enumerate(layout.values):
            values[index] = coded.of(rows)
        skips = skip | (is_label & (labels == 0)) if layout.spec.mark else skip
        wanted = np.zeros(self.keys, np.int32)
        while True:
            asked = reserve(slots, skips, wanted, self._arena, layout.spec, settled_us)
            if not asked:
                break
            # Much room, for keys that grow would have to move again and again.
            self._rebuild(settled_us, asked, slack=2)
        if layout.readings * n > len(self._out):
            self._out = np.zeros(layout.readings * n, np.int64)
        out = self._out[: layout.readings * n].reshape(layout.readings, n)
        out[:, skip | is_label] = 0
        fold_rows(
            is_label,
            skip,
            slots,
            times_us,
            identities,
            values,
            labels,
            conditions,
            self._arena,
            layout.spec,
            out,
            out.view(np.float64),
        )
        return layout.results(out, times_us)

    def _rebuild(self, settled_us: int, asked: int, slack: int) -> None:
        """Write the matrix anew, without what has expired and with the rows that are asked for.

        One row in `slack` stays free, in the segments and after them.
        """
        arena = self._arena
        kept = int(arena.length[: self.keys].sum())
        rows = kept + kept // slack + self.keys + asked
        held = np.empty((max(_FEWEST_ROWS, rows), arena.held.shape[1]), np.int64)
        rebuild(arena, self._layout.spec, held, self.keys, slack, settled_us)
        self._arena = arena._replace(held=held)

    def forget(self, settled_us: int) -> None:
        """Let go of what has expired, and of keys that have no entries left."""
        self._rebuild(settled_us, 0, slack=8)
        alive = np.flatnonzero(self._arena.length[: self.keys] > 1)
        if len(alive) < self.keys:
            self._keep(alive)

    def keep_only(self, slot: int | None, settled_us: int = NEVER_US) -> None:
        """Forget every key but one, and of that one what no event reaches any more."""
        self._keep(np.array([] if slot is None else [slot], np.int64))
        self._rebuild(settled_us, 0, slack=8)

    def pack(self, generation: int = 0, first: int = 0) -> dict[str, Any]:
        """Keys that have changed after a generation, as plain bytes and numbers.

        `first` is how many keys there were then; `unpack` is the inverse.
        """
        arena, keys = self._arena, self.keys
        slots = np.flatnonzero(self._changed[:keys] > generation) if generation else np.arange(keys)
        held = np.empty((int(arena.length[slots].sum()), self._layout.columns), np.int64)
        gather(arena.held, arena.start, arena.length, slots, held)
        return {
            **self._slots.pack(first),
            "slots": slots.tobytes(),
            "by_key": [array[slots].tobytes() for array in arena[:_BY_KEY]],
            "held": held.tobytes(),
        }

    def unpack(self, packed: dict[str, Any]) -> None:
        """Take over what `pack` gave, in place of what there was of those keys."""
        self._slots.unpack(packed)
        if self._slots.room > len(self._arena.length):
            self._fit(np.arange(len(self._arena.length)))
        slots = np.frombuffer(packed["slots"], np.int64)
        held = np.frombuffer(packed["held"], np.int64).reshape(-1, self._layout.columns)
        if int(self._arena.used[0]) + len(held) > len(self._arena.held):
            self._rebuild(NEVER_US, len(held), slack=8)
        arena = self._arena
        for array, saved in zip(arena[:_BY_KEY], packed["by_key"], strict=True):
            array[slots] = np.frombuffer(saved, array.dtype).reshape(len(slots), *array.shape[1:])
        used = int(arena.used[0])
        arena.held[used : used + len(held)] = held
        # They lie anew, one after the other, and get room where it is asked for.
        length = arena.length[slots]
        arena.start[slots] = used + np.cumsum(length) - length
        arena.capacity[slots] = length
        arena.used[0] = used + len(held)


def _grown(array: Any, size: int) -> Any:
    """A copy with room for `size` rows."""
    larger = np.zeros((size, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger

"""The versions of a reference that a stage knows: which one each event sees, and its values.

Chains of versions (`kernels/asof.py`) say which; the values lie beside them as they travel, in
Arrow, so that a text is a text. They have keys of their own: most keys of a table may never have an
event.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.slots import Ints, Slots, half_more
from kernels import asof

_FEWEST = 64


class Versions:
    """The versions of one reference in one partition of its stage.

    Args:
        schema: the row's columns of its fields.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._slots = Slots()
        self._set_head(np.empty(0, np.int64))
        self._following = np.empty(_FEWEST, np.int64)
        self._valid_from = np.empty(_FEWEST, np.int64)
        self.entries = 0
        """How many versions are kept."""
        self.generation = 0
        """Grows when versions come."""
        self._values: list[pa.RecordBatch] = []

    @property
    def nbytes(self) -> int:
        """Memory of all of it, room to grow included."""
        arrays = (self._head, self._following, self._valid_from, *self._values)
        return self._slots.nbytes + sum(int(each.nbytes) for each in arrays)

    def fold(
        self,
        rows: pa.RecordBatch,
        keys: pa.Array,
        is_version: npt.NDArray[np.bool_],
        is_event: npt.NDArray[np.bool_],
        times_us: Ints,
        settled_us: int,
    ) -> dict[str, pa.Array]:
        """Take rows in their order: keep the versions, and look up what each event sees.

        Returns:
            The columns of the schema: a version's own values, an event's looked up; else null.
        """
        added = np.flatnonzero(is_version)
        if len(added):
            self.generation += 1
            self._make_room(keys.take(pa.array(added)), settled_us)
            self._append(rows.select(self._schema.names).take(pa.array(added)))
        if not self.entries and not len(added):
            return {field.name: pa.nulls(rows.num_rows, field.type) for field in self._schema}
        slots = self._slots.look_up(keys)
        slots[~(is_version | is_event)] = -1
        seen = np.empty(rows.num_rows, np.int64)
        self.entries = asof.fold_versions(
            slots,
            is_version,
            times_us,
            self._head,
            self._following,
            self._valid_from,
            self.entries,
            seen,
        )
        return dict(zip(self._schema.names, self._take(seen), strict=True))

    def forget(self, settled_us: int) -> None:
        """Let go of versions that only events before a time could see; each key keeps its last."""
        self._rewrite(np.arange(self._slots.keys), settled_us, 0)

    def keep_only(self, key: str | None, settled_us: int) -> None:
        """Forget every key but one, and of that one what only older events could see."""
        slot = self._slots.look_up(pa.array([key], pa.string()))
        self._rewrite(slot[slot >= 0], settled_us, 0)

    def pack(self) -> dict[str, Any]:
        """All of it as plain bytes and numbers; `unpack` is its inverse."""
        entries = self.entries
        return {
            **self._slots.pack(),
            "head": self._head[: self._slots.keys].tobytes(),
            "following": self._following[:entries].tobytes(),
            "valid_from": self._valid_from[:entries].tobytes(),
            "values": self._whole().serialize().to_pybytes(),
        }

    def unpack(self, packed: dict[str, Any]) -> None:
        """Take over what `pack` gave, in place of all there was."""
        self._slots = Slots()
        self._slots.unpack(packed)
        self._set_head(np.frombuffer(packed["head"], np.int64))
        self._following = _with_room(np.frombuffer(packed["following"], np.int64), 0)
        self._valid_from = _with_room(np.frombuffer(packed["valid_from"], np.int64), 0)
        self.entries = len(packed["valid_from"]) // 8
        self._values = [pa.ipc.read_record_batch(pa.py_buffer(packed["values"]), self._schema)]

    def _make_room(self, keys: pa.Array, settled_us: int) -> None:
        """Give new keys a slot, and make room for a version of each."""
        if self.entries + len(keys) > len(self._valid_from):
            self._rewrite(np.arange(self._slots.keys), settled_us, len(keys))
        self._slots.of(keys)
        if self._slots.room > len(self._head):
            self._set_head(self._head)

    def _append(self, values: pa.RecordBatch) -> None:
        """Keep values of new versions, in few batches of falling sizes."""
        held = self._values
        held.append(values)
        while len(held) > 1 and held[-2].num_rows < 2 * held[-1].num_rows:
            last = held.pop()
            held[-1] = pa.concat_batches([held[-1], last])

    def _take(self, entries: Ints) -> list[pa.Array]:
        """The values of versions, null where there is none."""
        place = np.full(len(entries), -1, np.int64)
        parts: list[pa.RecordBatch] = []
        begin = taken = 0
        for held in self._values:
            own = np.flatnonzero((entries >= begin) & (entries < begin + held.num_rows))
            if len(own):
                parts.append(held.take(pa.array(entries[own] - begin)))
                place[own] = taken + np.arange(len(own))
                taken += len(own)
            begin += held.num_rows
        if not parts:
            return [pa.nulls(len(entries), field.type) for field in self._schema]
        return pa.concat_batches(parts).take(pa.array(place, mask=place < 0)).columns

    def _whole(self) -> pa.RecordBatch:
        if not self._values:
            empty = [pa.nulls(0, field.type) for field in self._schema]
            return pa.RecordBatch.from_arrays(empty, schema=self._schema)
        return pa.concat_batches(self._values)

    def _rewrite(self, keep: Ints, settled_us: int, more: int) -> None:
        """Write the chains of some slots anew, with room for more versions."""
        kept = np.empty(self.entries, np.int64)
        head = np.empty(len(keep), np.int64)
        following, valid_from = np.empty_like(kept), np.empty_like(kept)
        self.entries = asof.copy(
            keep,
            self._head,
            self._following,
            self._valid_from,
            settled_us,
            head,
            following,
            valid_from,
            kept,
        )
        if self._values:
            self._values = [self._whole().take(pa.array(kept[: self.entries]))]
        self._following = _with_room(following[: self.entries], more)
        self._valid_from = _with_room(valid_from[: self.entries], more)
        if len(keep) < self._slots.keys:
            self._slots.keep(keep)
        self._set_head(head)

    def _set_head(self, head: Ints) -> None:
        """Every slot that there is room for has a head."""
        self._head = np.full(self._slots.room, asof.NONE, np.int64)
        self._head[: len(head)] = head


def _with_room(array: Ints, more: int) -> Ints:
    """A copy with room for half as many entries and some more."""
    larger = np.empty(max(_FEWEST, half_more(len(array)) + more), np.int64)
    larger[: len(array)] = array
    return larger

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

from features.coding import string_buffers
from kernels import asof
from kernels import keys as key_table

_FEWEST = 64

Ints = npt.NDArray[np.int64]


class Versions:
    """The versions of one reference in one partition of its stage.

    Args:
        schema: the row's columns of its fields.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._keys = 0
        self._known = key_table.empty(_FEWEST, 16 * _FEWEST)
        self._head = np.full(_FEWEST, asof.NONE, np.int64)
        self._following = np.empty(_FEWEST, np.int64)
        self._valid_from = np.empty(_FEWEST, np.int64)
        self.entries = 0
        """How many versions are kept."""
        self._values: list[pa.RecordBatch] = []

    @property
    def nbytes(self) -> int:
        """Memory of all of it, room to grow included."""
        arrays = (*self._known, self._head, self._following, self._valid_from)
        return sum(int(each.nbytes) for each in (*arrays, *self._values))

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
            self._make_room(keys.take(pa.array(added)), settled_us)
            self._append(rows.select(self._schema.names).take(pa.array(added)))
        if not self.entries and not len(added):
            return {field.name: pa.nulls(rows.num_rows, field.type) for field in self._schema}
        slots = np.empty(rows.num_rows, np.int64)
        key_table.look_up(*string_buffers(keys), self._known, slots)
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
        self._rewrite(np.arange(self._keys), settled_us, 0)

    def keep_only(self, key: str | None, settled_us: int) -> None:
        """Forget every key but one, and of that one what only older events could see."""
        slot = np.empty(1, np.int64)
        key_table.look_up(*string_buffers(pa.array([key], pa.string())), self._known, slot)
        self._rewrite(slot[slot >= 0], settled_us, 0)

    def pack(self) -> dict[str, Any]:
        """All of it as plain bytes and numbers; `unpack` is its inverse."""
        keys, entries, known = self._keys, self.entries, self._known
        return {
            "ends": known.end[: keys + 1].tobytes(),
            "text": known.text[: known.end[keys]].tobytes(),
            "head": self._head[:keys].tobytes(),
            "following": self._following[:entries].tobytes(),
            "valid_from": self._valid_from[:entries].tobytes(),
            "values": self._whole().serialize().to_pybytes(),
        }

    def unpack(self, packed: dict[str, Any]) -> None:
        """Take over what `pack` gave."""
        ends = np.frombuffer(packed["ends"], np.int64)
        text = np.frombuffer(packed["text"], np.uint8)
        keys = len(ends) - 1
        self._known = key_table.empty(max(_FEWEST, keys), max(16 * _FEWEST, len(text)))
        slots = np.empty(keys, np.int64)
        _, self._keys = key_table.find(0, ends, text, self._known, 0, slots)
        self._set_head(np.frombuffer(packed["head"], np.int64))
        self._following = _with_room(np.frombuffer(packed["following"], np.int64), 0)
        self._valid_from = _with_room(np.frombuffer(packed["valid_from"], np.int64), 0)
        self.entries = len(packed["valid_from"]) // 8
        self._values = [pa.ipc.read_record_batch(pa.py_buffer(packed["values"]), self._schema)]

    def _make_room(self, keys: pa.Array, settled_us: int) -> None:
        """Give new keys a slot, and make room for a version of each."""
        if self.entries + len(keys) > len(self._valid_from):
            self._rewrite(np.arange(self._keys), settled_us, len(keys))
        slots = np.empty(len(keys), np.int64)
        buffers = string_buffers(keys)
        done = 0
        while True:
            done, self._keys = key_table.find(done, *buffers, self._known, self._keys, slots)
            if done == len(keys):
                break
            text_bytes = int(buffers[0][-1] - buffers[0][done])
            self._keep_keys(np.arange(self._keys), len(keys), text_bytes)
            self._set_head(self._head[: self._keys])

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
        if len(keep) < self._keys:
            self._keep_keys(keep, 0, 0)
        self._set_head(head)

    def _set_head(self, head: Ints) -> None:
        """Every slot that the table of keys has room for has a head."""
        self._head = np.full(len(self._known.hash), asof.NONE, np.int64)
        self._head[: len(head)] = head

    def _keep_keys(self, keep: Ints, more: int, text_bytes: int) -> None:
        """Keep the keys of some slots, with room for more."""
        room = max(_FEWEST, _half_more(len(keep)) + more)
        size = int((self._known.end[keep + 1] - self._known.end[keep]).sum())
        known = key_table.empty(room, _half_more(size) + text_bytes + 16 * _FEWEST)
        key_table.copy(self._known, keep, known)
        self._known, self._keys = known, len(keep)


def _half_more(size: int) -> int:
    return size + size // 2


def _with_room(array: Ints, more: int) -> Ints:
    """A copy with room for half as many entries and some more."""
    larger = np.empty(max(_FEWEST, _half_more(len(array)) + more), np.int64)
    larger[: len(array)] = array
    return larger

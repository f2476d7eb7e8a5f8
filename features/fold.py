"""A stage as a pure fold over one log: rows in, rows with this stage's columns out.

The Faust worker, the Spark backfill, bootstrap and the proof all call `Fold`. It drops repeats by
the highest position it has folded of each immediate upstream partition, recognises duplicates (in
the first stage), keeps the windows' state and computes the stage's columns. It never reads a clock.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SnapshotError
from features.layout import BY_KEY, Layout, grown
from features.plan import Plan
from features.vocabulary import Comparison
from features.wire import (
    DUPLICATE,
    FOLDED,
    KIND_LABEL,
    LOG_EVENTS,
    LOG_STAGES,
    ROW_BITS,
    row_schema,
)
from kernels import duplicates
from kernels.identity import hash_strings
from kernels.windows import FIRST_CONDITION, compact, fold_rows, reserve

_SMALLEST_SEEN = 1024
_SMALLEST_TIME_US = np.iinfo(np.int64).min


class Fold:
    """The state of one stage for one partition of its log.

    Args:
        plan: the compiled feature set.
        stage: index of the stage; only the first judges duplicates, later ones read `verdict`.
    """

    def __init__(self, plan: Plan, stage: int) -> None:
        self.plan = plan
        self.stage = plan.stages[stage]
        self._schema = row_schema(plan)
        self._layout = Layout(self.stage)
        self._is_first = stage == 0
        self._is_last = stage == len(plan.stages) - 1
        self.offset = -1
        """The highest log offset folded."""
        self._marks: dict[tuple[int, int], int] = {}
        self._watermarks: dict[int, int] = {}
        self._seen = duplicates.empty(_SMALLEST_SEEN)
        self._seen_entries = 0
        self._slots: dict[str, int] = {}
        self._used = 0
        self._arena = self._layout.arena(keys=1024, entries=8192)

    @property
    def keys(self) -> int:
        """How many keys have state."""
        return len(self._slots)

    @property
    def entries(self) -> int:
        """How many events and waiting labels are retained."""
        return int(self._arena.length.sum())

    @property
    def state_bytes(self) -> int:
        """Memory of the windows' state, room to grow included; key names and ids are beside it."""
        return sum(int(array.nbytes) for array in self._arena)

    def fold(self, rows: pa.RecordBatch, partition: int, offset: int) -> pa.RecordBatch:
        """Fold one envelope read from this stage's log.

        Args:
            rows: of `row_schema(plan)`, in log order.
            partition: of the log.
            offset: of the envelope in the log.

        Returns:
            The rows that had not been folded before, with this stage's columns, verdict and
            position; labels pass through. Empty when every row was a repeat.
        """
        seq = (np.int64(offset) << ROW_BITS) + np.arange(rows.num_rows, dtype=np.int64)
        fresh = self._above_marks(rows)
        self.offset = max(self.offset, offset)
        if not fresh.all():
            rows = rows.filter(pa.array(fresh))
            seq = seq[fresh]
        if rows.num_rows == 0:
            return rows
        return self._compute(rows, partition, seq)

    def fold_history(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Fold rows that were not read from a log, in the order they have.

        Their positions and their `<stage>_seq` stay as they are.
        """
        return rows if rows.num_rows == 0 else self._compute(rows, -1, None)

    def _above_marks(self, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Which rows lie above the highest position folded of their upstream partition."""
        log = _ints(rows, "position_log")
        partition = _ints(rows, "position_partition")
        position = _ints(rows, "position_seq")
        upstream = (log.astype(np.int64) << 32) | partition
        fresh = np.zeros(rows.num_rows, np.bool_)
        for code in np.unique(upstream):
            at = np.flatnonzero(upstream == code)
            key = (int(code) >> 32, int(code) & 0xFFFFFFFF)
            highest = self._marks.get(key, -1)
            own = position[at]
            before = np.maximum.accumulate(np.concatenate(([highest], own[:-1])))
            fresh[at] = own > before
            self._marks[key] = max(highest, int(own.max()))
        return fresh

    def _compute(
        self, rows: pa.RecordBatch, partition: int, seq: npt.NDArray[np.int64] | None
    ) -> pa.RecordBatch:
        n = rows.num_rows
        is_label = _ints(rows, "kind") == KIND_LABEL
        times = _ints(rows, "event_time_us")
        verdict = _ints(rows, "verdict").copy()
        slots = self._slots_of(rows)
        if self._is_first:
            self._judge_duplicates(rows, is_label, times, verdict)
        skip = verdict != FOLDED
        if not self.stage.uses_label:
            skip |= is_label
        values = np.empty((n, len(self.stage.values)), np.int64)
        for index, name in enumerate(self.stage.values):
            values[:, index] = _ints(rows, name)
        labels = np.zeros(n, np.int8)
        identities = np.zeros(n, np.int64)
        if self.plan.label is not None and self.stage.uses_label:
            labels = _ints(rows, self.plan.label.field).astype(np.int8)
            identities = _hashes(rows.column("event_id"))
        conditions = _conditions(rows, self.stage.conditions)
        self._reserve(slots[~skip])
        primitives = np.zeros((n, self._layout.primitives), np.int64)
        fold_rows(
            is_label,
            skip,
            slots,
            times,
            identities,
            values,
            labels,
            conditions,
            self._arena,
            self._layout.spec,
            primitives,
        )
        watermarks = _ints(rows, "watermark_us")
        if seq is not None:
            # Only now: a batch may span more time than the windows, and its first rows still need
            # what its last ones have left behind.
            watermarks = self._advance_watermarks(rows, watermarks)
        made = self._layout.results(primitives, times)
        return self._finish(rows, is_label | skip, verdict, made, watermarks, partition, seq)

    def _slots_of(self, rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
        encoded = rows.column(self.stage.key_column).dictionary_encode()
        keys = encoded.dictionary.to_pylist()
        known = self._slots
        local = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
        if len(known) > len(self._arena.start):
            self._arena = grown(self._arena, keys=max(len(known), 2 * len(self._arena.start)))
        return local[encoded.indices.to_numpy()]

    def _advance_watermarks(
        self, rows: pa.RecordBatch, stamps: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Take the stamps of rows that have been folded, and give each row the stage's own.

        A stamp says that its upstream partition sends nothing that is older by more than the
        lateness. What leaves this stage carries the smallest stamp over the upstream partitions, so
        the next one may read it in the same way.
        """
        # The first stage reads each raw partition itself; what it has not heard of may still send
        # anything.
        from_events = _ints(rows, "origin_log") == LOG_EVENTS
        column = "origin_partition" if self._is_first else "position_partition"
        upstream = _ints(rows, column)
        own = np.full(rows.num_rows, np.iinfo(np.int64).max)
        for partition in range(self.plan.partitions):
            before = self._watermarks.get(partition, _SMALLEST_TIME_US)
            heard = np.where(from_events & (upstream == partition), stamps, before)
            highest = np.maximum.accumulate(heard)
            self._watermarks[partition] = max(before, int(highest[-1]))
            own = np.minimum(own, np.maximum(highest, before))
        return np.where(from_events, own, stamps)

    def _expire_before_us(self, look_back_us: int) -> int:
        """Nothing older can matter: no upstream partition can still send what reaches it."""
        smallest = min(self._watermarks.values(), default=_SMALLEST_TIME_US)
        if smallest == _SMALLEST_TIME_US:
            return int(_SMALLEST_TIME_US)
        return smallest - self.plan.lateness_us - look_back_us

    def _judge_duplicates(
        self,
        rows: pa.RecordBatch,
        is_label: npt.NDArray[np.bool_],
        times: npt.NDArray[np.int64],
        verdict: npt.NDArray[np.int8],
    ) -> None:
        """An id folded before for the same key, within the lateness, is a duplicate."""
        if (self._seen_entries + rows.num_rows) * 2 > len(self._seen.used):
            self._rewrite_seen(more=rows.num_rows)
        repeated = np.zeros(rows.num_rows, np.bool_)
        self._seen_entries += duplicates.judge(
            _hashes(rows.column(self.stage.key_column)),
            _hashes(rows.column("event_id")),
            times,
            is_label | (verdict != FOLDED),
            self.plan.lateness_us,
            self._seen,
            repeated,
        )
        verdict[repeated] = DUPLICATE

    def _rewrite_seen(
        self, more: int = 0, before_us: int | None = None, only_key: str | None = None
    ) -> None:
        """Forget event ids that cannot come again, and make room for more."""
        if before_us is None:
            before_us = self._expire_before_us(self.plan.lateness_us)
        key = 0 if only_key is None else int(_hashes(pa.array([only_key]))[0])
        wanted = 2 * (self._seen_entries + more)
        target = duplicates.empty(max(_SMALLEST_SEEN, 1 << (wanted - 1).bit_length()))
        self._seen_entries = duplicates.copy(
            self._seen, target, before_us, only_key is not None, key
        )
        self._seen = target

    def forget_ids(self, before_us: int) -> None:
        """Forget event ids last seen before an event time (µs); none of them can come again."""
        self._rewrite_seen(before_us=before_us)

    def _reserve(self, slots: npt.NDArray[np.int64]) -> None:
        if slots.size == 0:
            return
        wanted, extra = np.unique(slots, return_counts=True)
        expire_before_us = self._expire_before_us(self.stage.retention_us)
        compactable = True
        while True:
            self._used, lacking = reserve(
                wanted, extra, self._arena, self._layout.spec, self._used, expire_before_us
            )
            if not lacking:
                return
            entries = len(self._arena.time)
            if compactable and self.entries * 4 < entries:
                # Once: a batch of many new keys can need more than all of the arena.
                compactable = False
                self._compact()
                continue
            self._arena = grown(self._arena, entries=max(2 * entries, entries + lacking))

    def _compact(self) -> None:
        """Let go of what has expired; space that moved segments left behind is regained."""
        slots = np.flatnonzero(self._arena.length)
        slots = slots[np.argsort(self._arena.start[slots])]
        self._arena.capacity[:] = 0
        expire_before_us = self._expire_before_us(self.stage.retention_us)
        self._used = compact(slots, self._arena, self._layout.spec, expire_before_us)

    def _forget_keys(self) -> None:
        """Give back the slots of keys that have no events left."""
        alive = self._arena.length[: self.keys] > 0
        if alive.all():
            return
        number = np.cumsum(alive) - 1
        keep = np.flatnonzero(alive)
        for array in self._arena[:BY_KEY]:
            array[: keep.size] = array[keep]
            array[keep.size :] = 0
        flags = alive.tolist()
        self._slots = {key: int(number[slot]) for key, slot in self._slots.items() if flags[slot]}

    def _finish(
        self,
        rows: pa.RecordBatch,
        silent: npt.NDArray[np.bool_],
        verdict: npt.NDArray[np.int8],
        made: list[npt.NDArray[np.float64]],
        watermarks: npt.NDArray[np.int64],
        partition: int,
        seq: npt.NDArray[np.int64] | None,
    ) -> pa.RecordBatch:
        """Rows with this stage's columns, null where a row has none."""
        n = rows.num_rows
        columns = {name: rows.column(name) for name in self._schema.names}
        columns["verdict"] = pa.array(verdict, pa.int8())
        columns["watermark_us"] = pa.array(watermarks, pa.int64())
        if seq is not None:
            columns["position_log"] = pa.array(
                np.full(n, LOG_STAGES + self.stage.index, np.int8), pa.int8()
            )
            columns["position_partition"] = pa.array(np.full(n, partition, np.int32), pa.int32())
            columns["position_seq"] = pa.array(seq, pa.int64())
            columns[self.stage.seq_column] = columns["position_seq"]
        mask = silent if silent.any() else None
        for window, values in zip(self.stage.windows, made, strict=True):
            columns[window.column] = pa.array(values, pa.float64(), mask=mask)
        if self._is_first:
            columns.update(self._row_columns(rows, mask))
        if self._is_last:
            self._add_ratios(columns)
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=self._schema)

    def _row_columns(
        self, rows: pa.RecordBatch, mask: npt.NDArray[np.bool_] | None
    ) -> dict[str, pa.Array]:
        """Columns that the row alone tells."""
        times_us = _ints(rows, "event_time_us")
        made: dict[str, pa.Array] = {}
        for column in self.plan.columns:
            if column.kind == "calendar":
                values = CALENDAR[column.name](times_us)
                made[column.name] = pa.array(values.astype(np.float64), pa.float64(), mask=mask)
        return made

    def _add_ratios(self, columns: dict[str, pa.Array]) -> None:
        waiting = [c for c in self.plan.columns if c.kind == "ratio"]
        unmade = {c.name for c in waiting}
        while waiting:
            column = waiting.pop(0)
            if column.of in unmade or column.to in unmade:
                waiting.append(column)
                continue
            of = columns[column.of].cast(pa.float64())
            to = columns[column.to].cast(pa.float64())
            zero = pc.equal(to, 0.0)
            quotient = pc.divide(of, pc.if_else(zero, 1.0, to))
            columns[column.name] = pc.if_else(zero, 0.0, quotient)
            unmade.discard(column.name)

    def keep_only(self, key: str | None) -> None:
        """Forget every key but one: rows that come sorted by key need no more."""
        arena, slot = self._arena, self._slots.get(key) if key is not None else None
        begin, length = 0, 0
        if slot is not None:
            begin, length = int(arena.start[slot]), int(arena.length[slot])
        for array in arena[BY_KEY:]:
            # No identities are kept where no label is used.
            kept = array[begin : begin + length].copy()
            array[: len(kept)] = kept
        for array in arena[:BY_KEY]:
            row = array[slot or 0].copy()
            array[: self.keys] = 0
            if slot is not None:
                array[0] = row
        arena.start[0], arena.capacity[0], self._used = 0, length, length
        self._rewrite_seen(only_key=key or "")
        self._slots = {str(key): 0} if slot is not None else {}

    def snapshot(self) -> bytes:
        """The whole state, to be written somewhere durable; `restore` is its inverse."""
        self._rewrite_seen()
        self._compact()
        self._forget_keys()
        state: dict[str, Any] = {
            "fingerprint": self.plan.fingerprint,
            "stage": self.stage.name,
            "offset": self.offset,
            "marks": [[*key, seq] for key, seq in sorted(self._marks.items())],
            "watermarks": sorted(self._watermarks.items()),
            "keys": list(self._slots),
            "seen": [column[self._seen.used == 1].tobytes() for column in self._seen[:3]],
            "used": self._used,
            "arena": [
                array[:size].tobytes()
                for array, size in zip(self._arena, self._sizes(), strict=True)
            ],
        }
        body = msgspec.msgpack.encode(state)
        return hashlib.sha256(body).digest() + body

    def restore(self, snapshot: bytes) -> None:
        """Take over the state of a snapshot.

        Raises:
            SnapshotError: it is damaged, or belongs to another plan or stage.
        """
        checksum, body = snapshot[:32], snapshot[32:]
        if hashlib.sha256(body).digest() != checksum:
            raise SnapshotError(f"damaged snapshot of {len(snapshot)} bytes: checksum differs")
        state = msgspec.msgpack.decode(body)
        if state["fingerprint"] != self.plan.fingerprint or state["stage"] != self.stage.name:
            raise SnapshotError(
                f"the snapshot is of plan {state['fingerprint']}, stage {state['stage']!r}; this "
                f"process runs plan {self.plan.fingerprint}, stage {self.stage.name!r}"
            )
        self.offset = state["offset"]
        self._marks = {(log, partition): seq for log, partition, seq in state["marks"]}
        self._watermarks = dict(state["watermarks"])
        self._slots = {key: slot for slot, key in enumerate(state["keys"])}
        self._remember(*(np.frombuffer(column, np.int64) for column in state["seen"]))
        self._used = state["used"]
        self._arena = self._layout.arena(max(1024, 2 * self.keys), max(8192, 2 * self._used))
        for array, size, saved in zip(self._arena, self._sizes(), state["arena"], strict=True):
            array[:size] = np.frombuffer(saved, array.dtype).reshape(size, *array.shape[1:])

    def _sizes(self) -> list[int]:
        """How much of each of the arena's arrays is in use."""
        by_key = [self.keys] * BY_KEY
        return by_key + [min(self._used, len(array)) for array in self._arena[BY_KEY:]]

    def _remember(
        self,
        key: npt.NDArray[np.int64],
        identity: npt.NDArray[np.int64],
        time: npt.NDArray[np.int64],
    ) -> None:
        """Fill the table of seen ids from its saved columns."""
        self._seen = duplicates.Seen(key, identity, time, np.ones(len(key), np.uint8))
        self._seen_entries = len(key)
        self._rewrite_seen()


def _is_weekend(times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    # 1970-01-01 was a Thursday: day 0 of the epoch is weekday 3.
    weekday: npt.NDArray[np.int64] = (times_us // 86_400_000_000 + 3) % 7
    return weekday >= 5


def _is_night(times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    hour: npt.NDArray[np.int64] = times_us // 3_600_000_000 % 24
    return hour <= 6


CALENDAR = {"is_weekend": _is_weekend, "is_night": _is_night}
"""Columns of the event time, each from int64 [n] µs to bool [n]."""


def _ints(rows: pa.RecordBatch, name: str) -> Any:
    """A column as a numpy array; nulls (of fields a label row lacks) become 0."""
    column = rows.column(name)
    return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)


def _hashes(texts: pa.Array) -> npt.NDArray[np.int64]:
    """64-bit hashes of strings, int64 [n]; nulls count as empty."""
    _, offsets, text = texts.buffers()
    out = np.empty(len(texts), np.int64)
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    hash_strings(places, np.frombuffer(text or b"", np.uint8), out)
    return out


def _conditions(
    rows: pa.RecordBatch, conditions: tuple[tuple[Comparison, ...], ...]
) -> npt.NDArray[np.uint16]:
    """The conditions that hold for each row, as flags of the kernel."""
    flags = np.zeros(rows.num_rows, np.uint16)
    for index, comparisons in enumerate(conditions):
        holds = np.ones(rows.num_rows, np.bool_)
        for comparison in comparisons:
            column = rows.column(comparison.field)
            if comparison.operator == "in":
                found = pc.is_in(column, value_set=pa.array(comparison.operand, column.type))
            else:
                found = _COMPARE[comparison.operator](column, comparison.operand)
            holds &= found.fill_null(False).to_numpy(zero_copy_only=False)
        flags[holds] |= np.uint16(FIRST_CONDITION << index)
    return flags


_COMPARE = {"lt": pc.less, "le": pc.less_equal, "gt": pc.greater, "ge": pc.greater_equal}

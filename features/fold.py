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
from features.plan import Plan
from features.wire import (
    DUPLICATE,
    FOLDED,
    KIND_LABEL,
    LOG_EVENTS,
    LOG_STAGES,
    ROW_BITS,
    row_schema,
)
from kernels.windows import AGGREGATIONS, fold_rows, reserve

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
        windows = self.stage.windows
        self._aggregation = np.array([AGGREGATIONS[w.aggregation] for w in windows], np.int64)
        values = self.stage.values
        self._value_index = np.array(
            [values.index(w.value) if w.value else -1 for w in windows], np.int64
        )
        self._over_us = np.array([w.over_us for w in windows], np.int64)
        self._delay_us = np.array([w.delay_us for w in windows], np.int64)
        self._is_first = stage == 0
        self._is_last = stage == len(plan.stages) - 1
        self.offset = -1
        """The highest log offset folded."""
        self._marks: dict[tuple[int, int], int] = {}
        self._watermarks: dict[tuple[int, int], int] = {}
        self._seen: dict[tuple[int, str], list[int]] = {}
        self._slots: dict[str, int] = {}
        self._allocate(keys=1024, entries=8192)

    def _allocate(self, keys: int, entries: int) -> None:
        sums = 2 + len(self.stage.values)
        self._start = np.zeros(keys, np.int64)
        self._length = np.zeros(keys, np.int64)
        self._capacity = np.zeros(keys, np.int64)
        self._base = np.zeros((keys, sums), np.int64)
        self._time = np.zeros(entries, np.int64)
        self._identity = np.zeros(entries, np.int64)
        self._present = np.zeros(entries, np.int8)
        self._label = np.zeros(entries, np.int8)
        self._prefix = np.zeros((entries, sums), np.int64)
        self._used = 0

    @property
    def keys(self) -> int:
        """How many keys have state."""
        return len(self._slots)

    @property
    def entries(self) -> int:
        """How many events and waiting labels are retained."""
        return int(self._length.sum())

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
            self._judge_duplicates(rows, is_label, slots, times, verdict)
        skip = verdict != FOLDED
        if not self.stage.uses_label:
            skip |= is_label
        values = np.empty((n, len(self.stage.values)), np.int64)
        for index, name in enumerate(self.stage.values):
            values[:, index] = _ints(rows, name)
        labels = np.zeros(n, np.int8)
        if self.plan.label is not None and self.stage.uses_label:
            labels = _ints(rows, self.plan.label.field).astype(np.int8)
            identities = _identities(rows)
        else:
            # Identity only matters where labels look for their event.
            identities = np.zeros(n, np.int64)
        self._reserve(slots[~skip])
        out = np.zeros((n, len(self.stage.windows)), np.float64)
        fold_rows(
            is_label,
            skip,
            slots,
            times,
            identities,
            values,
            labels,
            self._start,
            self._length,
            self._base,
            self._time,
            self._identity,
            self._present,
            self._label,
            self._prefix,
            self._aggregation,
            self._value_index,
            self._over_us,
            self._delay_us,
            out,
        )
        if seq is not None:
            # Only now: a batch may span more time than the windows, and its first rows still need
            # what its last ones have left behind.
            self._advance_watermarks(rows)
        return self._finish(rows, is_label | skip, verdict, out, partition, seq)

    def _slots_of(self, rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
        encoded = rows.column(self.stage.key_column).dictionary_encode()
        keys = encoded.dictionary.to_pylist()
        known = self._slots
        local = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
        if len(known) > len(self._start):
            size = max(len(known), 2 * len(self._start))
            self._start = _grown(self._start, size)
            self._length = _grown(self._length, size)
            self._capacity = _grown(self._capacity, size)
            self._base = _grown(self._base, size)
        return local[encoded.indices.to_numpy()]

    def _advance_watermarks(self, rows: pa.RecordBatch) -> None:
        """Take the stamps of rows that have been folded.

        Rows of one raw partition come in order only within one upstream partition: another may lag
        behind, so each pair of the two keeps a watermark of its own.
        """
        from_events = _ints(rows, "origin_log") == LOG_EVENTS
        upstream = _ints(rows, "position_partition")[from_events].astype(np.int64)
        raw = _ints(rows, "origin_partition")[from_events].astype(np.int64)
        stamps = _ints(rows, "watermark_us")[from_events]
        pairs = upstream << 32 | raw
        for pair in np.unique(pairs):
            key = (int(pair) >> 32, int(pair) & 0xFFFFFFFF)
            newest = int(stamps[pairs == pair].max())
            self._watermarks[key] = max(newest, self._watermarks.get(key, _SMALLEST_TIME_US))

    def _expire_before_us(self, look_back_us: int) -> int:
        """Nothing older can matter: no raw partition can still send an event that reaches it."""
        # The first stage reads each raw partition itself, a later one through all of the stage
        # before it; one that has not been heard of may still send anything.
        partitions = self.plan.partitions
        if len(self._watermarks) < (partitions if self._is_first else partitions**2):
            return int(_SMALLEST_TIME_US)
        return min(self._watermarks.values()) - self.plan.lateness_us - look_back_us

    def _judge_duplicates(
        self,
        rows: pa.RecordBatch,
        is_label: npt.NDArray[np.bool_],
        slots: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
        verdict: npt.NDArray[np.int8],
    ) -> None:
        """An id folded before for the same key, within the lateness, is a duplicate."""
        seen = self._seen
        horizon_us = self.plan.lateness_us
        ids = rows.column("event_id").to_pylist()
        columns = zip(ids, is_label.tolist(), slots.tolist(), times.tolist(), strict=True)
        for i, (event_id, label, slot, time_us) in enumerate(columns):
            if label or verdict[i] != FOLDED:
                continue
            before = seen.setdefault((slot, event_id), [])
            if before and any(abs(time_us - t) <= horizon_us for t in before):
                verdict[i] = DUPLICATE
            else:
                before.append(time_us)

    def _reserve(self, slots: npt.NDArray[np.int64]) -> None:
        if slots.size == 0:
            return
        wanted, extra = np.unique(slots, return_counts=True)
        expire_before_us = self._expire_before_us(self.stage.retention_us)
        compactable = True
        while True:
            self._used, lacking = reserve(
                wanted,
                extra,
                self._start,
                self._length,
                self._capacity,
                self._base,
                self._time,
                self._identity,
                self._present,
                self._label,
                self._prefix,
                self._used,
                expire_before_us,
            )
            if not lacking:
                return
            if compactable and self.entries * 4 < len(self._time):
                # Once: a batch of many new keys can need more than all of the arena.
                compactable = False
                self._compact()
                continue
            size = max(2 * len(self._time), len(self._time) + lacking)
            self._time = _grown(self._time, size)
            self._identity = _grown(self._identity, size)
            self._present = _grown(self._present, size)
            self._label = _grown(self._label, size)
            self._prefix = _grown(self._prefix, size)

    def _compact(self) -> None:
        """Copy live segments to the front; space that moved segments left behind is regained."""
        slots = np.flatnonzero(self._length[: self.keys])
        lengths = self._length[slots]
        live = _indices(self._start[slots], lengths)
        for name in ("_time", "_identity", "_present", "_label", "_prefix"):
            array = getattr(self, name)
            array[: live.size] = array[live]
        self._capacity[:] = 0
        self._capacity[slots] = lengths
        self._start[slots] = np.cumsum(lengths) - lengths
        self._used = int(live.size)

    def _finish(
        self,
        rows: pa.RecordBatch,
        silent: npt.NDArray[np.bool_],
        verdict: npt.NDArray[np.int8],
        out: npt.NDArray[np.float64],
        partition: int,
        seq: npt.NDArray[np.int64] | None,
    ) -> pa.RecordBatch:
        """Rows with this stage's columns, null where a row has none."""
        n = rows.num_rows
        columns = {name: rows.column(name) for name in self._schema.names}
        columns["verdict"] = pa.array(verdict, pa.int8())
        if seq is not None:
            columns["position_log"] = pa.array(
                np.full(n, LOG_STAGES + self.stage.index, np.int8), pa.int8()
            )
            columns["position_partition"] = pa.array(np.full(n, partition, np.int32), pa.int32())
            columns["position_seq"] = pa.array(seq, pa.int64())
            columns[self.stage.seq_column] = columns["position_seq"]
        mask = silent if silent.any() else None
        for index, window in enumerate(self.stage.windows):
            columns[window.column] = pa.array(out[:, index], pa.float64(), mask=mask)
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
        slot = self._slots.get(key) if key is not None else None
        if slot is None:
            self._slots, self._seen = {}, {}
            self._length[:] = 0
            self._capacity[:] = 0
            self._base[:] = 0
            self._used = 0
            return
        begin, length = int(self._start[slot]), int(self._length[slot])
        for name in ("_time", "_identity", "_present", "_label", "_prefix"):
            array = getattr(self, name)
            array[:length] = array[begin : begin + length].copy()
        base = self._base[slot].copy()
        self._length[:] = 0
        self._capacity[:] = 0
        self._base[:] = 0
        self._start[0], self._length[0], self._capacity[0] = 0, length, length
        self._base[0] = base
        self._used = length
        self._seen = {(0, i): t for (s, i), t in self._seen.items() if s == slot}
        self._slots = {str(key): 0}

    def snapshot(self) -> bytes:
        """The whole state, to be written somewhere durable; `restore` is its inverse."""
        self.forget_ids(self._expire_before_us(self.plan.lateness_us))
        self._compact()
        keys, used = self.keys, self._used
        state: dict[str, Any] = {
            "fingerprint": self.plan.fingerprint,
            "stage": self.stage.name,
            "offset": self.offset,
            "marks": [[*key, seq] for key, seq in sorted(self._marks.items())],
            "watermarks": [[*key, time_us] for key, time_us in sorted(self._watermarks.items())],
            "keys": list(self._slots),
            "seen": [[slot, event_id, times] for (slot, event_id), times in self._seen.items()],
            "length": self._length[:keys].tobytes(),
            "base": self._base[:keys].tobytes(),
            "time": self._time[:used].tobytes(),
            "identity": self._identity[:used].tobytes(),
            "present": self._present[:used].tobytes(),
            "label": self._label[:used].tobytes(),
            "prefix": self._prefix[:used].tobytes(),
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
        sums = 2 + len(self.stage.values)
        self.offset = state["offset"]
        self._marks = {(log, partition): seq for log, partition, seq in state["marks"]}
        self._watermarks = {(up, raw): time_us for up, raw, time_us in state["watermarks"]}
        self._slots = {key: slot for slot, key in enumerate(state["keys"])}
        self._seen = {(slot, event_id): times for slot, event_id, times in state["seen"]}
        length = np.frombuffer(state["length"], np.int64)
        used = int(length.sum())
        self._allocate(keys=max(1024, 2 * length.size), entries=max(8192, 2 * used))
        self._length[: length.size] = length
        self._capacity[: length.size] = length
        self._start[: length.size] = np.cumsum(length) - length
        self._base[: length.size] = np.frombuffer(state["base"], np.int64).reshape(-1, sums)
        self._time[:used] = np.frombuffer(state["time"], np.int64)
        self._identity[:used] = np.frombuffer(state["identity"], np.int64)
        self._present[:used] = np.frombuffer(state["present"], np.int8)
        self._label[:used] = np.frombuffer(state["label"], np.int8)
        self._prefix[:used] = np.frombuffer(state["prefix"], np.int64).reshape(-1, sums)
        self._used = used

    def forget_ids(self, before_us: int) -> None:
        """Forget event ids last seen before an event time (µs); none of them can come again."""
        self._seen = {k: times for k, times in self._seen.items() if times[-1] >= before_us}


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


def _identities(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """64-bit hashes of the event ids; only compared among entries of one key and one time."""
    ids = rows.column("event_id").to_pylist()
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, np.int64)


def _grown(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    grown = np.zeros((size, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def _indices(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Any:
    """Every index of the segments, one segment after the other."""
    total = int(lengths.sum())
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return shift + np.arange(total, dtype=np.int64)

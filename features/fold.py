"""A stage as a pure fold over one log: rows in, rows with this stage's columns out.

The Faust worker, the Spark backfill, bootstrap and the proof all call `Fold`. It drops repeats by
the highest position it has folded of each immediate upstream partition, recognises duplicates (in
the first stage), keeps the windows' state and computes the stage's columns. It never reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.coding import hashes, ints
from features.duration import HOUR_US
from features.expressions import evaluate
from features.layout import Layout
from features.plan import Plan
from features.seen import SeenIds
from features.snapshot import Mark, decode, encode
from features.state import State
from features.versions import Versions
from features.vocabulary import Comparison
from features.wire import (
    DUPLICATE,
    FOLDED,
    KIND_EVENT,
    KIND_LABEL,
    KIND_MARKER,
    KIND_REFERENCE,
    LOG_EVENTS,
    LOG_REFERENCES,
    LOG_STAGES,
    NEVER_US,
    ROW_BITS,
    row_schema,
)
from kernels.arena import FIRST_CONDITION


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
        self._is_first = stage == 0
        self._is_last = stage == len(plan.stages) - 1
        self.offset = -1
        """The highest log offset folded."""
        self._marks: dict[tuple[int, int], int] = {}
        self._watermarks: dict[int, int] = {}
        self._told_us = NEVER_US
        self._compacted_us = NEVER_US
        self._seen = SeenIds()
        self._state = State(Layout(self.stage))
        self._versions = {
            LOG_REFERENCES + index: Versions(
                pa.schema([self._schema.field(name) for name in reference.columns])
            )
            for index, reference in enumerate(plan.references)
            if reference.stage == stage
        }

    @property
    def keys(self) -> int:
        """How many keys have state."""
        return self._state.keys

    @property
    def entries(self) -> int:
        """How many events and waiting labels are retained."""
        return self._state.entries

    @property
    def state_bytes(self) -> int:
        """Memory of the state, room to grow included."""
        versions = sum(each.nbytes for each in self._versions.values())
        return self._state.nbytes + self._seen.nbytes + versions

    @property
    def versions(self) -> int:
        """How many versions of references are retained."""
        return sum(each.entries for each in self._versions.values())

    def fold(self, rows: pa.RecordBatch, partition: int, offset: int) -> pa.RecordBatch:
        """`fold_envelopes` of a single one."""
        return self.fold_envelopes([(offset, rows)], partition)

    def fold_envelopes(
        self, envelopes: Sequence[tuple[int, pa.RecordBatch]], partition: int
    ) -> pa.RecordBatch:
        """Fold envelopes that follow each other in this stage's log.

        Args:
            envelopes: the offset of each, and its rows, of `row_schema(plan)`, in log order.
            partition: of the log.

        Returns:
            The rows that had not been folded before, with this stage's columns, verdict and
            position; labels and versions of references pass through, and of markers the last, if
            it has something new to tell the next stage. Empty when every row was a repeat.
        """
        batches = [rows for _, rows in envelopes]
        rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        seq = np.concatenate(
            [(offset << ROW_BITS) + np.arange(each.num_rows) for offset, each in envelopes]
        )
        offset = envelopes[-1][0]
        fresh = self._above_marks(rows)
        self.offset = max(self.offset, offset)
        if not fresh.all():
            rows = rows.filter(pa.array(fresh))
            seq = seq[fresh]
        if rows.num_rows == 0:
            return rows
        stamps, watermarks = self._stamps(rows)
        is_marker = _ints(rows, "kind") == KIND_MARKER
        if not is_marker.any():
            folded = self._compute(rows, partition, seq, stamps)
        else:
            folded = self._around_markers(rows, partition, seq, stamps, is_marker)
        # Only now: a batch may span more time than the windows, and its first rows still need
        # what its last ones have left behind.
        self._watermarks = watermarks
        return folded

    def _around_markers(
        self,
        rows: pa.RecordBatch,
        partition: int,
        seq: npt.NDArray[np.int64],
        stamps: npt.NDArray[np.int64],
        is_marker: npt.NDArray[np.bool_],
    ) -> pa.RecordBatch:
        """Fold rows among which there are markers."""
        others = rows.filter(pa.array(~is_marker))
        if others.num_rows:
            others = self._compute(others, partition, seq[~is_marker], stamps[~is_marker])
        at = int(np.flatnonzero(is_marker)[-1])
        if self._is_last or stamps[at] <= self._told_us:
            return others
        self._told_us = int(stamps[at])
        marker = rows.slice(at, 1)
        columns = {name: marker.column(name) for name in marker.schema.names}
        columns["watermark_us"] = pa.array(stamps[at : at + 1], pa.int64())
        columns |= self._position(partition, seq[at : at + 1])
        marker = pa.RecordBatch.from_arrays(list(columns.values()), schema=self._schema)
        before = at + 1 - int(is_marker.sum())
        return pa.concat_batches([others.slice(0, before), marker, others.slice(before)])

    def fold_history(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Fold rows that were not read from a log, in the order they have.

        Their positions and their `<stage>_seq` stay as they are.
        """
        if rows.num_rows == 0:
            return rows
        return self._compute(rows, -1, None, _ints(rows, "watermark_us"))

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
        self,
        rows: pa.RecordBatch,
        partition: int,
        seq: npt.NDArray[np.int64] | None,
        stamps: npt.NDArray[np.int64],
    ) -> pa.RecordBatch:
        n = rows.num_rows
        kinds = _ints(rows, "kind")
        is_label, is_version = kinds == KIND_LABEL, kinds == KIND_REFERENCE
        times = _ints(rows, "event_time_us")
        verdict = _ints(rows, "verdict").copy()
        # Where nothing reads them, anything of their length will do.
        reads_ids = self._is_first or self._state.keeps_ids
        hashed_ids = hashes(rows.column("event_id")) if reads_ids else times
        keys = rows.column(self.stage.key_column)
        if is_version.any():
            # A version takes no slot from the windows' keys: it may never have an event.
            keys = pc.if_else(pa.array(is_version), "", keys)
        slots = self._state.slots(keys)
        if self._is_first:
            self._judge_duplicates(hashed_ids, slots, is_label | is_version, times, verdict)
        skip = (verdict != FOLDED) | is_version
        if not self.stage.uses_label:
            skip |= is_label
        labels = np.zeros(n, np.int8)
        if self.plan.label is not None and self.stage.uses_label:
            labels = _ints(rows, self.plan.label.field).astype(np.int8)
        made = self._state.fold(
            rows,
            slots,
            is_label,
            skip,
            times,
            hashed_ids,
            labels,
            _conditions(rows, self.stage.conditions),
            self._settled_us(),
        )
        looked_up = self._look_up(rows, (kinds == KIND_EVENT) & ~skip, is_version, times)
        silent = is_label | skip
        return self._finish(rows, times, silent, verdict, made, looked_up, stamps, partition, seq)

    def _look_up(
        self,
        rows: pa.RecordBatch,
        is_event: npt.NDArray[np.bool_],
        is_version: npt.NDArray[np.bool_],
        times: npt.NDArray[np.int64],
    ) -> dict[str, pa.Array]:
        """The columns of this stage's references; it keeps the versions among the rows."""
        found: dict[str, pa.Array] = {}
        if not self._versions:
            return found
        keys = rows.column(self.stage.key_column)
        log = _ints(rows, "origin_log")
        for number, versions in self._versions.items():
            own = is_version & (log == number)
            found |= versions.fold(rows, keys, own, is_event, times, self._settled_us())
        return found

    def _stamps(self, rows: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], dict[int, int]]:
        """The stage's own stamp for each row, and the highest of each upstream partition after it.

        A stamp says that its upstream partition sends nothing that is older by more than the
        lateness. What leaves this stage carries the smallest stamp over the upstream partitions, so
        the next one may read it in the same way.
        """
        stamps = _ints(rows, "watermark_us")
        watermarks: dict[int, int] = {}
        # The first stage reads each raw partition itself; what it has not heard of may still send
        # anything.
        from_events = _ints(rows, "origin_log") == LOG_EVENTS
        column = "origin_partition" if self._is_first else "position_partition"
        upstream = _ints(rows, column)
        own = np.full(rows.num_rows, np.iinfo(np.int64).max)
        for partition in range(self.plan.partitions):
            before = self._watermarks.get(partition, NEVER_US)
            heard = np.where(from_events & (upstream == partition), stamps, before)
            highest = np.maximum.accumulate(heard)
            watermarks[partition] = max(before, int(highest[-1]))
            own = np.minimum(own, np.maximum(highest, before))
        return np.where(from_events, own, stamps), watermarks

    def _settled_us(self) -> int:
        """No upstream partition can still send what is older."""
        smallest = min(self._watermarks.values(), default=NEVER_US)
        return NEVER_US if smallest == NEVER_US else smallest - self.plan.lateness_us

    def _judge_duplicates(
        self,
        hashed_ids: npt.NDArray[np.int64],
        slots: npt.NDArray[np.int64],
        is_label: npt.NDArray[np.bool_],
        times: npt.NDArray[np.int64],
        verdict: npt.NDArray[np.int8],
    ) -> None:
        """An id folded before for the same key, within the lateness, is a duplicate."""
        repeated = self._seen.judge(
            self._state.hashes(slots),
            hashed_ids,
            times,
            is_label | (verdict != FOLDED),
            self.plan.lateness_us,
            self._oldest_id_us(self._settled_us()),
        )
        verdict[repeated] = DUPLICATE

    def _oldest_id_us(self, settled_us: int) -> int:
        """An event id from before cannot come again, if no event comes below `settled_us`."""
        return NEVER_US if settled_us == NEVER_US else settled_us - self.plan.lateness_us

    def forget_ids(self, settled_us: int) -> None:
        """Forget event ids that cannot come again, if no event comes below a time (µs)."""
        self._seen.forget(self._oldest_id_us(settled_us))

    def _finish(
        self,
        rows: pa.RecordBatch,
        times: npt.NDArray[np.int64],
        silent: npt.NDArray[np.bool_],
        verdict: npt.NDArray[np.int8],
        made: dict[str, npt.NDArray[np.float64]],
        looked_up: dict[str, pa.Array],
        watermarks: npt.NDArray[np.int64],
        partition: int,
        seq: npt.NDArray[np.int64] | None,
    ) -> pa.RecordBatch:
        """Rows with this stage's columns, null where a row has none."""
        columns = {name: rows.column(name) for name in self._schema.names}
        columns["verdict"] = pa.array(verdict, pa.int8())
        columns["watermark_us"] = pa.array(watermarks, pa.int64())
        if seq is not None:
            columns |= self._position(partition, seq)
            columns[self.stage.seq_column] = columns["position_seq"]
        mask = silent if silent.any() else None
        for name, values in made.items():
            columns[name] = pa.array(values, pa.float64(), mask=mask)
        columns |= looked_up
        if self._is_last:
            for column in self.plan.columns:
                if column.formula:
                    values = evaluate(column.formula, columns, times)
                    columns[column.name] = pa.array(values, pa.float64(), mask=mask)
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=self._schema)

    def _position(self, partition: int, seq: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
        """Where rows lie in this stage's log."""
        n = len(seq)
        return {
            "position_log": pa.array(np.full(n, LOG_STAGES + self.stage.index, np.int8)),
            "position_partition": pa.array(np.full(n, partition, np.int32)),
            "position_seq": pa.array(seq, pa.int64()),
        }

    def keep_only(self, key: str | None, settled_us: int = NEVER_US) -> None:
        """Forget every key but one: rows that come sorted by key need no more.

        Nor do they need what no event of that key reaches, if none comes below `settled_us`.
        """
        slot = None
        if key is not None and self.keys:
            slot = int(self._state.slots(pa.array([key], pa.string()))[0])
        self._state.keep_only(slot, settled_us)
        for versions in self._versions.values():
            versions.keep_only(key, settled_us)
        hashed_key = int(hashes(pa.array([key or ""]))[0])
        self._seen.keep_only(hashed_key, self._oldest_id_us(settled_us))

    def compact(self) -> None:
        """Let go of what no row reaches any more, and of the room that it took."""
        settled_us = self._compacted_us = self._settled_us()
        self.forget_ids(settled_us)
        self._state.forget(settled_us)
        for versions in self._versions.values():
            versions.forget(settled_us)

    @property
    def is_stale(self) -> bool:
        """Whether a quarter of the longest window has passed since the state was compacted."""
        reach_us = max(self._state.reach_us, self.plan.lateness_us, HOUR_US)
        return self._settled_us() - self._compacted_us > reach_us // 4

    def mark(self) -> Mark:
        """This moment, for a later `changes`."""
        made = Mark(
            self.epoch,
            self._state.generation,
            self._state.keys,
            self._seen.entries,
            tuple(each.generation for each in self._versions.values()),
        )
        self._state.generation += 1
        return made

    @property
    def epoch(self) -> int:
        """Another number after a compaction that leaves no changes to tell."""
        return self._state.epoch + self._seen.epoch

    def changes(self, since: Mark | None = None) -> dict[str, Any] | None:
        """What has changed since a mark, or the whole state; `take` is the inverse.

        None where it cannot be told because the state has been compacted since.
        """
        if since is None:
            since = Mark(self.epoch, 0, 0, 0, (-1,) * len(self._versions))
        if since.epoch != self.epoch:
            return None
        return {
            "offset": self.offset,
            "marks": [[*key, seq] for key, seq in sorted(self._marks.items())],
            "watermarks": sorted(self._watermarks.items()),
            "told": self._told_us,
            "seen": self._seen.pack(since.ids),
            "state": self._state.pack(since.generation, since.keys),
            "versions": [
                each.pack() if each.generation > generation else None
                for each, generation in zip(self._versions.values(), since.versions, strict=True)
            ],
        }

    def take(self, changes: dict[str, Any]) -> None:
        """Take over what `changes` gave; what it is relative to must have been taken before."""
        self.offset = changes["offset"]
        self._marks = {(log, partition): seq for log, partition, seq in changes["marks"]}
        self._watermarks = dict(changes["watermarks"])
        self._told_us = changes["told"]
        self._seen.unpack(changes["seen"])
        self._state.unpack(changes["state"])
        for versions, packed in zip(self._versions.values(), changes["versions"], strict=True):
            if packed is not None:
                versions.unpack(packed)
        self._compacted_us = self._settled_us()

    def snapshot(self) -> bytes:
        """The whole state, compacted, to be written somewhere; `restore` is its inverse."""
        self.compact()
        whole = self.changes()
        assert whole is not None
        return encode(self.plan, self.stage, whole)

    def restore(self, snapshot: bytes) -> None:
        """Take over the whole state of a snapshot, in a new fold.

        Raises:
            SnapshotError: it is damaged, of another format, or belongs to another plan or stage.
        """
        self.take(decode(self.plan, self.stage, snapshot)[1])


def _ints(rows: pa.RecordBatch, name: str) -> Any:
    return ints(rows.column(name))


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

"""One stage's work apart from its host: restore, fold, route to the next log, snapshot.

The order that makes a crash harmless: fold and send; wait until everything sent is acknowledged;
make the snapshot durable; only then acknowledge what the older of the two kept snapshots covers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import PositionError
from features.failpoints import failpoint
from features.fold import Fold
from features.plan import Plan
from features.wire import KIND_EVENT, KIND_MARKER, VERDICTS, decode, partitions_of, row_schema
from monitoring import metrics
from streaming.broker import RECREATED, GaplessProducer, log_bounds
from streaming.snapshots import BOOTSTRAP_OFFSET, SnapshotStore

log = logging.getLogger(__name__)

COALESCE_S = 0.004
"""Rows for one target partition wait this long for others: re-keying would else send envelopes of
one row, and an envelope costs the next stage more than a row does."""

COALESCE_ROWS = 4000


def warm_up(plan: Plan, index: int) -> None:
    """Compile or load a stage's kernels: seconds that would cost the group membership."""
    schema = row_schema(plan)
    row: dict[str, Any] = {f.name: 0 if pa.types.is_integer(f.type) else None for f in schema}
    row |= {f.name: "" for f in schema if pa.types.is_string(f.type)} | {"kind": KIND_EVENT}
    Fold(plan, index).fold(pa.RecordBatch.from_pylist([row], schema=schema), 0, 0)


@dataclass
class _Partition:
    """A partition of the stage's log in this process."""

    fold: Fold
    store: SnapshotStore
    read: int = -1
    """The offset last read since the group gave out partitions."""
    saved_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    pending: deque[tuple[int, Callable[[], Any]]] = field(default_factory=deque)


class StageHost:
    """Every partition of one stage that this process works on. Not thread-safe.

    Args:
        plan: the compiled feature set.
        index: of the stage.
        producer: sends to the next stage's log, or to the features topic.
    """

    def __init__(self, plan: Plan, index: int, producer: GaplessProducer) -> None:
        self._plan = plan
        self._stage = plan.stages[index]
        self._producer = producer
        is_last = index == len(plan.stages) - 1
        self._next_key = "" if is_last else plan.stages[index + 1].key_column
        self._target = plan.features_topic if is_last else plan.stages[index + 1].topic
        self._partitions: dict[int, _Partition] = {}
        self._waiting: dict[int, list[pa.RecordBatch]] = {}
        self._waiting_rows = 0
        self._timer: asyncio.TimerHandle | None = None

    async def handle(
        self, partition: int, offset: int, payload: bytes, acknowledge: Callable[[], Any]
    ) -> None:
        """Fold one envelope and send what comes of it.

        Args:
            partition: of the stage's log.
            offset: of the envelope.
            payload: the envelope.
            acknowledge: called once a durable snapshot pair no longer needs the envelope.

        Raises:
            WireError: the envelope cannot be read.
            PositionError: the log no longer holds what comes after the stage's state.
        """
        held = self._partitions.get(partition)
        if held is None or offset > held.fold.offset + 1:
            held = await self._restore(partition, offset)
        elif offset <= held.read:
            await self._check_end(partition, held.fold.offset)
        held.read = offset
        async with held.lock:
            held.pending.append((offset, acknowledge))
            if offset <= held.fold.offset:
                return
            failpoint("stages.read_not_folded")
            started = time.perf_counter()
            rows = decode(self._plan, payload)
            folded = held.fold.fold(rows, partition, offset)
            metrics.STAGE_FOLD_SECONDS.labels(self._stage.name).observe(
                time.perf_counter() - started
            )
            self._count(rows, folded)
            failpoint("stages.folded_not_sent")
            if folded.num_rows:
                self._route(folded, partition)
                failpoint("stages.sent_not_packed")

    def keep_only(self, partitions: set[int]) -> None:
        """After a rebalance: let go of partitions that went elsewhere.

        The host reads every partition again from its commit, so what waits to be acknowledged
        will come again.
        """
        for gone in self._partitions.keys() - partitions:
            del self._partitions[gone]
        for held in self._partitions.values():
            held.pending.clear()
            held.read = -1

    async def snapshot(self) -> None:
        """Make every partition's state durable and acknowledge what is no longer needed."""
        for partition, held in list(self._partitions.items()):
            if held.fold.offset > max(held.store.newest, BOOTSTRAP_OFFSET):
                await self._snapshot(partition, held)
            self._show(str(partition), held)

    async def _restore(self, partition: int, offset: int) -> _Partition:
        store = SnapshotStore(self._plan, self._stage.index, partition)
        fold = Fold(self._plan, self._stage.index)
        await asyncio.to_thread(store.take_over)
        await asyncio.to_thread(store.restore, fold)
        if offset > fold.offset + 1:
            low, high = await asyncio.to_thread(log_bounds, self._stage.topic, partition)
            why = (
                "retention has passed the snapshot"
                if low > fold.offset + 1
                else "snapshots are gone"
            )
            raise PositionError(
                f"{why}: {self._stage.topic} [{partition}] holds offsets {low} to {high} and is "
                f"read on from {offset}, but the newest snapshot in {store.folder} ends at "
                f"{fold.offset}; restore the missing snapshots, or give the feature set a new "
                "version and run `penstock bootstrap`, which folds the lake's history anew"
            )
        await self._check_end(partition, fold.offset)
        log.info(
            "stage %s [%d]: state up to offset %d, %d keys, reading on from %d",
            self._stage.name,
            partition,
            fold.offset,
            fold.keys,
            offset,
        )
        held = self._partitions[partition] = _Partition(fold, store)
        return held

    async def _check_end(self, partition: int, folded: int) -> None:
        """What was folded must be in the log: else it is another log, to be read from its start."""
        low, high = await asyncio.to_thread(log_bounds, self._stage.topic, partition)
        if folded >= high:
            raise PositionError(
                f"{self._stage.topic} [{partition}] holds offsets {low} to {high}, but offset "
                f"{folded} was folded: the topic was deleted and created again; {RECREATED}"
            )

    def _route(self, rows: pa.RecordBatch, partition: int) -> None:
        """Send rows on, those of the last stage at once and the others by the next key.

        A marker goes to every partition of the next log.
        """
        if not self._next_key:
            self._producer.send_rows(self._plan, self._target, partition, rows)
            return
        keys = rows.column(self._next_key)
        targets = partitions_of(keys, self._plan.partitions)
        if keys.null_count:
            # What has no such key, a version of another stage's reference, stays where it is.
            targets[keys.is_null().to_numpy(zero_copy_only=False)] = partition
        is_marker = rows.column("kind").to_numpy() == KIND_MARKER
        told = range(self._plan.partitions) if is_marker.any() else np.unique(targets)
        for target in told:
            # Together and in order: the next stage drops what is not above the highest position.
            part = rows.take(pa.array(np.flatnonzero((targets == target) | is_marker)))
            self._waiting.setdefault(int(target), []).append(part)
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= COALESCE_ROWS:
            self._send_waiting()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COALESCE_S, self._send_waiting)

    def _send_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._waiting_rows = 0
        for target, parts in waiting.items():
            rows = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
            self._producer.send_rows(self._plan, self._target, target, rows)

    async def _snapshot(self, partition: int, held: _Partition) -> None:
        async with held.lock:
            self._send_waiting()
            sent = self._producer.sent()
            # The partition's agent waits for the lock; the other partitions' rows go on.
            taken = await asyncio.to_thread(held.store.take, held.fold)
        failpoint("stages.packed_not_flushed")
        await asyncio.to_thread(self._producer.wait_for, sent)
        failpoint("stages.flushed_not_durable")
        written = await asyncio.to_thread(held.store.write, taken)
        failpoint("stages.durable_not_acknowledged")
        held.saved_at = time.monotonic()
        metrics.STAGE_SNAPSHOT_BYTES.labels(self._stage.name, str(partition)).set(written)
        covered = held.store.covered
        if covered is None or self._partitions.get(partition) is not held:
            return
        while held.pending and held.pending[0][0] <= covered:
            held.pending.popleft()[1]()
        failpoint("stages.acknowledged")

    def _count(self, read: pa.RecordBatch, folded: pa.RecordBatch) -> None:
        name = self._stage.name
        read, folded = _without_markers(read), _without_markers(folded)
        metrics.STAGE_ROWS.labels(name, "repeated").inc(read.num_rows - folded.num_rows)
        for entry in pc.value_counts(folded.column("verdict")).to_pylist():
            metrics.STAGE_ROWS.labels(name, VERDICTS[entry["values"]]).inc(entry["counts"])

    def _show(self, partition: str, held: _Partition) -> None:
        name = self._stage.name
        metrics.STAGE_KEYS.labels(name, partition).set(held.fold.keys)
        metrics.STAGE_STATE_BYTES.labels(name, partition).set(held.fold.state_bytes)
        age_s = time.monotonic() - held.saved_at
        metrics.STAGE_SNAPSHOT_AGE_SECONDS.labels(name, partition).set(age_s)


def _without_markers(rows: pa.RecordBatch) -> pa.RecordBatch:
    is_marker = rows.column("kind").to_numpy() == KIND_MARKER
    return rows.filter(pa.array(~is_marker)) if is_marker.any() else rows

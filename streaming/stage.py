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

from features.errors import PenstockError
from features.failpoints import failpoint
from features.fold import Fold
from features.plan import Plan
from features.wire import KIND_EVENT, VERDICTS, decode, partition_of, row_schema
from monitoring import metrics
from streaming.broker import GaplessProducer
from streaming.snapshots import SnapshotStore

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
    kept: list[int]
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
            PenstockError: envelopes between the stage's state and this one are missing.
        """
        held = self._partitions.get(partition)
        if held is None or offset > held.fold.offset + 1:
            held = await self._restore(partition, offset)
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
            self._count(rows.num_rows, folded)
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

    async def snapshot(self) -> None:
        """Make every partition's state durable and acknowledge what is no longer needed."""
        for partition, held in list(self._partitions.items()):
            newest = held.kept[-1] if held.kept else -1
            if held.fold.offset > newest:
                await self._snapshot(partition, held)
            self._show(str(partition), held)

    async def _restore(self, partition: int, offset: int) -> _Partition:
        store = SnapshotStore(self._plan, self._stage.index, partition)
        fold = Fold(self._plan, self._stage.index)
        kept = await asyncio.to_thread(store.restore, fold)
        if offset > fold.offset + 1:
            raise PenstockError(
                f"{self._stage.topic} [{partition}] continues at offset {offset}, but the newest "
                f"snapshot in {store.folder} ends at {fold.offset}: restore the missing snapshots "
                "or start a new version of the feature set"
            )
        log.info(
            "stage %s [%d]: state up to offset %d, %d keys, reading on from %d",
            self._stage.name,
            partition,
            fold.offset,
            fold.keys,
            offset,
        )
        held = self._partitions[partition] = _Partition(fold, store, kept)
        return held

    def _route(self, rows: pa.RecordBatch, partition: int) -> None:
        """Send rows on, those of the last stage at once and the others by the next key."""
        if not self._next_key:
            self._producer.send_rows(self._plan, self._target, partition, rows)
            return
        keys = rows.column(self._next_key).dictionary_encode()
        # What has no such key, a version of another stage's reference, stays where it is.
        of_key = np.array(
            [partition_of(k, self._plan.partitions) for k in keys.dictionary.to_pylist()]
            + [partition],
            np.int64,
        )
        targets = of_key[keys.indices.fill_null(-1).to_numpy()]
        for target in np.unique(targets):
            part = rows.take(pa.array(np.flatnonzero(targets == target)))
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
            offset = held.fold.offset
            # The partition's agent waits for the lock; the other partitions' rows go on.
            snapshot = await asyncio.to_thread(held.fold.snapshot)
        failpoint("stages.packed_not_flushed")
        await asyncio.to_thread(self._producer.wait_for, sent)
        failpoint("stages.flushed_not_durable")
        held.kept = await asyncio.to_thread(held.store.write, offset, snapshot)
        failpoint("stages.durable_not_acknowledged")
        held.saved_at = time.monotonic()
        metrics.STAGE_SNAPSHOT_BYTES.labels(self._stage.name, str(partition)).set(len(snapshot))
        if len(held.kept) < 2 or self._partitions.get(partition) is not held:
            return
        while held.pending and held.pending[0][0] <= held.kept[0]:
            held.pending.popleft()[1]()
        failpoint("stages.acknowledged")

    def _count(self, read: int, folded: pa.RecordBatch) -> None:
        name = self._stage.name
        metrics.STAGE_ROWS.labels(name, "repeated").inc(read - folded.num_rows)
        for entry in pc.value_counts(folded.column("verdict")).to_pylist():
            metrics.STAGE_ROWS.labels(name, VERDICTS[entry["values"]]).inc(entry["counts"])

    def _show(self, partition: str, held: _Partition) -> None:
        name = self._stage.name
        metrics.STAGE_KEYS.labels(name, partition).set(held.fold.keys)
        metrics.STAGE_STATE_BYTES.labels(name, partition).set(held.fold.state_bytes)
        age_s = time.monotonic() - held.saved_at
        metrics.STAGE_SNAPSHOT_AGE_SECONDS.labels(name, partition).set(age_s)

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
import numpy.typing as npt
import pyarrow as pa

from features.errors import PositionError, WireError
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

INBOX_BYTES = 1024 * 1024
"""Envelopes that wait in the process are folded together: a fold costs a millisecond whatever it
folds, and two microseconds a row. At this size (some 4,000 rows) that no longer matters."""


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
    inbox: list[tuple[int, bytes]] = field(default_factory=list)
    """Envelopes to be folded, by offset."""
    inbox_bytes: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    pending: deque[tuple[int, Callable[[], Any]]] = field(default_factory=deque)

    @property
    def ahead(self) -> int:
        """The highest offset that is folded or waits to be."""
        return self.inbox[-1][0] if self.inbox else self.fold.offset

    def empty(self) -> list[tuple[int, bytes]]:
        """Take what waits."""
        inbox, self.inbox, self.inbox_bytes = self.inbox, [], 0
        return inbox


class StageHost:
    """Every partition of one stage that this process works on. Not thread-safe.

    Args:
        plan: the compiled feature set.
        index: of the stage.
        producer: sends to the next stage's log, or to the features topic.
        fail: is told what failed, and where, outside of a call; it should end the process.
    """

    def __init__(
        self,
        plan: Plan,
        index: int,
        producer: GaplessProducer,
        fail: Callable[[str, BaseException], None],
    ) -> None:
        self._plan = plan
        self._stage = plan.stages[index]
        self._producer = producer
        self._fail = fail
        is_last = index == len(plan.stages) - 1
        self._next_key = "" if is_last else plan.stages[index + 1].key_column
        self._target = plan.features_topic if is_last else plan.stages[index + 1].topic
        self._partitions: dict[int, _Partition] = {}
        self._generation = 0
        self._turn: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, pa.RecordBatch]] = []
        self._waiting_rows = 0
        self._timer: asyncio.TimerHandle | None = None

    async def handle(
        self, partition: int, offset: int, payload: bytes, acknowledge: Callable[[], Any]
    ) -> None:
        """Take one envelope, to be folded together with those that come with it.

        Args:
            partition: of the stage's log.
            offset: of the envelope.
            payload: the envelope.
            acknowledge: called once a durable snapshot pair no longer needs the envelope.

        Raises:
            WireError: an envelope cannot be read.
            PositionError: the log no longer holds what comes after the stage's state.
        """
        generation = self._generation
        held = self._partitions.get(partition)
        if held is None or offset > held.ahead + 1:
            held = await self._restore(partition, offset)
        elif offset <= held.read:
            await self._check_end(partition, held.ahead)
        if generation != self._generation:
            # It comes again, to whoever has the partition now.
            return
        self._partitions[partition] = held
        held.read = offset
        held.pending.append((offset, acknowledge))
        if offset <= held.ahead:
            return
        held.inbox.append((offset, payload))
        held.inbox_bytes += len(payload)
        if held.inbox_bytes >= INBOX_BYTES:
            await self._fold(partition, held)
        else:
            self._begin_turn()

    async def flush(self) -> None:
        """Fold what waits, and send what waits for company."""
        for partition, held in list(self._partitions.items()):
            await self._fold(partition, held)
        self._send_waiting()

    def _begin_turn(self) -> None:
        """Fold what waits as soon as there is nothing more to take at once."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_task(self._take_turn())

    async def _take_turn(self) -> None:
        self._turn = None
        partition = -1
        try:
            for partition, held in list(self._partitions.items()):
                # One that is being copied takes its turn afterwards.
                if not held.lock.locked():
                    await self._fold(partition, held)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 — nobody awaits a task
            self._fail(f"stage {self._stage.name} [{partition}]", error)

    async def _fold(self, partition: int, held: _Partition) -> None:
        """Fold what waits of a partition, and route what comes of it."""
        if not held.inbox:
            return
        async with held.lock:
            damaged: WireError | None = None
            envelopes: list[tuple[int, pa.RecordBatch]] = []
            for offset, payload in held.empty():
                try:
                    envelopes.append((offset, decode(self._plan, payload)))
                except WireError as error:
                    place = f"{self._stage.topic} [{partition}] offset {offset}"
                    damaged = WireError(f"{place}: {error}")
                    break
            if envelopes:
                self._fold_envelopes(partition, held, envelopes)
            if damaged is not None:
                raise damaged

    def _fold_envelopes(
        self, partition: int, held: _Partition, envelopes: list[tuple[int, pa.RecordBatch]]
    ) -> None:
        failpoint("stages.read_not_folded")
        started = time.perf_counter()
        folded = held.fold.fold_envelopes(envelopes, partition)
        metrics.STAGE_FOLD_SECONDS.labels(self._stage.name).observe(time.perf_counter() - started)
        self._count([rows for _, rows in envelopes], folded)
        failpoint("stages.folded_not_sent")
        if folded.num_rows:
            self._route(folded, partition)
            failpoint("stages.sent_not_packed")

    def begin_anew(self) -> None:
        """After a rebalance: every partition is restored when its next envelope comes.

        Those that stay are read again from their commit, and may have been another's meanwhile,
        who then removed snapshots that ours would follow.
        """
        self._partitions.clear()
        self._generation += 1

    async def snapshot(self) -> None:
        """Make every partition's state durable and acknowledge what is no longer needed."""
        for partition, held in list(self._partitions.items()):
            covered = held.store.covered
            if held.fold.offset > (BOOTSTRAP_OFFSET if covered is None else covered):
                await self._snapshot(partition, held)
            self._acknowledge(partition, held)
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
        return _Partition(fold, store)

    async def _check_end(self, partition: int, folded: int) -> None:
        """What was folded must be in the log: else it is another log, to be read from its start."""
        low, high = await asyncio.to_thread(log_bounds, self._stage.topic, partition)
        if folded >= high:
            raise PositionError(
                f"{self._stage.topic} [{partition}] holds offsets {low} to {high}, but offset "
                f"{folded} was folded: the topic was deleted and created again; {RECREATED}"
            )

    def _route(self, rows: pa.RecordBatch, partition: int) -> None:
        """Send rows on, those of the last stage at once and the others by the next key."""
        if not self._next_key:
            self._producer.send_rows(self._plan, self._target, partition, rows)
            return
        self._waiting.append((partition, rows))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= COALESCE_ROWS:
            self._send_waiting()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COALESCE_S, self._send_in_time)

    def _send_in_time(self) -> None:
        try:
            self._send_waiting()
        except BaseException as error:  # noqa: BLE001 — a timer's exception would only be logged
            self._fail(f"rows for {self._target}", error)

    def _send_waiting(self) -> None:
        """Send what waits, by the next key; a marker goes to every partition of the next log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        self._waiting_rows = 0
        if not waiting:
            return
        batches = [rows for _, rows in waiting]
        rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        keys = rows.column(self._next_key)
        targets = partitions_of(keys, self._plan.partitions)
        if keys.null_count:
            # What has no such key, a version of another stage's reference, stays where it is.
            own = np.repeat([p for p, _ in waiting], [each.num_rows for each in batches])
            targets = np.where(keys.is_null().to_numpy(zero_copy_only=False), own, targets)
        is_marker = rows.column("kind").to_numpy() == KIND_MARKER
        if is_marker.any():
            for target in range(self._plan.partitions):
                # In order: the next stage drops what is not above the highest position.
                at = np.flatnonzero((targets == target) | is_marker)
                part = rows.take(pa.array(at))
                self._producer.send_rows(self._plan, self._target, target, part)
            return
        rows = rows.take(pa.array(np.argsort(targets, kind="stable")))
        first = 0
        for target, count in enumerate(np.bincount(targets).tolist()):
            if count:
                part = rows.slice(first, count)
                self._producer.send_rows(self._plan, self._target, target, part)
                first += count

    async def _snapshot(self, partition: int, held: _Partition) -> None:
        async with held.lock:
            self._send_waiting()
            sent = self._producer.sent()
            # The partition's agent waits for the lock; the other partitions' rows go on.
            taken = await asyncio.to_thread(held.store.take, held.fold)
        if held.inbox:
            self._begin_turn()
        failpoint("stages.packed_not_flushed")
        await asyncio.to_thread(self._producer.wait_for, sent)
        failpoint("stages.flushed_not_durable")
        written = await asyncio.to_thread(held.store.write, taken)
        failpoint("stages.durable_not_acknowledged")
        held.saved_at = time.monotonic()
        metrics.STAGE_SNAPSHOT_BYTES.labels(self._stage.name, str(partition)).set(written)

    def _acknowledge(self, partition: int, held: _Partition) -> None:
        """Acknowledge what both chains of snapshots cover."""
        covered = held.store.covered
        if covered is None or self._partitions.get(partition) is not held:
            return
        while held.pending and held.pending[0][0] <= covered:
            held.pending.popleft()[1]()
        failpoint("stages.acknowledged")

    def _count(self, read: list[pa.RecordBatch], folded: pa.RecordBatch) -> None:
        name = self._stage.name
        rows = sum(len(_verdicts(each)) for each in read)
        verdicts = _verdicts(folded)
        metrics.STAGE_ROWS.labels(name, "repeated").inc(rows - len(verdicts))
        for verdict, count in enumerate(np.bincount(verdicts).tolist()):
            if count:
                metrics.STAGE_ROWS.labels(name, VERDICTS[verdict]).inc(count)

    def _show(self, partition: str, held: _Partition) -> None:
        name = self._stage.name
        metrics.STAGE_KEYS.labels(name, partition).set(held.fold.keys)
        metrics.STAGE_STATE_BYTES.labels(name, partition).set(held.fold.state_bytes)
        age_s = time.monotonic() - held.saved_at
        metrics.STAGE_SNAPSHOT_AGE_SECONDS.labels(name, partition).set(age_s)


def _verdicts(rows: pa.RecordBatch) -> npt.NDArray[np.int8]:
    """Those of all rows but markers."""
    found: npt.NDArray[np.int8] = rows.column("verdict").to_numpy()
    return found[rows.column("kind").to_numpy() != KIND_MARKER]

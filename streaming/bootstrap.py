"""Folds the lake's history into stage snapshots, so that a live stream continues where it ends.

The order of a stage's log, which the backfill (features/backfill.py) follows too: first the rows of
imported history, by (time of arrival, labels before events, event id, origin offset), where an
event arrives at its event time and a label at its known time; then live rows by `<stage>_seq`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import lake
from features.errors import PenstockError
from features.fold import Fold
from features.plan import Plan
from features.wire import KIND_EVENT, KIND_LABEL, LATE, VERDICTS, partition_of, row_schema
from streaming.snapshots import BOOTSTRAP_OFFSET, SnapshotStore

SAY_EVERY_S = 1.0
_ARRIVAL = "arrival_us"


def bootstrap(plan: Plan, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Write a snapshot of every partition of every stage, made from the lake's history.

    Running it again over another history replaces the snapshots, until the stages run.

    Args:
        plan: the compiled feature set.
        say: receives a line of progress now and then; by default it goes to standard error.

    Returns:
        `events` and `labels` folded, `keys` by stage, and `seconds`.

    Raises:
        PenstockError: the stages have folded live rows already.
    """
    started = time.monotonic()
    indices = range(len(plan.stages))
    stores = [[SnapshotStore(plan, i, p) for p in range(plan.partitions)] for i in indices]
    for row in stores:
        for store in row:
            if any(offset > BOOTSTRAP_OFFSET for offset in store.offsets()):
                raise PenstockError(
                    f"{store.folder} holds snapshots of a live stream, which bootstrap would "
                    "contradict: give the feature set a new version, or remove the snapshots "
                    "and the chain's topics"
                )
    folds = [[Fold(plan, i) for _ in range(plan.partitions)] for i in indices]
    events = labels = 0
    newest_us = 0
    say = say or _to_stderr
    said_at = started
    for chunk in _history(plan):
        _fold(plan, folds, chunk)
        found = pc.sum(pc.equal(chunk.column("kind"), KIND_EVENT)).as_py() or 0
        events += found
        labels += chunk.num_rows - found
        newest_us = max(newest_us, pc.max(chunk.column("event_time_us")).as_py())
        if time.monotonic() - said_at > SAY_EVERY_S:
            said_at = time.monotonic()
            say(f"bootstrap: {events} events and {labels} labels folded")
    for stage_folds, stage_stores in zip(folds, stores, strict=True):
        for fold, store in zip(stage_folds, stage_stores, strict=True):
            # An older id cannot come again: it would be late.
            fold.forget_ids(newest_us - plan.lateness_us)
            store.write(BOOTSTRAP_OFFSET, fold.snapshot())
    return {
        "events": events,
        "labels": labels,
        "keys": {
            stage.name: sum(fold.keys for fold in stage_folds)
            for stage, stage_folds in zip(plan.stages, folds, strict=True)
        },
        "seconds": round(time.monotonic() - started, 2),
    }


def _fold(plan: Plan, folds: list[list[Fold]], rows: pa.RecordBatch) -> None:
    """Take rows, in order, through every stage; only verdicts pass from one to the next."""
    for stage in plan.stages:
        in_log = rows
        if plan.label is None or stage.index < plan.label.stage:
            in_log = rows.filter(pc.equal(rows.column("kind"), KIND_EVENT))
        keys = in_log.column(stage.key_column).dictionary_encode()
        of_key = [partition_of(key, plan.partitions) for key in keys.dictionary.to_pylist()]
        targets = np.array(of_key, np.int64)[keys.indices.to_numpy()]
        verdict = in_log.column("verdict").to_numpy().copy()
        for partition, fold in enumerate(folds[stage.index]):
            at = np.flatnonzero(targets == partition)
            folded = fold.fold_history(in_log.take(pa.array(at)))
            verdict[at] = folded.column("verdict").to_numpy()
        if stage.index == 0:
            whole = rows.column("verdict").to_numpy().copy()
            is_in_log = np.ones(rows.num_rows, np.bool_)
            if in_log is not rows:
                is_in_log = rows.column("kind").to_numpy() == KIND_EVENT
            whole[is_in_log] = verdict
            at_column = rows.schema.get_field_index("verdict")
            rows = rows.set_column(at_column, "verdict", pa.array(whole, pa.int8()))
            rows = pa.RecordBatch.from_arrays(rows.columns, schema=row_schema(plan))


def _history(plan: Plan) -> Iterator[pa.RecordBatch]:
    """The imported rows of the lake in the order of arrival, a date at a time."""
    table = lake.open_table("events")
    if table is None:
        return
    dataset = table.to_pyarrow_dataset()
    imported = pc.field("origin_partition") == lake.HISTORY_PARTITION
    waiting = _labels(plan)
    for day in _dates(table):
        found = dataset.to_table(filter=imported & (pc.field("event_date") == day))
        if found.num_rows == 0:
            continue
        events = _events(plan, found)
        newest_us = pc.max(events.column(_ARRIVAL)).as_py()
        if waiting is None:
            yield _in_order(plan, [events])
            continue
        known = pc.less_equal(waiting.column(_ARRIVAL), newest_us)
        yield _in_order(plan, [events, waiting.filter(known)])
        waiting = waiting.filter(pc.invert(known))
    if waiting is not None and waiting.num_rows:
        yield _in_order(plan, [waiting])


def _dates(table: Any) -> list[date]:
    return sorted({date.fromisoformat(str(p["event_date"])) for p in table.partitions()})


def _events(plan: Plan, found: pa.Table) -> pa.Table:
    found = found.filter(pc.not_equal(found.column("verdict"), VERDICTS[LATE]))
    time_us = found.column("event_time").cast(pa.int64())
    return _rows(plan, found, KIND_EVENT, time_us, time_us)


def _labels(plan: Plan) -> pa.Table | None:
    table = lake.open_table("labels") if plan.label else None
    if table is None:
        return None
    imported = pc.field("origin_partition") == lake.HISTORY_PARTITION
    found = table.to_pyarrow_dataset().to_table(filter=imported)
    time_us = found.column("event_time").cast(pa.int64())
    return _rows(plan, found, KIND_LABEL, time_us, found.column("known_time").cast(pa.int64()))


def _rows(plan: Plan, found: pa.Table, kind: int, time_us: Any, arrival_us: Any) -> pa.Table:
    """Rows of the wire with their time of arrival; what history does not tell is null."""
    n = found.num_rows
    known = {name: found.column(name) for name in found.schema.names if name != "verdict"}
    known |= {
        "kind": pa.array(np.full(n, kind, np.int8)),
        "verdict": pa.array(np.zeros(n, np.int8)),
        "event_time_us": time_us,
    }
    schema = row_schema(plan)
    arrays = [
        known[f.name].cast(f.type) if f.name in known else pa.nulls(n, f.type) for f in schema
    ]
    return pa.table([*arrays, arrival_us], schema=schema.append(pa.field(_ARRIVAL, pa.int64())))


def _in_order(plan: Plan, parts: list[pa.Table]) -> pa.RecordBatch:
    rows = pa.concat_tables(parts)
    rows = rows.sort_by(
        [
            (_ARRIVAL, "ascending"),
            ("kind", "descending"),
            ("event_id", "ascending"),
            ("origin_offset", "ascending"),
        ]
    )
    rows = rows.drop_columns([_ARRIVAL]).combine_chunks()
    return pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in rows.columns], schema=row_schema(plan)
    )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

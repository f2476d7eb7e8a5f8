"""Folds the lake's history into stage snapshots, so that a live stream continues where it ends.

The order of a stage's log, which the backfill (features/backfill.py) follows too: first the rows of
imported history, by (time of arrival, versions of references before labels before events, event id,
origin offset), where an event arrives at its event time, a label at its known time and a version at
the time from which it holds; then live rows by `<stage>_seq`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import lake
from features.errors import PenstockError
from features.fold import Fold
from features.plan import Plan, StagePlan
from features.wire import (
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LATE,
    LOG_EVENTS,
    LOG_REFERENCES,
    VERDICTS,
    partitions_of,
    row_schema,
)
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
        `events`, `labels` and `versions` of references folded, `keys` by stage, and `seconds`.

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
    counted: Counter[int] = Counter()
    newest_us = 0
    say = say or _to_stderr
    said_at = started
    for chunk in _history(plan):
        _fold(plan, folds, chunk)
        for entry in pc.value_counts(chunk.column("kind")).to_pylist():
            counted[entry["values"]] += entry["counts"]
        # A version of a reference may hold from a time on that is yet to come.
        of_events = chunk.filter(pc.not_equal(chunk.column("kind"), KIND_REFERENCE))
        newest_us = max(newest_us, pc.max(of_events.column("event_time_us")).as_py() or 0)
        if time.monotonic() - said_at > SAY_EVERY_S:
            said_at = time.monotonic()
            told = f"{counted[KIND_EVENT]} events and {counted[KIND_LABEL]} labels"
            say(f"bootstrap: {told} folded")
    for stage_folds, stage_stores in zip(folds, stores, strict=True):
        for fold, store in zip(stage_folds, stage_stores, strict=True):
            # An older id cannot come again: it would be late.
            fold.forget_ids(newest_us)
            fold.compact()
            store.write(store.take(fold))
    return {
        "events": counted[KIND_EVENT],
        "labels": counted[KIND_LABEL],
        "versions": counted[KIND_REFERENCE],
        "keys": {
            stage.name: sum(fold.keys for fold in stage_folds)
            for stage, stage_folds in zip(plan.stages, folds, strict=True)
        },
        "seconds": round(time.monotonic() - started, 2),
    }


def _fold(plan: Plan, folds: list[list[Fold]], rows: pa.RecordBatch) -> None:
    """Take rows, in order, through every stage; only verdicts pass from one to the next."""
    for stage in plan.stages:
        is_in_log = _in_log(plan, stage, rows)
        in_log = rows.filter(pa.array(is_in_log))
        targets = partitions_of(in_log.column(stage.key_column), plan.partitions)
        verdict = in_log.column("verdict").to_numpy().copy()
        for partition, fold in enumerate(folds[stage.index]):
            at = np.flatnonzero(targets == partition)
            folded = fold.fold_history(in_log.take(pa.array(at)))
            verdict[at] = folded.column("verdict").to_numpy()
        if stage.index == 0:
            whole = rows.column("verdict").to_numpy().copy()
            whole[is_in_log] = verdict
            at_column = rows.schema.get_field_index("verdict")
            rows = rows.set_column(at_column, "verdict", pa.array(whole, pa.int8()))
            rows = pa.RecordBatch.from_arrays(rows.columns, schema=row_schema(plan))


def _in_log(plan: Plan, stage: StagePlan, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Which rows the stage's log holds: events, labels from their stage on, its own references."""
    kind = rows.column("kind").to_numpy()
    found: npt.NDArray[np.bool_] = kind == KIND_EVENT
    if plan.label is not None and stage.index >= plan.label.stage:
        found |= kind == KIND_LABEL
    log = rows.column("origin_log").fill_null(LOG_EVENTS).to_numpy()
    for index, reference in enumerate(plan.references):
        if reference.stage == stage.index:
            found |= log == LOG_REFERENCES + index
    return found


def _history(plan: Plan) -> Iterator[pa.RecordBatch]:
    """The imported rows of the lake in the order of arrival, a date at a time."""
    labels = _labels(plan)
    waiting = [*([labels] if labels is not None else []), *_versions(plan)]
    for found in _by_day():
        events = _events(plan, found)
        newest_us = pc.max(events.column(_ARRIVAL)).as_py()
        known = [pc.less_equal(each.column(_ARRIVAL), newest_us) for each in waiting]
        arrived = [each.filter(by) for each, by in zip(waiting, known, strict=True)]
        yield _in_order(plan, [events, *arrived])
        waiting = [each.filter(pc.invert(by)) for each, by in zip(waiting, known, strict=True)]
    if any(each.num_rows for each in waiting):
        yield _in_order(plan, waiting)


def _by_day() -> Iterator[pa.Table]:
    """The imported events of each day that has some."""
    table: Any = lake.open_table("events")
    if table is None:
        return
    days = sorted({date.fromisoformat(str(p["event_date"])) for p in table.partitions()})
    dataset = table.to_pyarrow_dataset()
    imported = pc.field("origin_partition") == lake.HISTORY_PARTITION
    for day in days:
        found = dataset.to_table(filter=imported & (pc.field("event_date") == day))
        if found.num_rows:
            yield found


def _events(plan: Plan, found: pa.Table) -> pa.Table:
    found = found.filter(pc.not_equal(found.column("verdict"), VERDICTS[LATE]))
    time_us = found.column("event_time").cast(pa.int64())
    return _rows(plan, found, KIND_EVENT, time_us, time_us)


def _labels(plan: Plan) -> pa.Table | None:
    found = _imported("labels") if plan.label else None
    if found is None:
        return None
    time_us = found.column("event_time").cast(pa.int64())
    return _rows(plan, found, KIND_LABEL, time_us, found.column("known_time").cast(pa.int64()))


def _versions(plan: Plan) -> Iterator[pa.Table]:
    for index, reference in enumerate(plan.references):
        found = _imported(reference.table)
        if found is None:
            continue
        renamed = dict(zip((f.name for f in reference.fields), reference.columns, strict=True))
        found = found.rename_columns([renamed.get(n, n) for n in found.schema.names])
        found = found.append_column("event_id", found.column(reference.key_column))
        number = pa.array(np.full(found.num_rows, LOG_REFERENCES + index, np.int8))
        found = found.append_column("origin_log", number)
        time_us = found.column("valid_from").cast(pa.int64())
        yield _rows(plan, found, KIND_REFERENCE, time_us, time_us)


def _imported(name: str) -> pa.Table | None:
    """The imported rows of a whole table; None where there is no table."""
    table = lake.open_table(name)
    if table is None:
        return None
    imported = pc.field("origin_partition") == lake.HISTORY_PARTITION
    return table.to_pyarrow_dataset().to_table(filter=imported)


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

"""The point-in-time training set: feature rows, each with the label as it was known at `as_of`.

    train_start ──train days──▶ train_end ──gap──▶ validation_start ──validation days──▶ horizon
                                                                      horizon = as_of − known_after

An event younger than the horizon has no label yet, so it is left out; one older than that without
a label counts as false. The gap is as long as a label takes, because a model that scored on the
first validation day could not have seen the labels of the days before it.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import lake
from features.plan import LabelPlan, Plan
from training.errors import TrainingError

LABEL = "label"
PARTS = ("train", "validation")

RowSource = Callable[[Plan, datetime, datetime], pa.Table]
"""(plan, after, until) → event_id, event_time and the plan's columns of the rows with
after < event_time ≤ until. `lake_rows` reads one from the lake; an offline store is another."""


class Split(msgspec.Struct, frozen=True):
    """The edges of both parts; each part is open at its start and closed at its end."""

    as_of: datetime
    train_start: datetime
    train_end: datetime
    validation_start: datetime
    horizon: datetime


class Dataset(msgspec.Struct, frozen=True):
    """What was built, small enough to travel between tasks; the rows lie in `folder`."""

    feature_set: str
    fingerprint: str
    columns: list[str]
    folder: str
    split: Split
    rows: dict[str, int]
    positives: dict[str, int]
    dataset_fingerprint: str


def lake_rows(table: str = "feature_backfill") -> RowSource:
    """Rows of one feature table of the lake, of this plan only."""

    def rows(plan: Plan, after: datetime, until: datetime) -> pa.Table:
        return _read(
            table,
            ["event_id", "event_time", *plan.column_names],
            [
                ("fingerprint", "=", plan.fingerprint),
                ("event_time", ">", after),
                ("event_time", "<=", until),
            ],
        )

    return rows


def latest_event_time(plan: Plan, table: str = "feature_backfill") -> datetime:
    """The newest event time among this plan's rows of a feature table.

    Raises:
        TrainingError: there is no row of this plan.
    """
    times = _read(table, ["event_time"], [("fingerprint", "=", plan.fingerprint)])
    newest = pc.max(times["event_time"]).as_py()
    if newest is None:
        raise TrainingError(
            f"the lake table {table!r} holds no row of {plan.name} with fingerprint "
            f"{plan.fingerprint}; run the backfill first"
        )
    return utc(newest)


def utc(time: datetime) -> datetime:
    """The same instant in UTC; a time without a zone is taken as UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def split_at(
    as_of: datetime, label: LabelPlan, train_days: float, validation_days: float, gap_days: float
) -> Split:
    """Place the two parts before the newest instant whose labels are known at `as_of`."""
    for name, value in (("train_days", train_days), ("validation_days", validation_days)):
        if value <= 0:
            raise TrainingError(f"{name} is {value}; give a positive number of days")
    if gap_days < 0:
        raise TrainingError(f"gap_days is {gap_days}; give 0 or more")
    horizon = utc(as_of) - timedelta(microseconds=label.known_after_us)
    validation_start = horizon - timedelta(days=validation_days)
    train_end = validation_start - timedelta(days=gap_days)
    return Split(
        utc(as_of), train_end - timedelta(days=train_days), train_end, validation_start, horizon
    )


def build(
    plan: Plan,
    folder: Path,
    *,
    as_of: datetime,
    train_days: float,
    validation_days: float,
    gap_days: float | None = None,
    source: RowSource | None = None,
    carry: Sequence[str] = (),
    every_label: bool = False,
) -> Dataset:
    """Write `train.arrow` and `validation.arrow` and say what they hold.

    Args:
        plan: the feature set.
        folder: is made; files of an earlier attempt are replaced.
        as_of: what was known then decides the labels.
        train_days: length of the first part.
        validation_days: length of the second part.
        gap_days: days between them; by default as long as a label takes to be known.
        source: where feature rows come from; the lake's backfill table by default.
        carry: event fields that validation rows take along for the model's own metrics.
        every_label: `as_of` is now, so every label of the lake is known. Labels say when they
            came by the broker's clock, and event time may run on another (a replay, a demo).

    Raises:
        TrainingError: no label is declared, or a part is empty, one-sided or not finite.
    """
    if plan.label is None:
        raise TrainingError(f"{plan.name} declares no label, so there is nothing to learn from")
    if gap_days is None:
        gap_days = plan.label.known_after_us / 86_400_000_000
    split = split_at(as_of, plan.label, train_days, validation_days, gap_days)
    rows = (source or lake_rows())(plan, split.train_start, split.horizon)
    labelled = _join_labels(plan, plan.label, rows, split, every_label)
    parts = {
        "train": _between(labelled, split.train_start, split.train_end),
        "validation": _between(labelled, split.validation_start, split.horizon),
    }
    for part, table in parts.items():
        _check(plan, part, table, split)
    fingerprint = dataset_fingerprint(plan, split, parts)
    parts["validation"] = _carry(parts["validation"], carry, split)
    folder.mkdir(parents=True, exist_ok=True)
    for part, table in parts.items():
        write_table(table, folder / f"{part}.arrow")
    return Dataset(
        feature_set=plan.name,
        fingerprint=plan.fingerprint,
        columns=plan.column_names,
        folder=str(folder),
        split=split,
        rows={part: table.num_rows for part, table in parts.items()},
        positives={part: int(pc.sum(table[LABEL]).as_py()) for part, table in parts.items()},
        dataset_fingerprint=fingerprint,
    )


def read_part(folder: Path, part: str) -> pa.Table:
    """One part, memory-mapped."""
    path = folder / f"{part}.arrow"
    if not path.exists():
        raise TrainingError(f"{path} is missing; build the dataset of this run again")
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def matrix(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.float32]:
    """The feature columns as float32 [n, k], the form the model is fed with."""
    return np.column_stack([table[name].to_numpy() for name in columns]).astype(np.float32)


def labels_of(table: pa.Table) -> npt.NDArray[np.int8]:
    """The labels, int8 [n]."""
    labels: npt.NDArray[np.int8] = table[LABEL].to_numpy()
    return labels


def days_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """The UTC day of each row as days since 1970, int64 [n]."""
    times_us: npt.NDArray[np.int64] = table["event_time"].cast(pa.int64()).to_numpy()
    return times_us // 86_400_000_000


def dataset_fingerprint(plan: Plan, split: Split, parts: dict[str, pa.Table]) -> str:
    """SHA-256 over the plan, the edges and every value; equal exactly when the set is."""
    digest = hashlib.sha256(plan.fingerprint.encode() + msgspec.json.encode(split))
    for part in PARTS:
        table = parts[part]
        for name in ("event_time", *plan.column_names, LABEL):
            column = table[name]
            if name == "event_time":
                column = column.cast(pa.int64())
            digest.update(f"\0{part}.{name}\0".encode())
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        digest.update("\0".join(table["event_id"].to_pylist()).encode())
    return digest.hexdigest()


def _read(table: str, columns: list[str], filters: list[tuple[str, str, Any]]) -> pa.Table:
    found = lake.open_table(table)
    if found is None:
        raise TrainingError(
            f"the lake has no table {table!r} at {lake.table_uri(table)}; import history or let "
            "the stream run, then run the backfill"
        )
    return found.to_pyarrow_table(columns=columns, filters=filters)


def _join_labels(
    plan: Plan, label: LabelPlan, rows: pa.Table, split: Split, every_label: bool
) -> pa.Table:
    labels = _read(
        "labels",
        ["event_id", "event_time", "known_time", "origin_offset", label.field],
        [
            ("event_time", ">", split.train_start),
            *([] if every_label else [("known_time", "<=", split.as_of)]),
        ],
    )
    features = ", ".join(f'rows."{name}"' for name in plan.column_names)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("rows", rows)
        connection.register("labels", labels)
        return connection.sql(
            f"""
            with latest as (
                select event_id, event_time, max_by("{label.field}", (known_time, origin_offset))
                    as verdict
                from labels group by event_id, event_time
            )
            select rows.event_id, rows.event_time, {features},
                coalesce(latest.verdict, false)::tinyint as {LABEL}
            from rows left join latest using (event_id, event_time)
            order by rows.event_time, rows.event_id
            """
        ).to_arrow_table()


def _between(table: pa.Table, after: datetime, until: datetime) -> pa.Table:
    kind = table.schema.field("event_time").type
    times = table["event_time"]
    late_enough = pc.greater(times, pa.scalar(after, kind))
    return table.filter(pc.and_(late_enough, pc.less_equal(times, pa.scalar(until, kind))))


def _check(plan: Plan, part: str, table: pa.Table, split: Split) -> None:
    start, end = (
        (split.train_start, split.train_end)
        if part == "train"
        else (split.validation_start, split.horizon)
    )
    where = f"the {part} part of {plan.name}, {start.isoformat()} to {end.isoformat()},"
    if table.num_rows == 0:
        raise TrainingError(f"{where} has no rows; take a later as_of or fewer days")
    positives = int(pc.sum(table[LABEL]).as_py())
    if positives in (0, table.num_rows):
        raise TrainingError(
            f"{where} has {positives} positive labels in {table.num_rows} rows, so nothing can be "
            "ranked; take more days, or check that labels reach the lake"
        )
    for name in plan.column_names:
        bad = int((~np.isfinite(table[name].to_numpy())).sum())
        if bad:
            raise TrainingError(
                f"{where} has {bad} values in column {name!r} that are null, NaN or infinite; "
                "run the quality gate on the feature table"
            )


def _carry(table: pa.Table, fields: Sequence[str], split: Split) -> pa.Table:
    if not fields:
        return table
    events = _read(
        "events",
        ["event_id", "event_time", *fields],
        [
            ("verdict", "=", "folded"),
            ("event_time", ">", split.validation_start),
            ("event_time", "<=", split.horizon),
        ],
    )
    names = ", ".join(f'events."{name}"' for name in fields)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("part", table)
        connection.register("events", events)
        return connection.sql(
            f"""
            select part.*, {names} from part left join
                (select distinct on (event_id, event_time) * from events) as events
                using (event_id, event_time)
            order by part.event_time, part.event_id
            """
        ).to_arrow_table()


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as an Arrow file that can be memory-mapped; whole or not at all."""
    partial = path.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    partial.replace(path)

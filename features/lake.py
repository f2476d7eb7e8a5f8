"""The Delta tables: their schemas, where they lie, and appends that happen once.

A writer names what it has read with Delta's application transactions: `(app id, version)` pairs
that are committed together with the rows. A writer that died finds its place in the table itself.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from features.errors import PenstockError
from features.failpoints import failpoint
from features.plan import FieldPlan, Plan
from features.settings import settings
from features.wire import arrow_type

TABLES = ("events", "labels", "features", "scores", "dead_letters")
HISTORY_PARTITION = -1
"""`origin_partition` of rows that were imported, not read from a topic."""

_TIME = pa.timestamp("us", tz="UTC")
_ORIGIN = [pa.field("origin_partition", pa.int32()), pa.field("origin_offset", pa.int64())]
_EVENT = [pa.field("event_id", pa.string()), pa.field("event_time", _TIME)]
_DATE = pa.field("event_date", pa.date32())


def schema(table: str, plan: Plan) -> pa.Schema:
    """The Arrow schema of a lake table.

    Raises:
        PenstockError: there is no such table.
    """
    seqs = [pa.field(stage.seq_column, pa.int64()) for stage in plan.stages]
    if table == "events":
        fields = [_kept(field) for field in plan.fields]
        fields += [pa.field(key, pa.string()) for key in plan.derived_keys(plan.field_names)]
        verdict = pa.field("verdict", pa.string())
        times = [pa.field("broker_time", _TIME), pa.field("watermark", _TIME)]
        return pa.schema([*_ORIGIN, verdict, *times, *_EVENT, *fields, *seqs, _DATE])
    if table == "labels" and plan.label is not None:
        held = [*plan.label.keys, *plan.derived_keys(plan.label.keys)]
        keys = [pa.field(key, pa.string()) for key in held]
        times = [pa.field("broker_time", _TIME), pa.field("known_time", _TIME)]
        verdict = pa.field(plan.label.field, pa.bool_())
        return pa.schema([*_ORIGIN, *times, *_EVENT, *keys, verdict, *seqs, _DATE])
    if table in ("features", "feature_candidate", "feature_backfill"):
        columns = [pa.field(column.name, pa.float64()) for column in plan.columns]
        return pa.schema([*_ORIGIN, *_EVENT, *columns, pa.field("fingerprint", pa.string()), _DATE])
    if table == "scores":
        return pa.schema(
            [
                *_ORIGIN,
                *_EVENT,
                pa.field("score", pa.float64()),
                pa.field("decision", pa.string()),
                pa.field("model_version", pa.string()),
                pa.field("fingerprint", pa.string()),
                pa.field("broker_time", _TIME),
                pa.field("scored_time", _TIME),
                _DATE,
            ]
        )
    for reference in plan.references:
        if table == reference.table:
            stage = plan.stages[reference.stage]
            # Few rows over many years: no dates to be partitioned by.
            return pa.schema(
                [
                    *_ORIGIN,
                    pa.field("broker_time", _TIME),
                    pa.field("valid_from", _TIME),
                    *(pa.field(name, pa.string()) for name in reference.key_columns),
                    *(_kept(field) for field in reference.fields),
                    pa.field(stage.seq_column, pa.int64()),
                ]
            )
    if table == "dead_letters":
        return pa.schema(
            [
                pa.field("topic", pa.string()),
                *_ORIGIN,
                pa.field("reason", pa.string()),
                pa.field("message", pa.string()),
                pa.field("payload", pa.binary()),
                pa.field("broker_time", _TIME),
            ]
        )
    raise PenstockError(
        f"the lake of {plan.name!r} has no table {table!r}; there is {tables(plan)}"
    )


def tables(plan: Plan) -> tuple[str, ...]:
    """Every table that the stream of a plan fills."""
    return (*TABLES, *(reference.table for reference in plan.references))


def _kept(field: FieldPlan) -> pa.Field:
    return pa.field(field.name, _TIME if field.type == "timestamp" else arrow_type(field))


def table_uri(table: str) -> str:
    """Where a table lies."""
    return f"{settings().lake_uri.rstrip('/')}/{table}"


def open_table(table: str) -> DeltaTable | None:
    """The table as it is now, or None where nothing has been written yet."""
    try:
        return DeltaTable(table_uri(table))
    except TableNotFoundError:
        return None


def first_logged_us() -> int:
    """No event read from a topic has an earlier event time (µs); the largest integer without one.

    Told from the statistics of the table's files.
    """
    found = open_table("events")
    files = pa.table(found.get_add_actions(flatten=True)) if found is not None else None
    if files is None or not files.num_rows:
        return 2**63 - 1
    partition, first = files["max.origin_partition"], files["min.event_time"].cast(pa.int64())
    if partition.null_count or first.null_count:
        # A file without statistics may hold anything.
        return 0
    logged = first.filter(pc.greater(partition, HISTORY_PARTITION))
    return int(pc.min(logged).as_py()) if len(logged) else 2**63 - 1


def refuse_other_columns(table: DeltaTable, wanted: pa.Schema) -> None:
    """Refuse a table that lacks columns, as one that an earlier Penstock has written.

    Raises:
        PenstockError: names the columns.
    """
    lacking = set(wanted.names) - {field.name for field in table.schema().fields}
    if lacking:
        raise PenstockError(
            f"the table at {table.table_uri} has no column {', '.join(sorted(lacking))}: it "
            "was written for another definition, or by another version of Penstock; set "
            "PENSTOCK_LAKE_URI to a new folder"
        )


def transaction_version(table: str, app_id: str) -> int:
    """The version an application last committed to a table, or -1."""
    found = open_table(table)
    version = found.transaction_version(app_id) if found is not None else None
    return -1 if version is None else int(version)


def append(table: str, rows: pa.Table, transactions: dict[str, int] | None = None) -> None:
    """Append rows in one commit, together with what the writer has read.

    Args:
        table: its name.
        rows: of `schema(table, plan)`.
        transactions: version by application id, of those that moved; each must be above the one
            in the table.

    Raises:
        PenstockError: the table already holds one of the versions: another writer of the same
            name is at work, and this one must start again from the table's own versions.
    """
    wanted = transactions or {}
    partitions = ["event_date"] if "event_date" in rows.schema.names else None
    properties = CommitProperties(
        app_transactions=[Transaction(app, version) for app, version in wanted.items()]
    )
    for _ in range(5):
        handle = open_table(table)
        if handle is not None:
            refuse_other_columns(handle, rows.schema)
            for app, version in wanted.items():
                held = handle.transaction_version(app)
                if held is not None and held >= version:
                    raise PenstockError(
                        f"table {table!r} holds version {held} of {app!r}, this writer is at "
                        f"{version}: another writer is at work; restart this one"
                    )
        failpoint("lake.prepared_not_committed")
        try:
            # The handle that was checked is the one that commits: a fresh one would let two
            # writers of the same version both succeed.
            write_deltalake(
                handle if handle is not None else table_uri(table),
                rows,
                partition_by=partitions,
                mode="append",
                commit_properties=properties,
            )
        except CommitFailedError:
            continue
        return
    raise PenstockError(f"table {table!r} changed under this writer five times; restart it")


def read(table: str, columns: list[str] | None = None) -> pa.Table:
    """A whole table, or some of its columns.

    Raises:
        PenstockError: nothing has been written to it yet.
    """
    found = open_table(table)
    if found is None:
        raise PenstockError(f"the lake has no table {table!r} yet at {table_uri(table)}")
    return found.to_pyarrow_table(columns=columns)

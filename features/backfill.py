"""The history side of the fold: Spark brings each key's rows in logged order, `Fold` does the rest.

The job reads `lake.events`, `lake.labels` and the tables of references, and nothing else. Every
stage is one `mapInArrow` over rows partitioned by the stage's key and sorted by their place in the
stage's log, so late and out-of-order events give the number they gave in the stream.

A backfill goes to the table `feature_candidate`. The quality gate reads it there, and `publish`
moves it to `feature_backfill` in one commit: whoever trains always reads the last good rows.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql import types as st
from pyspark.sql.pandas.types import from_arrow_type

from features import lake
from features.errors import PenstockError
from features.fold import Fold
from features.plan import Plan, StagePlan
from features.spark import session
from features.wire import (
    FOLDED,
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LOG_REFERENCES,
    NEVER_US,
    row_schema,
)

CANDIDATE, PUBLISHED = "feature_candidate", "feature_backfill"

Say = Callable[[str], None]


def backfill(
    plan: Plan,
    from_date: date | None = None,
    until: date | None = None,
    *,
    spark: SparkSession | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Compute every event's features from the lake into `feature_candidate`.

    Args:
        plan: the feature set.
        from_date: first event date (UTC) to write; by default the lake's first.
        until: the date after the last one; by default everything is written.
        spark: a running session; by default one is started and stopped.
        say: receives a line for each step.

    Returns:
        `rows` written, `duplicates` found, `disagreements` (events of a log whose verdict here is
        not the one recorded there), `seconds`, and the `fingerprint`.

    Raises:
        PenstockError: the lake has no events yet.
    """
    events = lake.open_table("events")
    if events is None:
        raise PenstockError(
            f"there are no events at {lake.table_uri('events')}; stream some, or write a history "
            "with `penstock generate history`"
        )
    lake.refuse_other_columns(events, lake.schema("events", plan))
    started = time.monotonic()
    if spark is None:
        say("starting Spark")
        with session(f"penstock backfill {plan.name}") as own:
            report = _run(own, plan, from_date, until, say)
    else:
        report = _run(spark, plan, from_date, until, say)
    return report | {"seconds": round(time.monotonic() - started, 3)}


def publish(plan: Plan) -> dict[str, Any]:
    """Put the candidate's dates in the place of those in `feature_backfill`, in one commit.

    Raises:
        PenstockError: there is no candidate, another plan made it, or it covers some dates only
            while the published rows are another plan's.
    """
    candidate = lake.open_table(CANDIDATE)
    if candidate is None:
        raise PenstockError("there is nothing to publish; run `penstock backfill` first")
    made = json.loads(candidate.history(1)[0].get("userMetadata") or "{}")
    if made.get("fingerprint") != plan.fingerprint:
        raise PenstockError(
            f"the candidate is of plan {made.get('fingerprint')}, the definition of {plan.name!r} "
            f"has {plan.fingerprint}; run the backfill again"
        )
    bounds = [(">=", made["from_date"]), ("<", made["until"])]
    limits = [f"event_date {sign} '{day}'" for sign, day in bounds if day]
    published = lake.open_table(PUBLISHED)
    if limits and published is not None and _fingerprints(published) - {plan.fingerprint}:
        raise PenstockError(
            f"{PUBLISHED!r} holds rows of another plan; run the backfill over all dates first"
        )
    rows = candidate.to_pyarrow_dataset().scanner().to_reader()
    write_deltalake(
        lake.table_uri(PUBLISHED),
        rows,
        mode="overwrite",
        partition_by=["event_date"],
        # Without a predicate the whole table is replaced, and so may be its columns.
        **(
            {"predicate": " AND ".join(limits)}
            if limits and published is not None
            else {"schema_mode": "overwrite"}
        ),
    )
    now = lake.open_table(PUBLISHED)
    return {"version": now.version() if now else 0, "rows": candidate.count()}


def _fingerprints(table: DeltaTable) -> set[str]:
    column = table.to_pyarrow_table(columns=["fingerprint"])["fingerprint"]
    return set(column.unique().to_pylist())


def _run(
    spark: SparkSession, plan: Plan, from_date: date | None, until: date | None, say: Say
) -> dict[str, Any]:
    after = _reads_from(plan, from_date)
    rows = _events(spark, plan, after, until)
    labels = _labels(spark, plan, after, until)
    first_logged_us = lake.first_logged_us()
    for stage in plan.stages:
        if labels is not None and plan.label is not None and stage.index == plan.label.stage:
            rows = rows.unionByName(labels, allowMissingColumns=True)
        for index, reference in enumerate(plan.references):
            if reference.stage == stage.index and lake.open_table(reference.table) is not None:
                versions = _versions(spark, plan, index, until)
                rows = rows.unionByName(versions, allowMissingColumns=True)
        rows = fold_stage(rows, plan, stage, first_logged_us)
        if plan.references:
            # What has been looked up needs no version any more.
            rows = rows.where(sf.col("kind") != KIND_REFERENCE)
    is_event = sf.col("kind") == KIND_EVENT
    is_duplicate = is_event & (sf.col("verdict") != FOLDED)
    logged = is_event & (sf.col("origin_partition") != lake.HISTORY_PARTITION)
    counted = Observation("fold")
    rows = rows.observe(
        counted,
        sf.count_if(is_event & ~is_duplicate).alias("rows"),
        sf.count_if(is_duplicate).alias("duplicates"),
        sf.count_if(logged & (sf.col("verdict") != sf.col("recorded"))).alias("disagreements"),
    )
    written = rows.where(is_event & ~is_duplicate).select(*_output(plan))
    if from_date is not None:
        written = written.where(sf.col("event_date") >= sf.lit(from_date))
    say(f"folding {plan.name} stage by stage: {', '.join(s.name for s in plan.stages)}")
    # One file a day: tasks hold every date, so each would write a file for each.
    written = written.repartition("event_date")
    about = {
        "fingerprint": plan.fingerprint,
        "from_date": from_date.isoformat() if from_date else None,
        "until": until.isoformat() if until else None,
    }
    (
        written.write.format("delta")
        .mode("overwrite")
        .option("overwriteSchema", "true")
        .option("userMetadata", json.dumps(about))
        .partitionBy("event_date")
        .save(lake.table_uri(CANDIDATE))
    )
    return {**counted.get, "fingerprint": plan.fingerprint}


def _reads_from(plan: Plan, from_date: date | None) -> datetime | None:
    """The first event time that can matter to rows of `from_date` and later."""
    if from_date is None:
        return None
    back_us = max(stage.retention_us for stage in plan.stages) + plan.lateness_us
    return datetime(from_date.year, from_date.month, from_date.day, tzinfo=UTC) - timedelta(
        microseconds=back_us
    )


def _between(table: DataFrame, after: datetime | None, until: date | None) -> DataFrame:
    if after is not None:
        table = table.where(sf.col("event_date") >= sf.lit(after.date()))
    # No window looks ahead in event time, whatever the order of arrival.
    return table if until is None else table.where(sf.col("event_date") < sf.lit(until))


def _events(
    spark: SparkSession, plan: Plan, after: datetime | None, until: date | None
) -> DataFrame:
    """Events as rows; late ones never entered a stage's log."""
    table = spark.read.format("delta").load(lake.table_uri("events"))
    return (
        _between(table, after, until)
        .where("verdict != 'late'")
        .select(
            sf.lit(KIND_EVENT).cast("tinyint").alias("kind"),
            sf.lit(FOLDED).cast("tinyint").alias("verdict"),
            sf.expr("CAST(IF(verdict = 'folded', 0, 1) AS TINYINT)").alias("recorded"),
            "origin_partition",
            "origin_offset",
            "event_id",
            sf.unix_micros("event_time").alias("event_time_us"),
            sf.unix_micros("event_time").alias("arrival_us"),
            sf.unix_micros("watermark").alias("watermark_us"),
            *(
                sf.unix_micros(field.name).alias(field.name)
                if field.type == "timestamp"
                else sf.col(field.name)
                for field in plan.fields
            ),
            *plan.derived_keys(plan.field_names),
            *(sf.col(stage.seq_column) for stage in plan.stages),
        )
    )


def _labels(
    spark: SparkSession, plan: Plan, after: datetime | None, until: date | None
) -> DataFrame | None:
    """Labels as rows; without a log they arrive when they were known."""
    if plan.label is None or lake.open_table("labels") is None:
        return None
    table = spark.read.format("delta").load(lake.table_uri("labels"))
    return _between(table, after, until).select(
        sf.lit(KIND_LABEL).cast("tinyint").alias("kind"),
        sf.lit(FOLDED).cast("tinyint").alias("verdict"),
        "origin_partition",
        "origin_offset",
        "event_id",
        sf.unix_micros("event_time").alias("event_time_us"),
        sf.unix_micros("known_time").alias("arrival_us"),
        *plan.label.keys,
        *plan.derived_keys(plan.label.keys),
        sf.col(plan.label.field).cast("tinyint").alias(plan.label.field),
        *(sf.col(stage.seq_column) for stage in plan.stages),
    )


def _versions(spark: SparkSession, plan: Plan, index: int, until: date | None) -> DataFrame:
    """Versions of a reference as rows, also of long ago: a key's last version holds for ever."""
    reference = plan.references[index]
    table = spark.read.format("delta").load(lake.table_uri(reference.table))
    if until is not None:
        table = table.where(sf.col("valid_from") < sf.lit(until))
    valid_from_us = sf.unix_micros("valid_from")
    return table.select(
        sf.lit(KIND_REFERENCE).cast("tinyint").alias("kind"),
        sf.lit(FOLDED).cast("tinyint").alias("verdict"),
        sf.lit(LOG_REFERENCES + index).cast("tinyint").alias("origin_log"),
        "origin_partition",
        "origin_offset",
        sf.col(reference.key_column).alias("event_id"),
        valid_from_us.alias("event_time_us"),
        valid_from_us.alias("arrival_us"),
        *reference.key_columns,
        *(
            (sf.unix_micros(field.name) if field.type == "timestamp" else sf.col(field.name)).alias(
                column
            )
            for column, field in zip(reference.columns, reference.fields, strict=True)
        ),
        sf.col(plan.stages[reference.stage].seq_column),
    )


def fold_stage(
    rows: DataFrame, plan: Plan, stage: StagePlan, first_logged_us: int = NEVER_US
) -> DataFrame:
    """Fold one stage: its key's rows together, in the order of the stage's log.

    No event that is part of a log has an event time (µs) before `first_logged_us`.
    """
    looked_up = {f.name: from_arrow_type(f.type) for f in _looked_up_by(plan, stage)}
    # Where there are versions, they have brought these columns.
    given = [field for field in rows.schema.fields if field.name not in looked_up]
    made = looked_up | dict.fromkeys(_columns_made_by(plan, stage), st.DoubleType())
    schema = st.StructType([*given, *(st.StructField(name, kind) for name, kind in made.items())])
    ordered = rows.repartition(stage.key_column).sortWithinPartitions(
        stage.key_column, *_log_order(stage)
    )
    return ordered.mapInArrow(fold_partition(plan, stage.index, first_logged_us), schema)


def _log_order(stage: StagePlan) -> list[Column]:
    """History first, by (time of arrival, versions, labels, events, event id); then the log."""
    in_log = sf.col(stage.seq_column)
    history = in_log.isNull()
    return [
        in_log.asc_nulls_first(),
        sf.when(history, sf.col("arrival_us")),
        sf.when(history, sf.lit(KIND_LABEL) - sf.col("kind")),
        sf.when(history, sf.col("event_id")),
        sf.when(history, sf.col("origin_offset")),
    ]


def _columns_made_by(plan: Plan, stage: StagePlan) -> list[str]:
    made = list(stage.columns)
    if stage.index == len(plan.stages) - 1:
        made += [column.name for column in plan.columns if column.formula]
    return made


def _looked_up_by(plan: Plan, stage: StagePlan) -> list[pa.Field]:
    """The row's columns of the stage's references."""
    own = [each for each in plan.references if each.stage == stage.index]
    return [row_schema(plan).field(name) for each in own for name in each.columns]


def fold_partition(
    plan: Plan, stage_index: int, first_logged_us: int = NEVER_US
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What Spark runs on a partition sorted by key: columns as they came, plus the stage's own.

    A key of more rows than a batch streams through: what its later rows do not reach is let go of.
    """
    stage = plan.stages[stage_index]
    looked_up = [field.name for field in _looked_up_by(plan, stage)]
    made = [*looked_up, *_columns_made_by(plan, stage)]

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        fold = Fold(plan, stage_index)
        key, settled_us = None, NEVER_US
        for batch in batches:
            if batch.num_rows == 0:
                continue
            folded = fold.fold_history(_rows(plan, batch))
            given = [name for name in batch.schema.names if name not in looked_up]
            columns = {name: batch.column(name) for name in given}
            columns["verdict"] = folded.column("verdict")
            columns |= {name: folded.column(name) for name in made}
            yield pa.RecordBatch.from_pydict(columns)
            # Rows come sorted by key: only the last one can go on in the next batch.
            last = batch.column(stage.key_column)[-1].as_py()
            if last != key:
                key, settled_us = last, NEVER_US
            if key is not None and first_logged_us != NEVER_US:
                own = batch.filter(pc.equal(batch.column(stage.key_column), key))
                settled_us = max(settled_us, _settled_us(plan, stage, own, first_logged_us))
            fold.keep_only(key, settled_us)

    return run


def _settled_us(plan: Plan, stage: StagePlan, rows: pa.RecordBatch, first_logged_us: int) -> int:
    """No event that follows these rows of one key, in the order of its log, is older."""
    if rows.column(stage.seq_column)[-1].as_py() is None:
        # Still history, which is in order of arrival.
        return min(int(rows.column("arrival_us")[-1].as_py()), first_logged_us)
    heard = pc.max(rows.column("watermark_us")).as_py()
    return NEVER_US if heard is None else int(heard) - plan.lateness_us


def _rows(plan: Plan, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch as rows of the wire; what the lake does not keep is null."""
    there = set(batch.schema.names)
    return pa.RecordBatch.from_arrays(
        [
            batch.column(field.name).cast(field.type)
            if field.name in there
            else _nulls(batch.num_rows, field.type)
            for field in row_schema(plan)
        ],
        schema=row_schema(plan),
    )


@functools.lru_cache(maxsize=128)
def _nulls(count: int, kind: pa.DataType) -> pa.Array:
    """Batches are mostly of one size, and what the lake does not keep is many columns."""
    return pa.nulls(count, kind)


def _output(plan: Plan) -> list[Column]:
    """The columns of the feature table, as `lake.schema` has them."""
    time_ = sf.timestamp_micros("event_time_us")
    return [
        sf.col("origin_partition"),
        sf.col("origin_offset"),
        sf.col("event_id"),
        time_.alias("event_time"),
        *(sf.col(column.name).cast("double").alias(column.name) for column in plan.columns),
        sf.lit(plan.fingerprint).alias("fingerprint"),
        sf.to_date(time_).alias("event_date"),
    ]

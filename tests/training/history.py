"""A small lake with a signal in it: what the backfill and the sink would have left."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from features import lake
from features.plan import Plan

START = datetime(2025, 1, 1, tzinfo=UTC)
KNOWN_AFTER = timedelta(days=7)


def write_history(plan: Plan, days: int = 35, rows_a_day: int = 400, seed: int = 0) -> None:
    """`events`, `labels` and `feature_backfill` of `days` days.

    An event is positive where its first column is large or its last rate is high, with noise. Its
    label is known seven days later.
    """
    generator = np.random.default_rng(seed)
    n = days * rows_a_day
    seconds = np.sort(generator.uniform(0, days * 86_400, n))
    start_us = int(START.timestamp()) * 1_000_000
    event_us = start_us + (seconds * 1_000_000).astype(np.int64)
    columns = {
        column.name: generator.lognormal(3, 1, n)
        if index % 2 == 0
        else generator.integers(0, 30, n).astype(float)
        for index, column in enumerate(plan.columns)
    }
    first, last = plan.columns[0].name, plan.columns[-1].name
    signal = 2 * np.log(columns[first]) + np.log(columns[last] + 1) + generator.normal(0, 0.5, n)
    positive = signal > np.quantile(signal, 0.98)
    ids = np.array([f"e{i:06d}" for i in range(n)])
    cards = np.array([f"c{i:04d}" for i in generator.integers(0, 300, n)])
    time = pa.timestamp("us", "UTC")
    dates = pa.array(event_us // 86_400_000_000, pa.int32()).cast(pa.date32())
    common = {
        "origin_partition": np.full(n, lake.HISTORY_PARTITION, np.int32),
        "origin_offset": np.arange(n),
        "event_id": ids,
        "event_time": pa.array(event_us, time),
        "event_date": dates,
    }
    append(
        plan, "feature_backfill", n, {**common, **columns, "fingerprint": [plan.fingerprint] * n}
    )
    keys = {field.name: cards for field in plan.fields if field.type == "text"}
    append(plan, "events", n, {**common, "verdict": ["folded"] * n, **keys})
    assert plan.label is not None
    known = pa.array(event_us + int(KNOWN_AFTER.total_seconds()) * 1_000_000, time)
    every = {**common, **keys, "known_time": known, "broker_time": known}
    every[plan.label.field] = np.ones(n, bool)
    append(plan, "labels", n, every, np.flatnonzero(positive))


def append(
    plan: Plan,
    table: str,
    rows: int,
    values: dict[str, object],
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
) -> None:
    """Append columns to a lake table; columns that are left out are null."""
    schema = lake.schema(table, plan)
    arrays = [
        pa.array(values[field.name], field.type)
        if not isinstance(values.get(field.name), pa.Array) and field.name in values
        else values.get(field.name, pa.nulls(rows, field.type))
        for field in schema
    ]
    filled = pa.table(arrays, schema=schema)
    lake.append(table, filled if chosen is None else filled.take(pa.array(chosen)))

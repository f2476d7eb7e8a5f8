"""History through the fold against SQL window frames and rolling windows, on one core.

`python -m benchmarks.backfill` folds 2,000,000 events of 20,000 keys into 15 features: count, sum
and mean over 1, 3, 7, 14 and 30 days. DuckDB runs the same as RANGE frames over five named windows
on one thread, pandas as time-based rolling windows by group. All start from the same columns in
memory, in order of event time, and their results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.report import show, timed
from features.backfill import fold_partition
from features.plan import Plan, compile_plan
from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    FieldRef,
    Money,
    Text,
    count,
    days,
    hours,
    mean,
    sum,
)

DAYS = (1, 3, 7, 14, 30)
SPAN_DAYS = 120
BATCH_ROWS = 50_000
"""What Spark hands over at once (`features/spark.py`)."""


def plan(windows: Callable[[FieldRef, Entity], list[Any]]) -> Plan:
    """A feature set of one entity; `windows` makes its features from the amount and the payer."""
    payer = Entity("payer_id")
    paid = Event(
        "bench.paid.v1",
        id="paid_id",
        time="at",
        key=payer,
        lateness=hours(1),
        fields={"payer_id": Text(), "amount": Money("EUR", min=0)},
    )
    return compile_plan(FeatureSet("bench", event=paid, features=windows(paid.amount, payer)))


def fifteen(amount: FieldRef, payer: Entity) -> list[Any]:
    """Count, sum and mean over five windows."""
    return [
        *(count(by=payer, over=days(d)) for d in DAYS),
        *(sum(amount, by=payer, over=days(d)) for d in DAYS),
        *(mean(amount, by=payer, over=days(d)) for d in DAYS),
    ]


def events(rows: int, keys: int) -> pa.Table:
    """Events in order of time; no two share one, so that frames and windows mean the same."""
    rng = np.random.default_rng(1)
    span_us = SPAN_DAYS * 86_400_000_000
    start_us = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    times = start_us + np.sort(rng.choice(span_us // 1000, rows, replace=False)) * 1000
    key = rng.integers(0, keys, rows)
    return pa.table(
        {
            "event_id": [f"e{i}" for i in range(rows)],
            "event_time_us": times,
            "payer_id": pa.array([f"p{k}" for k in range(keys)]).take(pa.array(key)),
            "amount": rng.integers(1, 100_000, rows),
        }
    )


def penstock(compiled: Plan, table: pa.Table) -> list[pa.RecordBatch]:
    """Rows brought together by key, as a shuffle would, then folded by what Spark runs."""
    keys = table["payer_id"].combine_chunks().dictionary_encode()
    # numpy sorts 16-bit numbers by counting; 20,000 keys fit.
    assert len(keys.dictionary) < 2**16
    order = np.argsort(keys.indices.to_numpy().astype(np.uint16), kind="stable")
    batches = table.combine_chunks().take(pa.array(order)).to_batches(BATCH_ROWS)
    return list(fold_partition(compiled, 0)(iter(batches)))


def by_duckdb(table: pa.Table) -> pa.Table:
    """Five named windows with RANGE frames, one thread; the frame's far edge is left out."""
    connection = duckdb.connect(config={"threads": "1"})
    connection.register("paid", table)
    columns = ", ".join(
        f"count(*) OVER w{d} AS count_{d}, sum(amount) OVER w{d} AS sum_{d}, "
        f"avg(amount) OVER w{d} AS mean_{d}"
        for d in DAYS
    )
    frames = ", ".join(
        f"w{d} AS (PARTITION BY payer_id ORDER BY event_time_us "
        f"RANGE BETWEEN {d * 86_400_000_000 - 1} PRECEDING AND CURRENT ROW)"
        for d in DAYS
    )
    query = f"SELECT event_id, {columns} FROM paid WINDOW {frames}"
    return connection.sql(query).to_arrow_table()


def by_pandas(frame: pd.DataFrame) -> list[pd.Series]:
    """Rolling windows by group."""
    rolled: list[pd.Series] = []
    for d in DAYS:
        windows = frame.groupby("payer_id", sort=False, observed=True)["amount"].rolling(f"{d}D")
        rolled.extend((windows.count(), windows.sum(), windows.mean()))
    return rolled


def check(compiled: Plan, table: pa.Table) -> int:
    """Compare the results; returns how many values were equal."""
    ours = pa.Table.from_batches(penstock(compiled, table))
    theirs = by_duckdb(table)
    order = pa.compute.sort_indices(ours["event_id"])
    other = pa.compute.sort_indices(theirs["event_id"])
    compared = 0
    for word in ("count", "sum", "mean"):
        for d in DAYS:
            name = f"payer_{'' if word == 'count' else 'amount_'}{word}_{d}d"
            left = ours[name].take(order).to_numpy()
            right = theirs[f"{word}_{d}"].take(other).cast(pa.float64()).to_numpy()
            # DuckDB's mean is a float sum; ours is one exact division.
            np.testing.assert_allclose(left, right, rtol=1e-12 if word == "mean" else 0)
            compared += len(left)
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["duckdb", "pandas", "growth"])
    given = parser.parse_args()
    compiled, table = plan(fifteen), events(given.rows, given.keys)
    compared = check(compiled, table.slice(0, min(given.rows, 200_000)))
    ours = timed(lambda: penstock(compiled, table), given.runs)
    peers: dict[str, dict[str, Any]] = {}
    if "duckdb" in given.peers:
        peers["duckdb"] = timed(lambda: by_duckdb(table), 1) | {
            "version": duckdb.__version__,
            "settings": "threads=1, RANGE frames over named windows, from and to Arrow",
        }
    if "pandas" in given.peers:
        frame = table.select(["payer_id", "amount"]).to_pandas()
        frame["payer_id"] = frame["payer_id"].astype("category")
        frame.index = pd.to_datetime(table["event_time_us"].to_numpy(), unit="us")
        peers["pandas"] = timed(lambda: by_pandas(frame), 1) | {
            "version": pd.__version__,
            "settings": "groupby(category).rolling('<n>D')",
        }
    if "growth" in given.peers:
        double = events(2 * given.rows, given.keys)
        peers["twice the rows"] = timed(lambda: penstock(compiled, double), given.runs)
    show("backfill", ours, peers, rows=given.rows, keys=given.keys, values_compared=compared)


if __name__ == "__main__":
    main()

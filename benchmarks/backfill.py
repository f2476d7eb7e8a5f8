"""History through the fold against SQL window frames and rolling windows, on one core.

`python -m benchmarks.backfill` folds 2,000,000 events of 20,000 keys into 15 features: count, sum
and mean over 1, 3, 7, 14 and 30 days. DuckDB runs the same as RANGE frames over five named windows,
Polars and pandas as time-based rolling windows by group, each in several ways, of which the fastest
is compared. All start from the same columns in memory, in order of event time, and every result is
compared with ours before anything is timed. Polars has an environment of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks import peer
from benchmarks.report import one_core, say, show, timed
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


def frames(source: str) -> str:
    """The query over five named windows with RANGE frames; a frame's far edge is left out."""
    columns = ", ".join(
        f"count(*) OVER w{d} AS count_{d}, sum(amount) OVER w{d} AS sum_{d}, "
        f"avg(amount) OVER w{d} AS mean_{d}"
        for d in DAYS
    )
    windows = ", ".join(
        f"w{d} AS (PARTITION BY payer_id ORDER BY event_time_us "
        f"RANGE BETWEEN {d * 86_400_000_000 - 1} PRECEDING AND CURRENT ROW)"
        for d in DAYS
    )
    return f"SELECT event_id, event_time_us, {columns} FROM {source} WINDOW {windows}"


def by_duckdb(table: pa.Table) -> pa.Table:
    """The query with one thread."""
    connection = duckdb.connect(config={"threads": "1"})
    connection.register("paid", table)
    return connection.sql(frames("paid")).to_arrow_table()


def pandas_frame(table: pa.Table) -> pd.DataFrame:
    """By time, the keys as a category."""
    frame = table.select(["payer_id", "amount"]).to_pandas()
    frame["payer_id"] = frame["payer_id"].astype("category")
    frame["one"] = 1.0
    frame.index = pd.to_datetime(table["event_time_us"].to_numpy(), unit="us")
    return frame


def by_pandas(frame: pd.DataFrame) -> list[pd.Series]:
    """Count, sum and mean of rolling windows by group, in pandas' own code."""
    rolled: list[pd.Series] = []
    for d in DAYS:
        windows = frame.groupby("payer_id", sort=False, observed=True)["amount"].rolling(f"{d}D")
        rolled.extend((windows.count(), windows.sum(), windows.mean()))
    return rolled


def by_pandas_and_numba(frame: pd.DataFrame) -> list[pd.Series]:
    """The same by its numba engine, which cannot count: counts are sums of ones."""
    rolled: list[pd.Series] = []
    for d in DAYS:
        groups = frame.groupby("payer_id", sort=False, observed=True)
        counts, sums = (
            groups[name].rolling(f"{d}D").sum(engine="numba") for name in ("one", "amount")
        )
        rolled.extend((counts, sums, sums / counts))
    return rolled


PANDAS = {
    "groupby().rolling(): count(), sum(), mean()": by_pandas,
    'groupby().rolling(): sum(engine="numba") of ones and amounts, divided': by_pandas_and_numba,
}


def in_order(table: pa.Table) -> list[tuple[str, Any]]:
    """Our columns by the names the peers give them, in order of time."""
    table = table.sort_by("event_time_us")
    return [
        (f"{word}_{d}", table[f"payer_{'' if word == 'count' else 'amount_'}{word}_{d}d"])
        for d in DAYS
        for word in ("count", "sum", "mean")
    ]


def compare(ours: list[tuple[str, Any]], theirs: dict[str, Any], rtol: float) -> int:
    """Counts and sums have to be equal, floats that a peer added up within a tolerance."""
    for name, values in ours:
        exact = rtol == 0 or not name.startswith("mean")
        np.testing.assert_allclose(
            values.to_numpy(), np.asarray(theirs[name], np.float64), rtol=0 if exact else rtol
        )
    return len(ours) * len(ours[0][1])


def check(compiled: Plan, table: pa.Table) -> int:
    """Compare DuckDB's results with ours; returns how many values were equal."""
    ours = in_order(pa.Table.from_batches(penstock(compiled, table)))
    theirs = by_duckdb(table).sort_by("event_time_us")
    # DuckDB's mean is a float sum; ours is one exact division.
    return compare(ours, {name: theirs[name].to_numpy() for name, _ in ours}, rtol=1e-12)


def check_pandas(compiled: Plan, table: pa.Table) -> int:
    ours = in_order(pa.Table.from_batches(penstock(compiled, table)))
    compared = 0
    for way in PANDAS.values():
        rolled = way(pandas_frame(table))
        order = np.argsort(rolled[0].index.get_level_values(-1).to_numpy())
        theirs = {
            name: series.to_numpy()[order] for (name, _), series in zip(ours, rolled, strict=True)
        }
        # Pandas adds and takes away floats as the window moves.
        compared += compare(ours, theirs, rtol=1e-9)
    return compared


def polars(compiled: Plan, table: pa.Table, sample: pa.Table, runs: int) -> dict[str, Any]:
    """Every way of Polars, compared and timed in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.arrow") for name in ("events", "sample")}
        for path, rows in zip(paths.values(), (table, sample), strict=True):
            kept = rows.select(["payer_id", "amount", "event_time_us"])
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, kept.schema) as writer:
                writer.write_table(kept)
        request = {**paths, "days": DAYS, "runs": runs}
        answer = peer.ask("polars_rolling", request, POLARS_MAX_THREADS="1")
        ours = in_order(pa.Table.from_batches(penstock(compiled, sample)))
        for way in answer["ways"].values():
            with pa.memory_map(way.pop("result")) as file:
                theirs = pa.ipc.open_file(file).read_all()
            way["values_compared"] = compare(ours, {n: theirs[n].to_numpy() for n, _ in ours}, 0)
    settings = "one thread, lazy engine, keys categorical beforehand, a mean is sum / count"
    return fastest(answer["ways"]) | {"version": answer["version"], "settings": settings}


def fastest(ways: dict[str, Any]) -> dict[str, Any]:
    """Figures of the fastest way, with the medians of all."""
    best = min(ways, key=lambda name: ways[name]["median_s"])
    return ways[best] | {
        "way": best,
        "median_s_by_way": {name: figures["median_s"] for name, figures in ways.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-runs", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["duckdb", "polars", "pandas", "growth"])
    given = parser.parse_args(arguments)
    cpu = one_core()
    compiled, table = plan(fifteen), events(given.rows, given.keys)
    sample = table.slice(0, min(given.rows, 200_000))
    say("comparing results")
    compared = check(compiled, sample)
    if "pandas" in given.peers:
        compared += check_pandas(compiled, sample)
    say("timing Penstock")
    ours = timed(lambda: penstock(compiled, table), given.runs)
    peers: dict[str, dict[str, Any]] = {}
    if "growth" in given.peers:
        say("timing Penstock with twice the rows")
        double = events(2 * given.rows, given.keys)
        peers["twice the rows"] = timed(lambda: penstock(compiled, double), given.runs)
        del double
    if "polars" in given.peers:
        peers["polars"] = polars(compiled, table, sample, given.peer_runs)
    if "duckdb" in given.peers:
        say("timing DuckDB")
        peers["duckdb"] = timed(lambda: by_duckdb(table), given.peer_runs) | {
            "version": duckdb.__version__,
            "settings": "threads=1, RANGE frames over named windows, from and to Arrow",
        }
    if "pandas" in given.peers:
        frame = pandas_frame(table)
        ways = {}
        for name, way in PANDAS.items():
            say(f"timing pandas: {name}")
            ways[name] = timed(lambda way=way: way(frame), given.peer_runs)
        peers["pandas"] = fastest(ways) | {
            "version": pd.__version__,
            "settings": "keys categorical and times an index beforehand",
        }
    show(
        "backfill",
        ours,
        peers,
        rows=given.rows,
        keys=given.keys,
        features=len(compiled.columns),
        values_compared=compared,
        cpu=cpu,
    )


if __name__ == "__main__":
    main()

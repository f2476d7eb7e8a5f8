"""The backfill inside Spark, on two cores: the fold through `mapInArrow` against window frames.

`python -m benchmarks.spark` lets both read one Parquet file of 2,000,000 events of 20,000 keys and
compute count, sum and mean over 1, 3, 7, 14 and 30 days in a running session that has done the
same before; then again with 30 % of the events on one key, of which there are fewer, for Spark's
frames add up every frame anew. Results are compared before anything is timed, and go nowhere
(`noop`).

Both run in the session of our batch jobs, whose JVM is set up to start fast with little memory, and
in one with the JVM's own settings and more memory, where Spark's frames are faster: every pair is
told. With the hot key the frames run in the latter only, and once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
from pyspark.sql import DataFrame, SparkSession

from benchmarks.backfill import compare, events, fifteen, frames, in_order, plan
from benchmarks.report import say, show, spread, timed
from features.backfill import fold_stage
from features.plan import Plan
from features.settings import settings
from features.spark import MASTER, session
from penstock.stack.stack import Stack

EVEN, HOT = "even", "hot"
OUR_JVM, OWN_JVM = "session of our batch jobs", "session with the JVM's own settings and 6 GB"
HOT_SHARE = 0.3
SAMPLE_ROWS = 20_000

# Spark's own defaults, and room for its sorts.
OWN_OPTIONS, OWN_MEMORY = "-Xshare:auto", "6g"


def with_hot_key(table: pa.Table) -> pa.Table:
    """Three in ten events, at random, become one key's."""
    hot = np.random.default_rng(2).random(table.num_rows) < HOT_SHARE
    keys = pa.compute.if_else(pa.array(hot), "p0", table["payer_id"])
    return table.set_column(table.schema.get_field_index("payer_id"), "payer_id", keys)


def write(table: pa.Table, path: Path) -> str:
    """The events as `features.backfill` reads them from the lake, without a log."""
    n = table.num_rows
    columns = {name: table[name] for name in table.column_names} | {
        "kind": pa.array(np.zeros(n), pa.int8()),
        "verdict": pa.array(np.zeros(n), pa.int8()),
        "arrival_us": table["event_time_us"],
        "origin_partition": pa.array(np.full(n, -1), pa.int32()),
        "origin_offset": pa.array(np.arange(n), pa.int64()),
        "payer_seq": pa.nulls(n, pa.int64()),
    }
    # Several row groups, so that both cores read.
    pq.write_table(pa.table(columns), path, row_group_size=-(-n // 4))
    return str(path)


def by_penstock(spark: SparkSession, compiled: Plan, path: str) -> DataFrame:
    """What the backfill does with its only stage."""
    return fold_stage(spark.read.parquet(path), compiled, compiled.stages[0])


def by_frames(spark: SparkSession, path: str) -> DataFrame:
    """The same by Spark SQL."""
    return spark.sql(frames(f"parquet.`{path}`"))


def run(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def check(spark: SparkSession, compiled: Plan, path: str) -> int:
    """Compare every result of a file; returns how many values were equal."""
    ours = in_order(by_penstock(spark, compiled, path).toArrow())
    theirs = by_frames(spark, path).toArrow().sort_by("event_time_us")
    return compare(ours, {name: theirs[name].to_numpy() for name, _ in ours}, rtol=1e-12)


def once(frame: DataFrame) -> dict[str, Any]:
    """Seconds of one run, in a session that has done the like."""
    began = time.perf_counter()
    run(frame)
    return spread([time.perf_counter() - began])


def provide_java() -> None:
    """What a Spark session needs, where the environment does not name it."""
    found = settings()
    if not found.spark_ivy_home:
        stack = Stack(found.home, Path(__file__).parents[1])
        stack.provide_spark_jars(say)
        environment = stack.environment()
        found.java_home = environment["PENSTOCK_JAVA_HOME"]
        found.spark_ivy_home = environment["PENSTOCK_SPARK_IVY_HOME"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--hot-rows", type=int, default=150_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--peer-runs", type=int, default=1)
    given = parser.parse_args(arguments)
    provide_java()
    compiled = plan(fifteen)
    rows = {EVEN: given.rows, HOT: given.hot_rows}
    tables = {EVEN: events(given.rows, given.keys)}
    tables[HOT] = with_hot_key(events(given.hot_rows, given.keys))

    ours: dict[str, dict[str, dict[str, Any]]] = {}
    frames: dict[str, dict[str, dict[str, Any]]] = {}

    def measure(spark: SparkSession, where: str, files: dict[str, str]) -> None:
        ours[where], frames[where] = {}, {}
        for name, path in files.items():
            say(f"timing Penstock, {name} keys, {where}")
            work = partial(by_penstock, spark, compiled, path)
            ours[where][name] = timed(lambda work=work: run(work()), given.runs)
        say(f"timing Spark's frames, {EVEN} keys, {where}")
        frames[where][EVEN] = timed(lambda: run(by_frames(spark, files[EVEN])), given.peer_runs)
        if where == OWN_JVM:
            say(f"timing Spark's frames, {HOT} keys, {where}")
            frames[where][HOT] = once(by_frames(spark, files[HOT]))

    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: write(table, Path(folder) / f"{at}.parquet")
            for at, (name, table) in enumerate(tables.items())
        }
        samples = {
            name: write(table.slice(0, SAMPLE_ROWS), Path(folder) / f"sample-{at}.parquet")
            for at, (name, table) in enumerate(tables.items())
        }
        say("starting Spark")
        with session("benchmark") as spark:
            say("comparing results")
            compared = {name: check(spark, compiled, path) for name, path in samples.items()}
            measure(spark, OUR_JVM, files)
        say("starting Spark with the JVM's own settings")
        larger = {"_SHORT_LIVED_JVM": OWN_OPTIONS, "DRIVER_MEMORY": OWN_MEMORY}
        with (
            mock.patch.multiple("features.spark", **larger),
            session("benchmark of the peer") as spark,
        ):
            run(by_frames(spark, samples[EVEN]))
            measure(spark, OWN_JVM, files)
    for name, where in product(files, ours):
        peers = {
            f"spark window frames, {there}": figures[name]
            | {
                "version": pyspark.__version__,
                "settings": f"{MASTER}, RANGE frames over named windows, to the noop sink",
            }
            for there, figures in frames.items()
            if name in figures
        }
        show(
            "spark",
            ours[where][name],
            peers,
            keys_are=name,
            session=where,
            rows=rows[name],
            keys=given.keys,
            features=len(compiled.columns),
            values_compared=compared[name],
        )


if __name__ == "__main__":
    main()

"""Polars' three ways to count and sum over rolling windows by group, with its lazy engine.

Keys are a categorical column before the clock starts, and a mean is the sum divided by the count,
which is faster than a rolling mean. `POLARS_MAX_THREADS` has to be 1 before the import.
"""

from __future__ import annotations

import json
import sys

import polars as pl

from benchmarks.report import say, timed

TIME, KEY = "time", "payer_id"


def rolling_over(paid: pl.LazyFrame, days: list[int]) -> pl.DataFrame:
    """`Expr.rolling`, which finds a window once for all that is asked of it, over the groups."""
    asked = {"count": pl.len(), "sum": pl.col("amount").sum()}
    columns = [
        expression.rolling(TIME, period=f"{d}d").over(KEY).alias(f"{name}_{d}")
        for d in days
        for name, expression in asked.items()
    ]
    return with_means(paid.with_columns(columns), days).collect()


def rolling_sum_by_over(paid: pl.LazyFrame, days: list[int]) -> pl.DataFrame:
    """`Expr.rolling_sum_by` over the groups; a count is a sum of ones."""
    asked = {"count": pl.col("one"), "sum": pl.col("amount")}
    columns = [
        expression.rolling_sum_by(TIME, window_size=f"{d}d").over(KEY).alias(f"{name}_{d}")
        for d in days
        for name, expression in asked.items()
    ]
    ones = paid.with_columns(one=pl.lit(1, pl.Int64))
    return with_means(ones.with_columns(columns), days).collect()


def frame_rolling(paid: pl.LazyFrame, days: list[int]) -> pl.DataFrame:
    """`LazyFrame.rolling(group_by=…)`, once a window; all collected together."""
    frames = [
        with_means(
            paid.rolling(TIME, period=f"{d}d", group_by=KEY).agg(
                pl.len().alias(f"count_{d}"), pl.col("amount").sum().alias(f"sum_{d}")
            ),
            [d],
        )
        for d in days
    ]
    first, *others = pl.collect_all(frames)
    # The groups come in the same order, so this only puts columns side by side.
    return pl.concat([first, *(o.drop(TIME, KEY) for o in others)], how="horizontal")


def with_means(frame: pl.LazyFrame, days: list[int]) -> pl.LazyFrame:
    means = [(pl.col(f"sum_{d}") / pl.col(f"count_{d}")).alias(f"mean_{d}") for d in days]
    return frame.with_columns(means)


WAYS = {
    "rolling().over()": rolling_over,
    "rolling_sum_by().over()": rolling_sum_by_over,
    "LazyFrame.rolling(group_by=)": frame_rolling,
}


def read(path: str) -> pl.DataFrame:
    return pl.read_ipc(path).select(
        pl.col(KEY).cast(pl.Categorical),
        "amount",
        pl.col("event_time_us").cast(pl.Datetime("us")).alias(TIME).set_sorted(),
    )


def main() -> None:
    asked = json.load(sys.stdin)
    assert pl.thread_pool_size() == 1
    days = asked["days"]
    paid, sample = read(asked["events"]).lazy(), read(asked["sample"]).lazy()
    ways = {}
    for number, (name, way) in enumerate(WAYS.items()):
        say(f"polars: {name}")
        result = f"{asked['sample']}.{number}"
        # Results as the files that the other side compares; no two events share a time.
        way(sample, days).drop(KEY).sort(TIME).write_ipc(result)
        ways[name] = timed(lambda way=way: way(paid, days), asked["runs"]) | {"result": result}
    json.dump({"version": pl.__version__, "ways": ways}, sys.stdout)


if __name__ == "__main__":
    main()

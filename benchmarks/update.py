"""One event into the windows: the fold against Faust's hopping-window tables in memory.

`python -m benchmarks.update` keeps count and mean over 1, 7 and 30 days by key. Faust has no
sliding windows; its documented way is a hopping table, here with 60 hops a window, one table for
counts and one for sums. Its changelog is switched off, so that only the tables are timed.
"""

from __future__ import annotations

import argparse
import operator
import time
from typing import Any

import faust

from benchmarks.backfill import BATCH_ROWS, events, penstock, plan
from benchmarks.report import show, timed
from features.vocabulary import Entity, FieldRef, count, days, mean

DAYS = (1, 7, 30)
HOPS = 60


def six(amount: FieldRef, payer: Entity) -> list[Any]:
    """Count and mean over three windows."""
    return [
        *(count(by=payer, over=days(d)) for d in DAYS),
        *(mean(amount, by=payer, over=days(d)) for d in DAYS),
    ]


def faust_tables() -> list[Any]:
    """A count and a sum for each window."""
    app = faust.App("bench", broker="kafka://127.0.0.1:9", store="memory://")
    made = []
    for d in DAYS:
        size_s = d * 86_400
        for what in ("count", "sum"):
            table = app.Table(f"{what}_{d}", default=int).hopping(size_s, size_s / HOPS).table
            table.on_key_set = lambda key, value: None
            made.append(table)
    return made


def by_faust(rows: list[dict[str, Any]]) -> list[float]:
    """What `table[key] += value` does, and then reading the newest window of each table."""
    tables = faust_tables()
    out = []
    for row in rows:
        at, key = row["event_time_us"] / 1e6, row["payer_id"]
        for table, value in zip(tables, (1, row["amount"]) * len(DAYS), strict=True):
            table._apply_window_op(operator.add, key, value, at)
            out.append(table._windowed_timestamp(key, at))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--keys", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-rows", type=int, default=300)
    given = parser.parse_args()
    compiled, table = plan(six), events(given.rows, given.keys)
    ours = timed(lambda: penstock(compiled, table), given.runs)
    rows = table.slice(0, given.peer_rows).to_pylist()
    began = time.perf_counter()
    theirs = timed(lambda: by_faust(rows), 3)
    for figures, n in ((ours, given.rows), (theirs, given.peer_rows)):
        for name in ("median_s", "min_s", "max_s"):
            figures[name.replace("_s", "_us_an_event")] = round(figures[name] / n * 1e6, 3)
            figures[name] = figures[name] / n
    peers = {
        "faust hopping tables": theirs
        | {
            "version": faust.__version__,
            "settings": f"memory store, {HOPS} hops a window, changelog off",
            "seconds": round(time.perf_counter() - began, 1),
        }
    }
    show("update", ours, peers, batch_rows=BATCH_ROWS, features=len(compiled.columns))


if __name__ == "__main__":
    main()

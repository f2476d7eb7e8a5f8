"""One event into the windows: the stream's fold against Faust's tables and Quix Streams' windows.

`python -m benchmarks.update` keeps count and mean over 1, 7 and 30 days by key, events in order of
time. Ours is the fold of a stage, from rows to rows with the six features, in batches. The peers
are given the events of some keys, so that their windows are as full as ours; each one's results are
compared before anything is timed.

Faust has no sliding windows; its documented way is a hopping table, here with 60 hops a window, in
memory, without a changelog. Quix Streams has sliding windows, which mean what ours do, and hopping
ones; both keep their state in RocksDB. Nothing of Kafka is timed, of the peers or of ours.
"""

from __future__ import annotations

import argparse
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import faust
import pyarrow as pa

from benchmarks import peer
from benchmarks.backfill import BATCH_ROWS, events, plan
from benchmarks.log import rows_of
from benchmarks.report import by_event, one_core, say, show, timed
from features.fold import Fold
from features.plan import Plan
from features.vocabulary import Entity, FieldRef, count, days, mean

DAYS = (1, 7, 30)
HOPS = 60
SMALL_BATCH_ROWS = 1_000

Row = tuple[str, int, int]
"""Key, event time in ms, amount."""
Found = list[tuple[float, float]]
"""Count and mean of each window."""


def six(amount: FieldRef, payer: Entity) -> list[Any]:
    """Count and mean over three windows."""
    return [
        *(count(by=payer, over=days(d)) for d in DAYS),
        *(mean(amount, by=payer, over=days(d)) for d in DAYS),
    ]


def batches(compiled: Plan, table: pa.Table, size: int) -> list[pa.RecordBatch]:
    """The log's envelopes."""
    return [rows_of(compiled, table.slice(at, size), at) for at in range(0, table.num_rows, size)]


def by_penstock(compiled: Plan, log: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """What a stage of the stream does with its log."""
    fold = Fold(compiled, 0)
    return [fold.fold(rows, partition=0, offset=offset) for offset, rows in enumerate(log)]


def faust_tables(default: Callable[[], Any], tables: int) -> list[Any]:
    """Hopping tables for each window."""
    app = faust.App("bench", broker="kafka://127.0.0.1:9", store="memory://")
    made = []
    for d in DAYS:
        size_s = d * 86_400
        for number in range(tables):
            name = f"days_{d}_{number}"
            table = app.Table(name, default=default).hopping(size_s, size_s / HOPS).table
            table.on_key_set = lambda key, value: None
            made.append(table)
    return made


def by_faust(rows: list[Row]) -> list[Found]:
    """A table of counts and one of sums for each window, each added to as `table[key] += value`.

    What is read is the oldest window that holds the event: the one that is nearly full.
    """
    tables = faust_tables(int, 2)
    back_s = [d * 86_400 * (1 - 1 / HOPS) for d in DAYS]
    out = []
    for key, at_ms, amount in rows:
        at = at_ms / 1e3
        found = []
        for counts, sums, back in zip(tables[::2], tables[1::2], back_s, strict=True):
            counts._apply_window_op(operator.add, key, 1, at)
            sums._apply_window_op(operator.add, key, amount, at)
            oldest = counts.window.current(at - back)
            held = counts._get_key((key, oldest))
            found.append((held, sums._get_key((key, oldest)) / held))
        out.append(found)
    return out


def by_faust_pairs(rows: list[Row]) -> list[Found]:
    """One table of (count, sum) for each window: half the writes."""
    tables = faust_tables(lambda: (0, 0), 1)
    back_s = [d * 86_400 * (1 - 1 / HOPS) for d in DAYS]

    def add(held: tuple[int, int], amount: int) -> tuple[int, int]:
        return held[0] + 1, held[1] + amount

    out = []
    for key, at_ms, amount in rows:
        at = at_ms / 1e3
        found = []
        for table, back in zip(tables, back_s, strict=True):
            table._apply_window_op(add, key, amount, at)
            held, total = table._get_key((key, table.window.current(at - back)))
            found.append((held, total / held))
        out.append(found)
    return out


FAUST = {
    "hopping tables of counts and of sums": by_faust,
    "hopping tables of (count, sum)": by_faust_pairs,
}


def hopping(rows: list[Row]) -> list[Found]:
    """What a hopping window means, by brute force: the oldest one that holds the event."""
    seen: dict[str, list[tuple[int, int]]] = defaultdict(list)
    out = []
    for key, at, amount in rows:
        seen[key].append((at, amount))
        found = []
        for d in DAYS:
            hop_ms = d * 86_400_000 // HOPS
            begin = (at // hop_ms - HOPS + 1) * hop_ms
            inside = [a for t, a in seen[key] if t >= begin]
            found.append((len(inside), sum(inside) / len(inside)))
        out.append(found)
    return out


def compare(found: Sequence[Any], expected: Sequence[Any]) -> int:
    """Counts have to be equal, means within 1e-12."""
    compared = 0
    for left, right in zip(found, expected, strict=True):
        for (held, mean_), (wanted, wanted_mean) in zip(left, right, strict=True):
            assert held == wanted, (left, right)
            assert abs(mean_ - wanted_mean) <= 1e-12 * wanted_mean, (left, right)
            compared += 2
    return compared


def quix_streams(rows: list[Row], expected: list[Found], runs: int) -> dict[str, dict[str, Any]]:
    """Both kinds of windows, sliding ones compared with ours, in their own environment."""
    request = {"rows": rows, "days": DAYS, "hops": HOPS, "runs": runs}
    answer = peer.ask("quixstreams_windows", request)
    version = answer.pop("version")
    wanted = {"sliding_window": expected, "hopping_window": hopping(rows)}
    for name, figures in answer.items():
        figures["values_compared"] = compare(figures.pop("results"), wanted[name])
        figures["version"] = version
        figures["settings"] = (
            f"{name}().agg(count=Count(), mean=Mean()).current(), one for each window, RocksDB "
            "and commits by the defaults, no changelog, composed as the application does it"
        )
    return answer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--keys", type=int, default=5_000)
    parser.add_argument("--peer-keys", type=int, default=8)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peer-runs", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["faust", "quixstreams"])
    given = parser.parse_args(arguments)
    cpu = one_core()
    compiled, table = plan(six), events(given.rows, given.keys)
    log = batches(compiled, table, BATCH_ROWS)
    some = {f"p{key}" for key in range(given.peer_keys)}
    folded = pa.Table.from_batches(by_penstock(compiled, log)).select(
        ["payer_id", "event_time_us", "amount", *compiled.column_names]
    )
    folded = folded.filter(pa.compute.is_in(folded["payer_id"], pa.array(sorted(some))))
    rows, expected = [], []
    for row in folded.to_pylist():
        rows.append((row["payer_id"], row["event_time_us"] // 1000, row["amount"]))
        expected.append([(row[f"payer_count_{d}d"], row[f"payer_amount_mean_{d}d"]) for d in DAYS])

    say("timing Penstock")
    ours = by_event(timed(lambda: by_penstock(compiled, log), given.runs), given.rows)
    small = batches(compiled, table, SMALL_BATCH_ROWS)
    ours_small = by_event(timed(lambda: by_penstock(compiled, small), given.runs), given.rows)
    peers: dict[str, dict[str, Any]] = {}
    if "faust" in given.peers:
        for name, way in FAUST.items():
            say(f"timing Faust, {name}")
            compared = compare(way(rows), hopping(rows))
            peers[f"faust, {name}"] = timed(lambda way=way: way(rows), given.peer_runs) | {
                "version": faust.__version__,
                "settings": f"memory store, {HOPS} hops a window, changelog off",
                "values_compared": compared,
            }
    if "quixstreams" in given.peers:
        found = quix_streams(rows, expected, given.peer_runs)
        peers |= {f"quixstreams, {name}": figures for name, figures in found.items()}
    for figures in peers.values():
        by_event(figures, len(rows))
    show(
        "update",
        ours,
        peers,
        features=len(compiled.columns),
        batch_rows=BATCH_ROWS,
        penstock_in_small_batches=ours_small | {"batch_rows": SMALL_BATCH_ROWS},
        cpu=cpu,
    )


if __name__ == "__main__":
    main()

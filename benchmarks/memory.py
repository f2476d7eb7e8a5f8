"""Memory of the windows' state: of a retained event, and of a key.

`python -m benchmarks.memory` folds events as a stage of the stream does, in a process of its own
for each figure, and looks at what the state's arrays hold and at how much the process has grown.

* Of an event: 1,000,000 events lie in a window of count and sum (two columns), of 1,000 keys; then
  the window slides on, with the snapshots that a stage makes every few seconds and without any.
  What is held beyond the window's events is not counted as events.
* Of a key: 1,000,000 keys with six windows and one event each.

Arrays have room to grow. So figures are given after the compaction that goes with a snapshot, after
the batches that are folded then (their median and the worst), and at the process's highest, which
includes the old matrix while a new one is written, and the snapshot's bytes while it is made.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.backfill import plan
from benchmarks.log import rows_of
from benchmarks.report import say
from features.fold import Fold
from features.plan import Plan
from features.vocabulary import Entity, FieldRef, count, seconds, sum

BATCH_ROWS = 10_000
KEYS_OF_EVENTS = 1_000
STEP_S = 1
SNAPSHOT_EVENTS = 100_000


def two_columns(retained: int) -> Plan:
    """An entry is its time and one running sum."""
    over = seconds(retained * STEP_S)

    def windows(amount: FieldRef, payer: Entity) -> list[Any]:
        return [count(by=payer, over=over), sum(amount, by=payer, over=over)]

    return plan(windows)


def six_windows(retained: int) -> Plan:
    """Two cursors for each; the longest holds every event."""

    def windows(amount: FieldRef, payer: Entity) -> list[Any]:
        longest = seconds(retained * STEP_S)
        return [sum(amount, by=payer, over=longest // part) for part in (1, 2, 4, 8, 16, 32)]

    return plan(windows)


def of_events(first: int, n: int) -> pa.Table:
    """Events of a few keys, one a second."""
    return events(first, n, np.arange(first, first + n) % KEYS_OF_EVENTS)


def of_keys(first: int, n: int) -> pa.Table:
    """Every event has a key of its own."""
    return events(first, n, np.arange(first, first + n))


def events(first: int, n: int, keys: Any) -> pa.Table:
    """Rows with keys of 13 bytes."""
    place = np.arange(first, first + n)
    return pa.table(
        {
            "event_id": [f"e{i}" for i in place.tolist()],
            "event_time_us": 1_767_225_600_000_000 + place * STEP_S * 1_000_000,
            "payer_id": [f"payer{key:08d}" for key in keys.tolist()],
            "amount": place % 100_000,
        }
    )


WHAT: dict[str, tuple[Callable[[int], Plan], Callable[[int, int], pa.Table]]] = {
    "event": (two_columns, of_events),
    "key": (six_windows, of_keys),
}


def resident() -> dict[str, int]:
    """Resident memory of this process, bytes, now and at its highest since `begin_peak`."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def begin_peak() -> None:
    """Forget the highest resident memory so far."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(what: str, retained: int) -> dict[str, Any]:
    """Bytes of an event or a key, by moment, in this process."""
    compile_windows, made = WHAT[what]
    compiled = compile_windows(retained)
    # Compiles the kernel, and lets Arrow and numpy allocate what they keep.
    warm = Fold(compiled, 0)
    for _ in folded(warm, made, 0, 2 * BATCH_ROWS):
        pass
    warm.snapshot()
    del warm
    before = resident()["VmRSS"]
    fold = Fold(compiled, 0)
    state = fold._state
    entry_bytes = state._layout.entry_bytes

    def bytes_now() -> dict[str, float]:
        # Where events are many keys are few, and where keys are many each has one event.
        other = state.bytes_by_key if what == "event" else retained * entry_bytes
        return {
            "arrays": (state.nbytes - other) / retained,
            "arrays_with_keys_and_events": state.nbytes / retained,
            "ids_to_find_duplicates": fold._seen.nbytes / retained,
        }

    def process(name: str = "VmRSS") -> float:
        return (resident()[name] - before) / retained

    found: dict[str, dict[str, float]] = {}
    begin_peak()
    growing = [bytes_now() for _ in folded(fold, made, 0, retained)]
    found["just filled"] = growing[-1] | {"process": process(), "process_peak": process("VmHWM")}
    # The ids that are let go of leave their room only the second time.
    fold.snapshot()
    begin_peak()
    fold.snapshot()
    found["after compaction"] = bytes_now() | {
        "process": process(),
        "process_peak_of_snapshot": process("VmHWM"),
    }
    first = retained
    for every in (SNAPSHOT_EVENTS, 0) if what == "event" else ():
        way = f"sliding, a snapshot every {every:,} events" if every else "sliding, no snapshots"
        begin_peak()
        moments = []
        for batch, _ in enumerate(folded(fold, made, first, 2 * retained), 1):
            moments.append(bytes_now())
            if every and batch * BATCH_ROWS % every == 0:
                fold.snapshot()
        first += 2 * retained
        found[way] = {
            f"{part}, {name}": choose(moment[part] for moment in moments)
            for part in moments[0]
            for name, choose in (("median", statistics.median), ("worst", max))
        } | {"process": process(), "process_peak": process("VmHWM")}
    return {
        "of": what,
        "events_in_window": retained,
        "keys": fold.keys,
        "columns": state._layout.columns,
        "windows": len(compiled.columns),
        "bytes": {
            moment: {part: round(value, 1) for part, value in parts.items()}
            for moment, parts in found.items()
        },
    }


def folded(
    fold: Fold, made: Callable[[int, int], pa.Table], first: int, events: int
) -> Iterator[None]:
    """Fold events batch after batch."""
    for at in range(first, first + events, BATCH_ROWS):
        rows = rows_of(fold.plan, made(at, min(BATCH_ROWS, first + events - at)), at)
        fold.fold(rows, partition=0, offset=at)
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--only", choices=sorted(WHAT), help="Measure in this process.")
    given = parser.parse_args(arguments)
    if given.only:
        print(json.dumps(measure(given.only, given.events)))
        return
    found = []
    for what, events in (("event", given.events), ("key", given.keys)):
        say(f"measuring memory of one {what} with {events:,}")
        own = [sys.executable, "-m", "benchmarks.memory", "--only", what, "--events", str(events)]
        answer = subprocess.run(own, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(answer.stdout))
    print(json.dumps({"benchmark": "memory", "batch_rows": BATCH_ROWS, "found": found}, indent=2))


if __name__ == "__main__":
    main()

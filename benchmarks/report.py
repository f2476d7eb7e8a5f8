"""What every benchmark prints: medians, spreads and ratios, as one JSON object.

Progress goes to standard error. Only the standard library is used: peers in environments of their
own time themselves with the same functions.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def say(line: str) -> None:
    """Tell who waits what is done now."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def one_core() -> int:
    """Stay on one CPU from now on, with every process that is started from here; returns which."""
    # The first one also serves a machine's interrupts.
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu


def timed(work: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of `repeats` runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return spread(seconds)


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """What is said of the seconds of several runs."""
    return {
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "max_s": round(max(seconds), 4),
        "runs": len(seconds),
    }


def by_event(figures: dict[str, Any], events: int) -> dict[str, Any]:
    """Figures of a run over some events as those of one event."""
    for name in ("median", "min", "max"):
        figures[f"{name}_s"] /= events
        figures[f"{name}_us_an_event"] = round(figures[f"{name}_s"] * 1e6, 3)
    figures["events"] = events
    return figures


def show(name: str, ours: dict[str, Any], peers: dict[str, dict[str, Any]], **about: Any) -> None:
    """Print one benchmark; each peer's ratio is its median over ours."""
    for peer in peers.values():
        peer["times_slower"] = round(peer["median_s"] / ours["median_s"], 2)
    told = {"benchmark": name, **about, "load_average": round(os.getloadavg()[0], 2)}
    print(json.dumps({**told, "penstock": ours, "peers": peers}, indent=2), flush=True)

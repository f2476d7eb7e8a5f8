"""What every benchmark prints: medians, spreads and ratios, as one JSON object."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any


def timed(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds of `repeats` runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "max_s": round(max(seconds), 4),
        "runs": repeats,
    }


def show(name: str, ours: dict[str, float], peers: dict[str, dict[str, Any]], **about: Any) -> None:
    """Print one benchmark; each peer's ratio is its median over ours."""
    for peer in peers.values():
        peer["times_slower"] = round(peer["median_s"] / ours["median_s"], 1)
    print(json.dumps({"benchmark": name, **about, "penstock": ours, "peers": peers}, indent=2))

"""A long run on a scaled clock that passes three of the longest windows: does anything grow?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.report import say
from benchmarks.stream.open_loop import chain, loop
from benchmarks.stream.payments import DAY_US
from benchmarks.stream.stack import use
from penstock.stack.stack import Stack
from streaming.topics import ensure

WINDOWS = 3
LONGEST_DAYS = 30
WARM = 0.45
"""Share of the run after which the longest window is full and events leave it."""

SAMPLE_S = 5.0
CUSTOMERS, TERMINALS = 20_000, 10_000
LAGGED = ("ingest", "stages", "scorer")


def soak(stack: Stack, name: str, rate: int, minutes: float) -> dict[str, Any]:
    """Memory and lag of every service, sampled while payments arrive at a steady rate."""
    plan = use(stack, name)
    ensure(plan)
    span_us = WINDOWS * LONGEST_DAYS * DAY_US
    event_begin_us = time.time_ns() // 1000 - span_us - DAY_US
    samples: list[tuple[float, dict[str, float], dict[str, float]]] = []
    with chain(stack, plan) as running:
        say(f"{name}: {rate:,} events/s for {minutes:g} minutes")

        def sample(elapsed_s: float) -> None:
            if not samples or elapsed_s - samples[-1][0] >= SAMPLE_S:
                lags = {n: running.metric(n, "penstock_consumer_lag_messages") for n in LAGGED}
                samples.append((elapsed_s, running.rss_mib(), lags))

        options = {
            "rate": rate,
            "seconds": minutes * 60,
            "customers": CUSTOMERS,
            "terminals": TERMINALS,
            "scale": span_us / 1e6 / (minutes * 60),
            "event_begin_us": event_begin_us,
        }
        _, said = loop(plan.event_topic, plan.scored_topic, options, sample)
    warm = [each for each in samples if each[0] >= WARM * samples[-1][0]]
    at_s = np.array([each[0] for each in warm])
    memory = {n: line(at_s, [rss[n] for _, rss, _ in warm]) for n in warm[0][1]}
    for each in memory.values():
        each["growth_percent"] = round(100 * (each["end"] / each["begin"] - 1), 2)
    lag = {n: line(at_s, [lags[n] for _, _, lags in warm]) for n in LAGGED}
    step = max(1, len(samples) // 20)
    return {
        "rate": rate,
        "minutes": minutes,
        "days": WINDOWS * LONGEST_DAYS,
        "rss_mib_after_warm_up": memory,
        "lag_messages_after_warm_up": lag,
        "rss_mib": [
            {"s": round(s), **{n: round(mib, 1) for n, mib in rss.items()}}
            for s, rss, _ in samples[::step]
        ],
        "wanted_growth_percent_at_most": 2,
        **said,
    }


def line(at_s: Any, values: list[float]) -> dict[str, float]:
    """A straight line through the samples: where it begins and ends; and their maximum."""
    slope, begin = np.polyfit(at_s - at_s[0], values, 1)
    return {
        "begin": round(float(begin), 1),
        "end": round(float(begin + slope * (at_s[-1] - at_s[0])), 1),
        "max": round(max(values), 1),
    }

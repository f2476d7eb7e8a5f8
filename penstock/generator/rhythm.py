"""When people pay: one weekly curve of intensity, from hours of the day and days of the week.

Arrivals are an inhomogeneous Poisson process. Its integrated intensity is piecewise linear, so
counts come from differences of it and times from its inverse, without rejection.
"""

import numpy as np
from numpy.typing import NDArray

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US

_BY_HOUR = np.array(
    [
        *(0.30, 0.20, 0.15, 0.12, 0.12, 0.18, 0.35, 0.70),
        *(1.00, 1.15, 1.30, 1.45, 1.60, 1.50, 1.35, 1.30),
        *(1.40, 1.60, 1.75, 1.65, 1.35, 1.00, 0.70, 0.45),
    ]
)
_BY_WEEKDAY = np.array([0.92, 0.95, 0.98, 1.02, 1.18, 1.20, 0.75])  # Monday first
_EPOCH_TO_MONDAY_US = 3 * DAY_US  # 1970-01-01 was a Thursday

_hourly = np.outer(_BY_WEEKDAY, _BY_HOUR).ravel()
_EDGES_US = np.arange(169, dtype=np.float64) * HOUR_US
_INTEGRAL = np.concatenate([[0.0], np.cumsum(_hourly)]) * (7.0 / _hourly.sum())
"""Integrated intensity in days of average traffic, 0 to 7 over one week from Monday 00:00 UTC."""


def average_days(at_us: int) -> float:
    """Traffic from the epoch's week to `at_us`, counted in days of average traffic."""
    weeks, within_us = divmod(at_us + _EPOCH_TO_MONDAY_US, WEEK_US)
    return 7.0 * weeks + float(np.interp(within_us, _EDGES_US, _INTEGRAL))


def times_between(uniforms: NDArray[np.float64], from_us: int, until_us: int) -> NDArray[np.int64]:
    """Place uniforms of [0, 1) in [from_us, until_us), dense where the curve is high."""
    low, high = average_days(from_us), average_days(until_us)
    weeks, within = np.divmod(low + uniforms * (high - low), 7.0)
    offset_us = np.interp(within, _INTEGRAL, _EDGES_US)
    at_us = weeks.astype(np.int64) * WEEK_US + offset_us.astype(np.int64) - _EPOCH_TO_MONDAY_US
    return np.clip(at_us, from_us, until_us - 1)

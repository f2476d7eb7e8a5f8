"""Durations as they are written in column names."""

from __future__ import annotations

DAY_US, HOUR_US, MINUTE_US, SECOND_US = 86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000


def duration_name(duration_us: int) -> str:
    """The short form used in column names: `7d`, `12h`, `30m`, `45s`."""
    for suffix, unit_us in (("d", DAY_US), ("h", HOUR_US), ("m", MINUTE_US), ("s", SECOND_US)):
        if duration_us % unit_us == 0:
            return f"{duration_us // unit_us}{suffix}"
    return f"{duration_us}us"

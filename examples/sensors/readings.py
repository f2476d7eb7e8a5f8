"""Prints readings of some sensors, or their calibrations, for `penstock produce`: a JSON line each.

Every sensor measures twice a minute. Some lines are sent twice, some come minutes after their
neighbours, and a few so much later that they are late. The last one was measured an hour ago.
All but every seventh sensor were calibrated before the first reading, and once more in between.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from datetime import UTC, datetime, timedelta

INTERVAL_S = 30
NIGHT_MC, DAY_MC, HOT_SITE_MC = 14_000, 24_000, 9_000


def arrivals(devices: int, hours: float, end: datetime, seed: int) -> list[tuple[float, str]]:
    """What is sent, as (seconds since the start, line), in the order it is sent."""
    draw = random.Random(seed)
    start = end - timedelta(hours=hours)
    sent: list[tuple[float, str]] = []
    for device in range(devices):
        site = device % 5
        offset_mc, voltage_mv = draw.gauss(0, 800), draw.randint(2_900, 3_600)
        at_s = draw.uniform(0, INTERVAL_S)
        while at_s < hours * 3600:
            moment = start + timedelta(seconds=at_s)
            sun = math.sin((moment.hour + moment.minute / 60 - 8) / 24 * math.tau)
            warmth_mc = NIGHT_MC + (DAY_MC - NIGHT_MC) * max(0.0, sun) + HOT_SITE_MC * (site == 0)
            reading = {
                "reading_id": f"d{device}-{at_s:.3f}",
                "measured_at": moment.isoformat(),
                "device_id": f"d{device}",
                "site_id": f"s{site}",
                "temperature_mc": round(warmth_mc + offset_mc + draw.gauss(0, 300)),
                "battery_mv": max(0, round(voltage_mv - at_s / 600)),
            }
            line = json.dumps(reading)
            fate = draw.random()
            delay_s = draw.uniform(60, 600) if fate < 0.05 else 3600.0 if fate < 0.06 else 0.0
            sent.append((at_s + delay_s, line))
            if draw.random() < 0.02:
                sent.append((at_s + delay_s + 1, line))
            at_s += max(1.0, draw.gauss(INTERVAL_S, 3))
    return sorted(sent)


def calibrations(devices: int, hours: float, end: datetime, seed: int) -> list[str]:
    """Two lines for each sensor that was calibrated, the newer one first."""
    draw = random.Random(seed)
    lines = []
    for device in range(devices):
        if device % 7 == 0:
            continue
        for hours_ago in (draw.uniform(0, hours), hours + 24):
            calibration = {
                "device_id": f"d{device}",
                "calibrated_at": (end - timedelta(hours=hours_ago)).isoformat(),
                "offset_mc": round(draw.gauss(0, 800)),
                "housing": draw.choice(["indoor", "outdoor"]),
            }
            lines.append(json.dumps(calibration))
    return lines


def main() -> None:
    """Print what arrives, in order."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--devices", type=int, default=50)
    options.add_argument("--hours", type=float, default=8.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--calibrations", action="store_true", help="instead of readings")
    options.add_argument(
        "--end",
        type=datetime.fromisoformat,
        default=datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1),
        help="time of the last reading, with an offset",
    )
    given = options.parse_args()
    asked = (given.devices, given.hours, given.end, given.seed)
    for line in (
        calibrations(*asked) if given.calibrations else [line for _, line in arrivals(*asked)]
    ):
        print(line)


if __name__ == "__main__":
    main()

"""What producers get wrong: broken records, and payments sent late, twice or out of order.

Every choice is a hash of the payment's number, so it does not depend on how a run is cut up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAULT_HEADER = "penstock-fault"
"""Header of a record that was broken on purpose: the reason it must be refused for."""

BROKEN_KINDS = (
    "unknown_field",
    "missing_field",
    "wrong_type",
    "out_of_range",
    "unknown_currency",
    "time_in_future",
    "oversize",
    "empty",
    "not_json",
    "invalid_utf8",
)

_OVERSIZE_BYTES = 66_000  # a raw record may have 64 KiB


@dataclass(frozen=True)
class Faults:
    """How often each fault happens; shares are of payments.

    One broken record, of each kind in turn, is added after every `broken_every` payments.
    """

    out_of_order: float = 0.013
    duplicate: float = 0.013
    late: float = 0.015
    broken_every: int = 64


NO_FAULTS = Faults(0.0, 0.0, 0.0, 0)


@dataclass(frozen=True, eq=False)
class SendTimes:
    """When payments are sent, in event time; `copy_us` is 0 where none is sent a second time."""

    send_us: NDArray[np.int64]
    copy_us: NDArray[np.int64]


def send_times(
    faults: Faults,
    seed: int,
    number: NDArray[np.int64],
    event_time_us: NDArray[np.int64],
    lateness_us: int,
) -> SendTimes:
    """Decide which payments are held back or sent twice.

    Held within the lateness a payment arrives behind later ones; held well beyond it, it is late
    as soon as a payment of its partition has come meanwhile. A copy never comes late.
    """
    lot = _uniform(number, seed, 1)
    wait = _uniform(number, seed, 2)
    late_below = faults.late
    held_below = late_below + faults.out_of_order
    twice_below = held_below + faults.duplicate
    is_late = lot < late_below
    is_held = ~is_late & (lot < held_below)
    is_twice = ~is_late & ~is_held & (lot < twice_below)
    within_us = ((0.25 + 0.6 * wait) * lateness_us).astype(np.int64)
    beyond_us = ((2.0 + 2.0 * wait) * lateness_us).astype(np.int64)
    delay_us = np.where(is_late, beyond_us, np.where(is_held, within_us, 0))
    return SendTimes(event_time_us + delay_us, np.where(is_twice, event_time_us + within_us, 0))


def broken(kind: str, record: dict[str, Any]) -> bytes:
    """The bytes of a payment record, broken in one of `BROKEN_KINDS`."""
    match kind:
        case "unknown_field":
            record = record | {"channel": "web"}
        case "missing_field":
            record = {name: value for name, value in record.items() if name != "terminal_id"}
        case "wrong_type":
            record = record | {"amount": record["amount"] | {"minor": "12.34"}}
        case "out_of_range":
            record = record | {"amount": record["amount"] | {"minor": -1234}}
        case "unknown_currency":
            record = record | {"amount": record["amount"] | {"currency": "XQX"}}
        case "time_in_future":
            record = record | {"event_time": "2199-01-01T00:00:00.000000Z"}
        case "oversize":
            record = record | {"terminal_id": "t" * _OVERSIZE_BYTES}
        case "empty":
            return b""
        case "not_json":
            return f"transaction_id={record['transaction_id']};amount=12.34".encode()
        case "invalid_utf8":
            return json.dumps(record).encode().replace(b'"EUR"', b'"\xff\xfe"')
        case _:
            raise ValueError(f"no way to break a record is called {kind!r}")
    return json.dumps(record, separators=(",", ":")).encode()


def _uniform(number: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.float64]:
    """A uniform of [0, 1) for each number (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = number.astype(np.uint64) + np.uint64((seed * 1_000_003 + stream) % 2**32 + 1)
        mixed = state * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return np.multiply((mixed >> np.uint64(11)).astype(np.float64), 2.0**-53)

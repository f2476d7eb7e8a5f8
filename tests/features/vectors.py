"""Finished rows with given vectors, for tests of the online store."""

import dataclasses
import struct
from typing import Any

import numpy as np
import pyarrow as pa

from features.catalog import load_plan
from tests.features.rows import batch

_WHOLE = load_plan("card_fraud")
PLAN = dataclasses.replace(
    _WHOLE,
    stages=tuple(dataclasses.replace(s, outputs=s.outputs[:6]) for s in _WHOLE.stages),
)
"""The flagship's plan with six columns a stage: enough to look at."""
CUSTOMER, TERMINAL = PLAN.stages
START_US = 1_700_000_000_000_000


def row(customer: str = "a", at_us: int = 0, seq: int = 0, value: float = 1.0, **more: Any) -> dict:
    """An event `at_us` after the start, at place `seq` of both logs; its columns hold `value`."""
    return {
        "event_time_us": START_US + at_us,
        "customer_id": customer,
        "terminal_id": "x",
        "customer_seq": seq,
        "terminal_seq": seq,
        **dict.fromkeys([*CUSTOMER.outputs, *TERMINAL.outputs], value),
    } | more


def rows(*given: dict) -> pa.RecordBatch:
    return batch(PLAN, given)


def bits(values: Any) -> list[str]:
    """Floats as hex, so that NaN equals itself and −0.0 differs from 0.0."""
    return [struct.pack(">d", value).hex() for value in np.asarray(values, float).ravel()]

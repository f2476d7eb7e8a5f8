"""What the scorer writes: one JSON record per scored event on the users' topic."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.plan import Plan


def records(
    plan: Plan,
    rows: pa.Table,
    scores: NDArray[np.float64],
    decisions: Sequence[str],
    model_version: str,
) -> Iterator[tuple[str, bytes]]:
    """(key, JSON) of each row; the key is the event's own, tokenised where the plan says so.

    `scores` [n] and `decisions` [n] belong to `rows` [n]. Times are RFC 3339 with microseconds.
    """
    times = rows.column("event_time_us").to_numpy().astype("datetime64[us]")
    scored, origin = _structs(plan.id_field, plan.time_field)
    found = [
        scored(event_id, f"{time}Z", score, decision, model_version, plan.fingerprint, at, broker)
        for event_id, time, score, decision, at, broker in zip(
            rows.column("event_id").to_pylist(),
            np.datetime_as_string(times, unit="us").tolist(),
            scores.tolist(),
            decisions,
            map(
                origin,
                rows.column("origin_partition").to_pylist(),
                rows.column("origin_offset").to_pylist(),
            ),
            rows.column("broker_time_us").to_pylist(),
            strict=True,
        )
    ]
    # No JSON value holds a bare newline.
    values = msgspec.json.Encoder().encode_lines(found).split(b"\n")
    return zip(rows.column(plan.key_field).to_pylist(), values, strict=False)


@functools.cache
def _structs(id_field: str, time_field: str) -> tuple[Any, Any]:
    """A record, and its origin."""
    origin = msgspec.defstruct("Origin", [("partition", int), ("offset", int)], gc=False)
    scored = msgspec.defstruct(
        "Scored",
        [
            (id_field, str),
            (time_field, str),
            ("score", float),
            ("decision", str),
            ("model_version", str),
            ("fingerprint", str),
            ("origin", origin),
            ("broker_time_us", int),
        ],
        gc=False,
    )
    return scored, origin

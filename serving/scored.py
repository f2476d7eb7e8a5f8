"""What the scorer writes: one JSON record per scored event on the users' topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    encoder = msgspec.json.Encoder()
    times = rows.column("event_time_us").to_numpy().astype("datetime64[us]")
    for event_id, key, time, score, decision, partition, offset, broker_time_us in zip(
        rows.column("event_id").to_pylist(),
        rows.column(plan.key_field).to_pylist(),
        np.datetime_as_string(times, unit="us").tolist(),
        scores.tolist(),
        decisions,
        rows.column("origin_partition").to_pylist(),
        rows.column("origin_offset").to_pylist(),
        rows.column("broker_time_us").to_pylist(),
        strict=True,
    ):
        yield (
            key,
            encoder.encode(
                {
                    plan.id_field: event_id,
                    plan.time_field: f"{time}Z",
                    "score": score,
                    "decision": decision,
                    "model_version": model_version,
                    "fingerprint": plan.fingerprint,
                    "origin": {"partition": partition, "offset": offset},
                    "broker_time_us": broker_time_us,
                }
            ),
        )

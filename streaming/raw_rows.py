"""Turns judged raw records into Arrow rows, a column at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from features.coding import derived_columns
from features.plan import Plan
from features.wire import ROW_BITS, row_schema

RawRow = tuple[Any, ...]
"""(raw partition, offset, watermark µs, broker time µs, event id, event time µs, fields …)."""


class RawRows:
    """Builds batches of one raw topic.

    Args:
        plan: the compiled feature set.
        kind: `KIND_EVENT`, `KIND_LABEL` or `KIND_REFERENCE`.
        log: `LOG_EVENTS`, `LOG_LABELS`, or that of the reference.
        fields: columns of what follows the event time in a `RawRow`.
    """

    def __init__(self, plan: Plan, kind: int, log: int, fields: tuple[str, ...]) -> None:
        self._schema = row_schema(plan)
        self._kind = kind
        self._log = log
        self._fields = fields
        self._keys = plan.derived_keys(fields)
        self._label = plan.label.field if plan.label else ""

    def batch(self, rows: list[RawRow], verdict: int) -> pa.RecordBatch:
        """Rows of `row_schema(plan)`; columns of the stages are null."""
        n = len(rows)
        partitions, offsets, watermarks, broker_times, ids, times, *fields = zip(*rows, strict=True)
        offset = np.array(offsets, np.int64)
        columns: dict[str, Any] = {
            "kind": np.full(n, self._kind, np.int8),
            "verdict": np.full(n, verdict, np.int8),
            "origin_log": np.full(n, self._log, np.int8),
            "origin_partition": np.array(partitions, np.int32),
            "origin_offset": offset,
            "position_log": np.full(n, self._log, np.int8),
            "position_partition": np.array(partitions, np.int32),
            # One record is one row, so a row's place in the raw log is row 0 of its offset.
            "position_seq": offset << ROW_BITS,
            "watermark_us": np.array(watermarks, np.int64),
            "broker_time_us": np.array(broker_times, np.int64),
            "event_id": ids,
            "event_time_us": np.array(times, np.int64),
            **dict(zip(self._fields, fields, strict=True)),
        }
        if self._label in columns:
            columns[self._label] = np.array(columns[self._label], np.int8)
        arrays = {
            field.name: pa.array(columns[field.name], field.type)
            for field in self._schema
            if field.name in columns
        }
        arrays |= derived_columns(self._keys, arrays)
        return pa.RecordBatch.from_arrays(
            [
                arrays[field.name] if field.name in arrays else pa.nulls(n, field.type)
                for field in self._schema
            ],
            schema=self._schema,
        )

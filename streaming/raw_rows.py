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
        # A schema makes new objects of its fields whenever it is asked.
        self._types = [(field.name, field.type) for field in self._schema]
        self._kind = kind
        self._log = log
        self._fields = fields
        self._keys = plan.derived_keys(fields)
        self._lacking = {type_ for _, type_ in self._types}
        self._numbers = [
            (name, type_.to_pandas_dtype())
            for name, type_ in self._types
            if name in fields and (pa.types.is_integer(type_) or pa.types.is_floating(type_))
        ]

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
        for name, type_ in self._numbers:
            # Arrow takes numbers from numpy ten times as fast as from Python.
            columns[name] = np.array(columns[name], type_)
        arrays = {
            name: pa.array(columns[name], type_) for name, type_ in self._types if name in columns
        }
        arrays |= derived_columns(self._keys, arrays)
        nulls = {type_: pa.nulls(n, type_) for type_ in self._lacking}
        return pa.RecordBatch.from_arrays(
            [arrays[name] if name in arrays else nulls[type_] for name, type_ in self._types],
            schema=self._schema,
        )

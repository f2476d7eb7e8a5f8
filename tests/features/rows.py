"""Builds rows as ingest would, for tests of everything behind the door."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from features.coding import derived_columns
from features.plan import Plan
from features.wire import row_schema


def batch(plan: Plan, rows: Iterable[dict[str, Any]]) -> pa.RecordBatch:
    """Rows of `row_schema(plan)`; what a row leaves out is null, or 0 where null has no meaning."""
    defaults = {
        "kind": 0,
        "verdict": 0,
        "origin_log": 0,
        "origin_partition": 0,
        "origin_offset": 0,
        "position_log": 0,
        "position_partition": 0,
        "position_seq": 0,
        "watermark_us": 0,
        "broker_time_us": 0,
    }
    schema = row_schema(plan)
    complete = [dict.fromkeys(schema.names) | defaults | row for row in rows]
    made = pa.RecordBatch.from_pylist(complete, schema=schema)
    columns = dict(zip(schema.names, made.columns, strict=True))
    columns |= derived_columns(plan.derived_keys(plan.field_names), columns)
    return pa.RecordBatch.from_pydict(columns, schema=schema)

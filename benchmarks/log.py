"""Events as the rows of a stage's log, for the fold that the stream runs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.plan import Plan
from features.wire import row_schema


def rows_of(plan: Plan, table: pa.Table, first: int = 0) -> pa.RecordBatch:
    """Rows in the table's order, from every raw partition in turn; `first` is the place of one."""
    n = table.num_rows
    place = np.arange(first, first + n)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    columns |= dict.fromkeys(
        ("kind", "verdict", "origin_log", "position_log"), np.zeros(n, np.int64)
    )
    columns |= dict.fromkeys(("origin_partition", "position_partition"), place % plan.partitions)
    columns |= dict.fromkeys(("origin_offset", "position_seq"), place)
    columns |= dict.fromkeys(("watermark_us", "broker_time_us"), columns["event_time_us"])
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[field.name]).cast(field.type)
            if field.name in columns
            else pa.nulls(n, field.type)
            for field in row_schema(plan)
        ],
        schema=row_schema(plan),
    )

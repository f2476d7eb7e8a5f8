"""Whether the stream and the backfill computed the same numbers, bit for bit.

Logged vectors (`lake.features`, written as they were scored) are joined with the Spark backfill
(`feature_candidate`, computed from `lake.events` and `lake.labels` alone) by the origin of each
event, and compared as the 64 bits they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import lake
from features.plan import Plan

EXAMPLES = 5
ORIGIN = ["origin_partition", "origin_offset"]


def measure(plan: Plan, table: str = "feature_candidate") -> dict[str, Any]:
    """Compare the logged vectors with a backfill.

    Args:
        plan: the feature set.
        table: the backfill's table.

    Returns:
        `rows` compared; `mismatches`, the rows that differ in any column or are in one table
        only; `missing_in_backfill` and `missing_in_stream` of them; `columns`, mismatches by
        column; `examples`, a few of them; `conditions`, how many events of the stream came out of
        order, twice, late, or had their label changed after it was known.
    """
    logged = _live(lake.read("features"))
    again = _live(lake.read(table))
    joined = logged.join(again, ORIGIN, join_type="inner", right_suffix=" again")
    wrong = np.zeros(joined.num_rows, np.bool_)
    by_column: dict[str, int] = {}
    examples: list[dict[str, Any]] = []
    for name in plan.column_names:
        stream = joined[name].to_numpy()
        backfill = joined[f"{name} again"].to_numpy()
        # −0.0 and 0.0 are different bits, and a NaN equals the same NaN.
        differs = stream.view(np.int64) != backfill.view(np.int64)
        wrong |= differs
        if differs.any():
            by_column[name] = int(differs.sum())
        for row in np.flatnonzero(differs)[: EXAMPLES - len(examples)]:
            examples.append(
                {
                    "event_id": joined["event_id"][int(row)].as_py(),
                    "column": name,
                    "stream": float(stream[row]),
                    "backfill": float(backfill[row]),
                }
            )
    only_logged = logged.num_rows - joined.num_rows
    only_again = again.num_rows - joined.num_rows
    return {
        "rows": joined.num_rows,
        "mismatches": int(wrong.sum()) + only_logged + only_again,
        "missing_in_backfill": only_logged,
        "missing_in_stream": only_again,
        "columns": by_column,
        "examples": examples,
        "conditions": conditions(plan),
    }


def conditions(plan: Plan) -> dict[str, int]:
    """How often the stream met what makes windows hard, counted in the lake."""
    events = _live(lake.read("events", [*ORIGIN, "event_id", "event_time", "verdict"]))
    verdicts = {
        row["values"]: row["counts"] for row in pc.value_counts(events["verdict"]).to_pylist()
    }
    return {
        "out_of_order": _out_of_order(events.filter(pc.equal(events["verdict"], "folded"))),
        "duplicate": verdicts.get("duplicate", 0),
        "late": verdicts.get("late", 0),
        "label_changed": _labels_changed(plan),
    }


def _live(table: pa.Table) -> pa.Table:
    """Rows that came through a topic."""
    return table.filter(pc.greater_equal(table["origin_partition"], 0))


def _out_of_order(events: pa.Table) -> int:
    """Events older than one before them in their raw partition."""
    ordered = events.sort_by([(name, "ascending") for name in ORIGIN])
    partition = ordered["origin_partition"].to_numpy()
    time_us = ordered["event_time"].cast(pa.int64()).to_numpy()
    found = 0
    for number in np.unique(partition):
        times = time_us[partition == number]
        found += int((times[1:] < np.maximum.accumulate(times)[:-1]).sum())
    return found


def _labels_changed(plan: Plan) -> int:
    """Events whose label said one thing and later another."""
    if plan.label is None:
        return 0
    labels = lake.read("labels", [*ORIGIN, "event_id", plan.label.field])
    said = labels.group_by("event_id").aggregate(
        [(plan.label.field, "min"), (plan.label.field, "max"), ("origin_partition", "max")]
    )
    changed = pc.not_equal(said[f"{plan.label.field}_min"], said[f"{plan.label.field}_max"])
    live = pc.greater_equal(said["origin_partition_max"], 0)
    return int(pc.sum(pc.and_(changed, live)).as_py() or 0)

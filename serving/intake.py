"""What the scorer reads: envelopes of the features topic, and the mark of what it has scored.

A partition's mark is the highest `position_seq` among the rows of it that have been taken. Rows
that are not above it are repeats, left by a crash upstream, and are dropped. The mark travels as
the metadata of the committed offset, so offset, mark and scores change together or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from confluent_kafka import Message, TopicPartition

from features import wire
from features.errors import WireError
from features.plan import Plan

NOTHING_TAKEN = -1
"""The mark of a partition nothing has been taken from; positions begin at 0."""


def mark_of(committed: TopicPartition) -> int:
    """The mark stored with a committed offset.

    Raises:
        WireError: the metadata was not written by a scorer.
    """
    if committed.offset < 0 or not committed.metadata:
        return NOTHING_TAKEN
    try:
        return int(committed.metadata)
    except ValueError:
        raise WireError(
            f"the offset of {committed.topic}/{committed.partition} carries the metadata "
            f"{committed.metadata!r} instead of a mark; another program commits for this group"
        ) from None


@dataclass(frozen=True)
class Batch:
    """Messages taken together: the rows to score, and what to commit with their scores."""

    rows: pa.Table
    offsets: list[TopicPartition]
    marks: dict[int, int]
    skipped: dict[str, int]


def take(plan: Plan, messages: Sequence[Message], marks: dict[int, int]) -> Batch:
    """Decodes messages and keeps the events that are to be scored.

    Args:
        plan: the plan that packed them.
        messages: of the features topic, each partition's in order, without errors.
        marks: by partition; left as they are.

    Raises:
        WireError: an envelope is damaged or was packed by another plan.
    """
    new_marks: dict[int, int] = {}
    next_offset: dict[int, int] = {}
    skipped = {"repeated": 0, "label": 0, "reference": 0, "duplicate": 0, "late": 0}
    parts: list[pa.RecordBatch] = []
    for message in messages:
        partition = message.partition()
        rows = wire.decode_record(plan, message)
        next_offset[partition] = message.offset() + 1
        mark = new_marks.get(partition, marks.get(partition, NOTHING_TAKEN))
        keep, new_marks[partition] = _events_above(rows, mark, skipped)
        if keep.all():
            parts.append(rows)
        elif keep.any():
            parts.append(rows.filter(pa.array(keep)))
    offsets = [
        TopicPartition(plan.features_topic, partition, offset, metadata=str(new_marks[partition]))
        for partition, offset in next_offset.items()
    ]
    table = pa.Table.from_batches(parts, wire.row_schema(plan))
    return Batch(table.combine_chunks(), offsets, new_marks, skipped)


def _events_above(
    rows: pa.RecordBatch, mark: int, skipped: dict[str, int]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], int]:
    """Which rows are to be scored, and the mark after them; counts the others."""
    if rows.num_rows == 0:
        return np.zeros(0, np.bool_), mark
    seq = rows.column("position_seq").to_numpy()
    # Rows of one upstream partition come in order, so each is a repeat of what came before it,
    # in this envelope or an earlier one, or higher than all of that.
    highest = np.maximum.accumulate(np.concatenate([[mark], seq]))
    new = seq > highest[:-1]
    kind = rows.column("kind").to_numpy()
    event = kind == wire.KIND_EVENT
    verdict = rows.column("verdict").to_numpy()
    skipped["repeated"] += int((~new).sum())
    skipped["label"] += int((new & (kind == wire.KIND_LABEL)).sum())
    skipped["reference"] += int((new & (kind == wire.KIND_REFERENCE)).sum())
    skipped["duplicate"] += int((new & event & (verdict == wire.DUPLICATE)).sum())
    skipped["late"] += int((new & event & (verdict == wire.LATE)).sum())
    return new & event & (verdict == wire.FOLDED), int(highest[-1])

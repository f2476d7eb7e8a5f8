"""How the stages learn of time where no event comes.

A stage lets go of what no upstream partition can still send. Two things would keep it waiting for
ever: a raw partition that gets no events, and a partition of its log that gets none of a raw
partition's rows. So ingest tells every partition of the first stage's log, now and then, how far
each raw partition is: a marker, a row without event or key. Each stage passes on to every partition
of the next log what it then knows itself; the last one does not.

A raw partition whose watermark no event has raised for a while is idle. Its watermark is raised to
the smallest one of the partitions that are not, whoever reads those: processes know each other's
partitions by what they commit. From then on what is older than that by more than the lateness is
late, as it would be had the partition seen an event of that time. The raise is no part of the raw
log, so it is made one:

1. It is committed with the partition's next offset before any record from there on is judged. A
   restart, or the partition's next owner, judges those records with the same watermark.
2. Only then is it told. The marker carries that offset, so that the log of the first stage tells
   with which watermark each record was judged: the highest of the events before it in its
   partition and of the markers up to its offset.
3. A marker's place is its stamp. One that is sent again, or by a process that another has replaced,
   tells nothing new and is dropped.
4. A raise is only made when everything up to that offset has been read, and records are only judged
   by a process that has just shown the broker that they are still its own (`Ingest`). So one that
   was stopped and comes back cannot judge by the watermark of before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from features.plan import Plan
from features.wire import FOLDED, KIND_MARKER, LOG_EVENTS, LOG_MARKERS, NEVER_US, row_schema

IDLE_S = 30.0
"""Longer than a producer pauses or a process takes to start again: what an idle partition gets
later on may be late, where it would not have been."""

TELL_EVERY_S = 5.0
"""State of a few seconds more is nothing beside windows; a marker is a row for each raw partition
in each partition of the first log."""

_RAISED = "raised"


@dataclass(frozen=True)
class Stamp:
    """How far a raw partition is, as the metadata of its committed offset tells it.

    Attributes:
        watermark_us: the highest event time it has seen, or was raised to.
        is_raised: no event has reached it.
        key_id: of the key that tokens are made under; empty where nothing is tokenised, and in
            commits of before it was noted.
    """

    watermark_us: int = NEVER_US
    is_raised: bool = False
    key_id: str = field(default="", compare=False)

    def __str__(self) -> str:
        words = [str(self.watermark_us), _RAISED if self.is_raised else "", self.key_id]
        return " ".join(filter(None, words))

    @classmethod
    def of(cls, metadata: str | None) -> Stamp:
        """Read the metadata of a commit; what was never committed has seen nothing."""
        watermark_us, *words = (metadata or str(NEVER_US)).split()
        key_ids = [word for word in words if word != _RAISED]
        return cls(int(watermark_us), _RAISED in words, "".join(key_ids))


class IdleWatch:
    """Which raw partitions are idle, as far as this process has watched them."""

    def __init__(self) -> None:
        self._stamps: dict[int, tuple[Stamp, float]] = {}
        self._offsets: dict[int, tuple[int, float]] = {}

    def look(self, stamps: dict[int, Stamp], now_s: float) -> tuple[set[int], int]:
        """The idle partitions, and the smallest watermark (µs) of the others.

        What is seen for the first time was active just now; where nothing is active, or none of it
        has seen an event, the watermark is `NEVER_US`.

        Args:
            stamps: of every partition.
            now_s: of a clock that only goes forward.
        """
        idle, active_us = set(), []
        for partition, stamp in stamps.items():
            before, since_s = self._stamps.get(partition, (None, now_s))
            if stamp != before and not stamp.is_raised:
                since_s = now_s
            self._stamps[partition] = (stamp, since_s)
            if now_s - since_s >= IDLE_S:
                idle.add(partition)
            elif stamp.watermark_us > NEVER_US and not stamp.is_raised:
                active_us.append(stamp.watermark_us)
        return idle, min(active_us, default=NEVER_US)

    def is_quiet(self, partition: int, offset: int, now_s: float) -> bool:
        """Nothing at all has been read of a partition for as long."""
        before, since_s = self._offsets.get(partition, (offset, now_s))
        if before != offset:
            since_s = now_s
        self._offsets[partition] = (offset, since_s)
        return now_s - since_s >= IDLE_S

    def forget(self, partition: int) -> None:
        """Watch a partition from now on: it has a new reader."""
        self._stamps.pop(partition, None)
        self._offsets.pop(partition, None)


def marker_rows(plan: Plan, told: list[tuple[int, int, int]]) -> pa.RecordBatch:
    """Rows of `row_schema(plan)` that tell how far raw partitions are.

    Args:
        told: (raw partition, its next offset, its watermark in µs).
    """
    schema = row_schema(plan)
    n = len(told)
    partitions, offsets, watermarks = np.array(told, np.int64).reshape(n, 3).T
    columns: dict[str, Any] = {
        "kind": np.full(n, KIND_MARKER),
        "verdict": np.full(n, FOLDED),
        "origin_log": np.full(n, LOG_EVENTS),
        "origin_partition": partitions,
        "origin_offset": offsets,
        "position_log": np.full(n, LOG_MARKERS),
        "position_partition": partitions,
        "position_seq": watermarks,
        "watermark_us": watermarks,
        "event_time_us": watermarks,
    }
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(n, f.type)
            for f in schema
        ],
        schema=schema,
    )

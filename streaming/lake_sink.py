"""Writes events, labels, references, logged features, dead letters and scores to Delta, each once.

What has been read is kept nowhere but in the tables: every commit carries, as Delta application
transactions, the next offset of each partition (`<topic>.<partition>`) and the highest position
taken from it (`mark.<topic>.<partition>`). A restart reads on from there. The offset drops what
this sink has written before; the mark drops what a crash upstream has written to the topic twice.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, Message, TopicPartition

from features import lake
from features.catalog import load_plan
from features.failpoints import failpoint
from features.plan import Plan
from features.positions import reading_from
from features.settings import settings
from features.wire import dead_letter_topic, decode_record, late_topic
from monitoring import metrics
from streaming import lake_rows
from streaming.broker import (
    bounds,
    consumer_settings,
    end_process,
    show_lag,
    unreadable,
    wait_for_topics,
    watch_topics,
)
from streaming.service import run_service

log = logging.getLogger(__name__)

COMMIT_EVERY_S = 2.0
"""Each commit is a file per table and date; analysts wait this long for a row."""

COMMIT_ROWS = 20_000

_MEND = (
    "the lake lacks what it held: set PENSTOCK_LAKE_URI to another folder to begin a lake with "
    "what the topics still hold, or restore the tables' backup"
)

Source = tuple[str, int]
"""(topic, partition)."""


@dataclass
class TableFeed:
    """One table: which topics feed it, how, and how far each has come.

    `rows` turns what is fresh of one partition into rows of the table. Messages of a `packed` topic
    are envelopes. `position` tells a message's place among those that may be repeated.
    """

    table: str
    topics: tuple[str, ...]
    rows: Callable[[Plan, Any], pa.Table]
    packed: bool = False
    position: Callable[[Message], int] | None = None
    next_offset: dict[Source, int] = field(default_factory=dict)
    mark: dict[Source, int] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)

    def load(self, sources: Sequence[Source]) -> None:
        """Read from the table how far it has come."""
        handle = lake.open_table(self.table)
        for topic, partition in sources:
            if topic in self.topics:
                app = f"{topic}.{partition}"
                done = handle.transaction_version(app) if handle else None
                mark = handle.transaction_version(f"mark.{app}") if handle else None
                self.next_offset[topic, partition] = 0 if done is None else int(done)
                self.mark[topic, partition] = -1 if mark is None else int(mark)
                self.committed |= self._versions((topic, partition))

    def moved(self, sources: Iterable[Source]) -> dict[str, int]:
        """Application versions of these sources that the table does not hold yet."""
        return {
            app: version
            for source in sources
            for app, version in self._versions(source).items()
            if version > self.committed.get(app, -1)
        }

    def _versions(self, source: Source) -> dict[str, int]:
        app = f"{source[0]}.{source[1]}"
        versions = {app: self.next_offset[source], f"mark.{app}": self.mark[source]}
        return {app: version for app, version in versions.items() if version >= 0}


def feeds(plan: Plan) -> list[TableFeed]:
    """Every table of a plan's lake that the stream fills."""
    finished, late = plan.features_topic, late_topic(plan.event_topic)
    letters = tuple(dead_letter_topic(topic) for topic in plan.raw_topics)
    found = [
        TableFeed("events", (finished, late), lake_rows.events, packed=True),
        TableFeed("features", (finished,), lake_rows.features, packed=True),
        TableFeed(
            "dead_letters", letters, lake_rows.dead_letters, position=lake_rows.letter_offset
        ),
        # Written by transactions: nothing in it is repeated.
        TableFeed("scores", (plan.scored_topic,), lake_rows.scores),
    ]
    if plan.label:
        found.append(TableFeed("labels", (finished,), lake_rows.labels, packed=True))
    for index, reference in enumerate(plan.references):
        versions = functools.partial(lake_rows.versions, index)
        found.append(TableFeed(reference.table, (finished,), versions, packed=True))
    return found


class LakeSink:
    """The loop from the topics to the lake.

    Args:
        plan: the compiled feature set.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._feeds = feeds(plan)
        topics = dict.fromkeys(topic for feed in self._feeds for topic in feed.topics)
        self._sources = [(topic, p) for topic in topics for p in range(plan.partitions)]
        self._consumer = Consumer(
            consumer_settings(
                f"penstock.{plan.name}.v{plan.version}.lake-sink",
                **{"isolation.level": "read_committed"},
            )
        )

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; what was read by then is still written."""
        for feed in self._feeds:
            feed.load(self._sources)
        self._consumer.assign(
            [
                TopicPartition(topic, partition, self._start((topic, partition)))
                for topic, partition in self._sources
            ]
        )
        while not stop.is_set():
            messages = self._read(stop)
            if messages:
                failpoint("lake.read_not_written")
                self.write(messages)
            show_lag(self._consumer)
        self._consumer.close()

    def write(self, messages: list[Message]) -> None:
        """Write messages, in the order they were read, to the tables they feed."""
        by_source: dict[Source, list[Message]] = defaultdict(list)
        for message in messages:
            by_source[message.topic(), message.partition()].append(message)
        unpacked = {
            source: self._unpack(found)
            for source, found in by_source.items()
            if any(feed.packed and source[0] in feed.topics for feed in self._feeds)
        }
        for feed in self._feeds:
            rows: list[pa.Table] = []
            read = [source for source in by_source if source[0] in feed.topics]
            for source in read:
                found = by_source[source]
                if feed.packed:
                    fresh = self._fresh_rows(feed, source, *unpacked[source])
                else:
                    fresh = self._fresh_messages(feed, source, found)
                if len(fresh):
                    rows.append(feed.rows(self._plan, fresh))
                last = found[-1].offset() + 1
                feed.next_offset[source] = max(feed.next_offset[source], last)
            self._commit(feed, rows, feed.moved(read))

    def _start(self, source: Source) -> int:
        """Where to read on: a lake without rows of a source begins with what its topic holds.

        A table that got no rows of a source does not say how far it has come; what another table
        says was read for it too.
        """
        stands = [f.next_offset[source] for f in self._feeds if source[0] in f.topics]
        low, high = bounds(self._consumer, TopicPartition(*source))
        furthest = max(stands)
        reading_from(*source, furthest or -1, low, high, _MEND)
        if furthest == 0 < low:
            log.warning("%s [%d] is read from offset %d on, the first it still holds", *source, low)
        return max(min(stands), low)

    def _read(self, stop: threading.Event) -> list[Message]:
        messages: list[Message] = []
        rows_bytes = 0
        until = time.monotonic() + COMMIT_EVERY_S
        # An envelope's rows are counted by its size: about 200 bytes each.
        while rows_bytes < COMMIT_ROWS * 200 and not stop.is_set():
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            first = self._consumer.poll(min(left_s, 0.25))
            if first is None:
                continue
            for message in (first, *self._consumer.consume(500, 0)):
                if message.error() is not None:
                    end_process(unreadable(self._consumer, message, _MEND))
                rows_bytes += len(message.value() or b"")
                messages.append(message)
        return messages

    def _unpack(self, messages: list[Message]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The rows of one partition's envelopes, and the offset each came with."""
        batches = [decode_record(self._plan, message) for message in messages]
        offsets = [message.offset() for message in messages]
        sizes = [batch.num_rows for batch in batches]
        return pa.Table.from_batches(batches), np.repeat(np.array(offsets, np.int64), sizes)

    def _fresh_rows(
        self, feed: TableFeed, source: Source, rows: pa.Table, offsets: npt.NDArray[np.int64]
    ) -> pa.Table:
        positions = rows.column("position_seq").to_numpy()
        return rows.filter(pa.array(self._fresh(feed, source, offsets, positions)))

    def _fresh_messages(
        self, feed: TableFeed, source: Source, messages: list[Message]
    ) -> list[Message]:
        offsets = np.array([message.offset() for message in messages], np.int64)
        position = feed.position or Message.offset
        positions = np.array([position(message) for message in messages], np.int64)
        fresh = self._fresh(feed, source, offsets, positions)
        return [message for message, new in zip(messages, fresh, strict=True) if new]

    def _fresh(
        self,
        feed: TableFeed,
        source: Source,
        offsets: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """What the table does not hold yet; moves the source's mark."""
        unread = offsets >= feed.next_offset[source]
        before = np.concatenate(([feed.mark[source]], positions[:-1]))
        fresh: npt.NDArray[np.bool_] = unread & (positions > np.maximum.accumulate(before))
        if positions.size:
            feed.mark[source] = max(feed.mark[source], int(positions.max()))
        return fresh

    def _commit(self, feed: TableFeed, parts: list[pa.Table], moved: dict[str, int]) -> None:
        rows = pa.concat_tables(parts) if parts else None
        if rows is None or rows.num_rows == 0:
            return
        started = time.perf_counter()
        lake.append(feed.table, rows, moved)
        failpoint("lake.table_not_the_next")
        feed.committed |= moved
        table = feed.table
        metrics.LAKE_COMMIT_SECONDS.labels(table).observe(time.perf_counter() - started)
        metrics.LAKE_ROWS.labels(table).inc(rows.num_rows)
        metrics.LAKE_COMMITS.labels(table).inc()
        if "broker_time" in rows.schema.names:
            oldest = pc.min(rows.column("broker_time")).as_py()
            metrics.LAKE_DELAY_SECONDS.labels(table).set(time.time() - oldest.timestamp())


def serve(plan: Plan) -> None:
    """Run the lake sink of a plan until SIGTERM."""

    def work(stop: threading.Event) -> None:
        topics = [topic for feed in feeds(plan) for topic in feed.topics]
        wait_for_topics(topics, stop)
        if not stop.is_set():
            watch_topics(dict.fromkeys(topics, plan.partitions), stop)
            LakeSink(plan).run(stop)

    run_service("lake-sink", work)


def main() -> None:
    """`penstock run lake-sink`."""
    serve(load_plan(settings().feature_set))


if __name__ == "__main__":
    main()

"""Keeps the online store's newest vector of every entity, from the features topic.

It is a consumer of its own: however slow the online store is, scores do not wait for it. Offsets
are committed after the write, and a vector that is written again changes nothing, nor does one
that another sink has overtaken. It holds the newest vectors and no history, so what retention has
taken before it was read is said in the log and passed over.
"""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from features.catalog import load_plan
from features.errors import ServiceUnavailableError
from features.failpoints import failpoint
from features.online import OnlineStore
from features.plan import Plan
from features.settings import settings
from features.wire import FOLDED, KIND_EVENT, decode_record
from monitoring import metrics
from streaming.broker import (
    commits,
    consumer_settings,
    end_process,
    show_lag,
    unreadable,
    wait_for_topics,
    watch_topics,
)
from streaming.service import run_service

log = logging.getLogger(__name__)

MAX_MESSAGES = 500
GATHER_S = 0.2
"""A batch costs a round trip of Redis per view and a commit of offsets, and of a busy key it writes
one vector: few large batches keep the promised freshness at a fraction of the cost."""

_LONGEST_WAIT_S = 15.0


class OnlineStoreSink:
    """The loop from the features topic to the online store.

    Args:
        plan: the compiled feature set.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._store = OnlineStore(plan)
        target = metrics.ONLINE_FRESHNESS_TARGET_SECONDS.labels(plan.name)
        target.set(plan.freshness_us / 1e6)
        self._consumer = Consumer(
            consumer_settings(
                f"penstock.{plan.name}.v{plan.version}.online-store",
                **{"auto.offset.reset": "earliest"},
            )
        )
        self._next_offsets: dict[int, int] = {}

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        self._consumer.subscribe([self._plan.features_topic], on_assign=self._take_over)
        while not stop.is_set():
            first = self._consumer.poll(0.25)
            if first is not None:
                more = self._consumer.consume(MAX_MESSAGES, GATHER_S)
                self._take([first, *more], stop)
        self._consumer.close()
        self._store.close()

    def _take_over(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = commits(consumer, partitions)
        self._next_offsets = {at.partition: max(0, at.offset) for at in committed}

    def _take(self, messages: list[Message], stop: threading.Event) -> None:
        batches = []
        for message in messages:
            if message.error() is not None:
                end_process(unreadable(self._consumer, message, "start this process again"))
            self._say_jump(message)
            batches.append(decode_record(self._plan, message))
        failpoint("online.read_not_written")
        if not self._write(pa.Table.from_batches(batches), stop):
            return
        failpoint("online.written_not_committed")
        try:
            self._consumer.commit(offsets=_after(messages), asynchronous=False)
        except KafkaException as error:
            log.warning(
                "offsets not committed: %s; the rows are written again", error.args[0].str()
            )
        show_lag(self._consumer)

    def _say_jump(self, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        expected = self._next_offsets.get(partition, offset)
        if offset != expected:
            log.warning(
                "%s [%d] goes on at offset %d instead of %d: retention has passed what was not "
                "read, or the topic was created again; vectors that were only there come with "
                "their keys' next events",
                message.topic(),
                partition,
                offset,
                expected,
            )
        self._next_offsets[partition] = offset + 1

    def _write(self, rows: pa.Table, stop: threading.Event) -> bool:
        """Write until the online store has taken it; false when stopped before."""
        wait_s = 0.5
        while not stop.is_set():
            try:
                written = self._store.write(rows)
            except ServiceUnavailableError as error:
                log.warning("%s; next try in %.1f s", error, wait_s)
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            self._show(rows, written)
            return True
        return False

    def _show(self, rows: pa.Table, written: dict[str, int]) -> None:
        folded = pc.and_(pc.equal(rows["kind"], KIND_EVENT), pc.equal(rows["verdict"], FOLDED))
        seen_us = time.time_ns() // 1000
        for since, column in (("event", "event_time_us"), ("broker", "broker_time_us")):
            waited_us = seen_us - rows[column].filter(folded).to_numpy()
            for view in written:
                metrics.observe_all(
                    metrics.ONLINE_FRESHNESS_SECONDS.labels(view, since),
                    np.maximum(waited_us, 0) / 1e6,
                )
        for view, count in written.items():
            metrics.ONLINE_WRITES.labels(view).inc(count)


def _after(messages: list[Message]) -> list[TopicPartition]:
    """The offset after the last message of each partition."""
    last = {(m.topic(), m.partition()): m.offset() + 1 for m in messages}
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in last.items()]


def serve(plan: Plan) -> None:
    """Run the online-store sink of a plan until SIGTERM."""

    def work(stop: threading.Event) -> None:
        wait_for_topics([plan.features_topic], stop)
        if not stop.is_set():
            watch_topics({plan.features_topic: plan.partitions}, stop)
            OnlineStoreSink(plan).run(stop)

    run_service("online-store", work)


def main() -> None:
    """`penstock run online-store`."""
    serve(load_plan(settings().feature_set))

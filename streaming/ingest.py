"""Reads the raw topics and writes the stages' logs: the one door into Penstock.

It judges what only the raw log can tell: whether a record keeps its contract, lies in the future of
its broker time, or comes late. Each verdict is a function of the raw log, so a crash can only
repeat rows with the same values, which the first stage drops by their position. The running maximum
event time of a raw partition, which lateness is judged against, is kept in the metadata of the
partition's committed offset.
"""

from __future__ import annotations

import logging
import threading
import time
from operator import itemgetter

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from features.catalog import load_plan
from features.coding import composite_key
from features.contract import Contract
from features.errors import ContractError
from features.failpoints import failpoint
from features.plan import Plan
from features.settings import settings
from features.wire import (
    FOLDED,
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LATE,
    LOG_EVENTS,
    LOG_LABELS,
    LOG_REFERENCES,
    NEVER_US,
    DeadLetter,
    dead_letter_topic,
    late_topic,
    partition_of,
)
from monitoring import metrics
from streaming.broker import (
    GaplessProducer,
    consumer_settings,
    end_process,
    instance_id,
    show_lag,
    wait_for_topics,
)
from streaming.raw_rows import RawRow, RawRows
from streaming.service import run_service
from streaming.tokenise import Tokeniser
from streaming.topics import MAX_DEAD_LETTER_BYTES

log = logging.getLogger(__name__)

PACK_S = 0.006
"""How long records wait for company. Smaller envelopes cost each stage more than the wait saves."""

MAX_RECORDS = 1000
COMMIT_EVERY_S = 1.0
"""A crash repeats at most this much; a commit waits for every delivery before it."""


class Source:
    """One raw topic: its contract, where its rows go, and where its partitions stand.

    Args:
        plan: the compiled feature set.
        topic: its event topic, its label topic, or a reference's.
        tokeniser: replaces the fields that the plan says.
    """

    def __init__(self, plan: Plan, topic: str, tokeniser: Tokeniser) -> None:
        self.topic = topic
        self.is_event = topic == plan.event_topic
        self.contract = Contract(plan, topic)
        self._lateness_us = plan.lateness_us
        self._partitions = plan.partitions
        names = self.contract.names
        columns = names[2:]
        tokens = {field.name for field in plan.fields if field.token}
        kind, log, stage_index = KIND_EVENT, LOG_EVENTS, 0
        self._reference = plan.reference_on(topic)
        if self._reference is not None:
            index = plan.references.index(self._reference)
            kind, log, stage_index = KIND_REFERENCE, LOG_REFERENCES + index, self._reference.stage
            columns = (*self._reference.key_fields, *self._reference.columns)
            tokens &= set(self._reference.key_fields)
            tokens |= {field.name for field in self._reference.fields if field.token}
        elif not self.is_event:
            kind, log, stage_index = KIND_LABEL, LOG_LABELS, _label_stage(plan)
        stage = plan.stages[stage_index]
        self.target = stage.topic
        self._key = itemgetter(*map(names.index, stage.key_fields))
        self._token_indices = [i for i, name in enumerate(names) if name in tokens]
        self._token = tokeniser.token
        self.rows = RawRows(plan, kind, log, columns)
        self.watermarks_us: dict[int, int] = {}
        self.next_offsets: dict[int, int] = {}

    def judge(self, record: Message) -> tuple[RawRow, int]:
        """A record's row, and the partition of the target it belongs to; -1 when it is late.

        Lateness and the future are judged of events and labels; a version of a reference may hold
        from any time on.

        Raises:
            ContractError: the record is refused.
        """
        values = self.contract.read(record.value())
        broker_time_us = record.timestamp()[1] * 1000
        partition = record.partition()
        late, watermark_us = False, NEVER_US
        if self._reference is None:
            time_us = values[1]
            self.contract.check_not_future(time_us, broker_time_us)
            watermark_us = self.watermarks_us.get(partition, NEVER_US)
            late = self.is_event and time_us < watermark_us - self._lateness_us
            if time_us > watermark_us:
                watermark_us = self.watermarks_us[partition] = time_us
        if self._token_indices:
            replaced = list(values)
            for index in self._token_indices:
                replaced[index] = self._token(replaced[index])
            values = tuple(replaced)
        stamps = (partition, record.offset(), watermark_us, broker_time_us)
        if late:
            return (*stamps, *values), -1
        key = self._key(values)
        if isinstance(key, tuple):
            key = composite_key(key)
        if self._reference is not None:
            # Its key is what a version is known by.
            at = len(self._reference.key_fields)
            values = (key, values[at], *values[:at], *values[at + 1 :])
        return (*stamps, *values), partition_of(key, self._partitions)


class Ingest:
    """The loop from the raw topics to the stages' logs.

    Args:
        plan: the compiled feature set.
        tokeniser: under the chain's key.
    """

    def __init__(self, plan: Plan, tokeniser: Tokeniser) -> None:
        self._plan = plan
        self._sources = {topic: Source(plan, topic, tokeniser) for topic in plan.raw_topics}
        self._producer = GaplessProducer()
        self._consumer = Consumer(
            consumer_settings(
                f"penstock.{plan.name}.v{plan.version}.ingest",
                **{"group.instance.id": instance_id()},
            )
        )
        self._moved: set[tuple[str, int]] = set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then commit what is done."""
        self._consumer.subscribe(
            list(self._sources),
            on_assign=self._take_over,
            on_revoke=self._give_up,
            on_lost=self._forget,
        )
        committed_at = time.monotonic()
        while not stop.is_set():
            records = self._read()
            if records:
                self._handle(records)
                failpoint("ingest.sent_not_flushed")
            self._producer.poll()
            if time.monotonic() - committed_at > COMMIT_EVERY_S:
                self._commit()
                show_lag(self._consumer)
                committed_at = time.monotonic()
        self._commit()
        self._consumer.close()

    def _read(self) -> list[Message]:
        first = self._consumer.poll(0.1)
        if first is None:
            return []
        records = [first]
        until = time.monotonic() + PACK_S
        while len(records) < MAX_RECORDS:
            records += self._consumer.consume(MAX_RECORDS - len(records), 0)
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            more = self._consumer.poll(left_s)
            if more is not None:
                records.append(more)
        return records

    def _handle(self, records: list[Message]) -> None:
        outcomes = {topic: [0, 0, 0] for topic in self._sources}
        accepted: dict[tuple[str, int], list[RawRow]] = {}
        late: dict[int, list[RawRow]] = {}
        for record in records:
            if record.error() is not None:
                end_process(f"the raw topics cannot be read: {record.error().str()}")
            source = self._sources[record.topic()]
            partition = record.partition()
            source.next_offsets[partition] = record.offset() + 1
            self._moved.add((source.topic, partition))
            try:
                row, target = source.judge(record)
            except ContractError as refusal:
                outcomes[source.topic][2] += 1
                self._dead_letter(record, refusal)
                continue
            if target < 0:
                outcomes[source.topic][1] += 1
                late.setdefault(partition, []).append(row)
            else:
                outcomes[source.topic][0] += 1
                accepted.setdefault((source.topic, target), []).append(row)
        failpoint("ingest.judged_not_sent")
        for (topic, target), rows in accepted.items():
            source = self._sources[topic]
            batch = source.rows.batch(rows, FOLDED)
            sent = self._producer.send_rows(self._plan, source.target, target, batch)
            metrics.INGEST_ENVELOPES.labels(source.target).inc(sent)
        for partition, rows in late.items():
            source = self._sources[self._plan.event_topic]
            batch = source.rows.batch(rows, LATE)
            self._producer.send_rows(self._plan, late_topic(source.topic), partition, batch)
        for topic, counts in outcomes.items():
            for outcome, count in zip(("accepted", "late", "dead_letter"), counts, strict=True):
                if count:
                    metrics.INGEST_RECORDS.labels(topic, outcome).inc(count)

    def _dead_letter(self, record: Message, refusal: ContractError) -> None:
        letter = DeadLetter(
            topic=record.topic(),
            partition=record.partition(),
            offset=record.offset(),
            reason=refusal.reason,
            message=str(refusal)[:500],
            timestamp_ms=record.timestamp()[1],
        )
        value, key = record.value(), record.key()
        if len(value or b"") + len(key or b"") > MAX_DEAD_LETTER_BYTES - 8192:
            # Only a topic with a raised limit holds such a record; its beginning tells enough.
            value, key = (value or b"")[: MAX_DEAD_LETTER_BYTES // 2], (key or b"")[:1024]
        self._producer.produce(
            dead_letter_topic(letter.topic), letter.partition, value, key, letter.headers()
        )
        metrics.DEAD_LETTERS.labels(letter.topic, letter.reason).inc()

    def _take_over(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Continue each partition where its commit says, with the watermark stored there."""
        for held in consumer.committed(partitions, timeout=30):
            source = self._sources[held.topic]
            source.watermarks_us.pop(held.partition, None)
            if held.metadata:
                source.watermarks_us[held.partition] = int(held.metadata)
        # Offsets are left to the broker's commit: the same that was just read.
        consumer.assign(partitions)

    def _give_up(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit()
        self._forget(_, partitions)

    def _forget(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for gone in partitions:
            self._moved.discard((gone.topic, gone.partition))

    def _commit(self) -> None:
        if not self._moved:
            return
        self._producer.flush()
        failpoint("ingest.flushed_not_committed")
        offsets = []
        for topic, partition in self._moved:
            source = self._sources[topic]
            watermark_us = source.watermarks_us.get(partition, NEVER_US)
            offsets.append(
                TopicPartition(
                    topic, partition, source.next_offsets[partition], metadata=str(watermark_us)
                )
            )
            if watermark_us > NEVER_US:
                gauge = metrics.INGEST_WATERMARK_SECONDS.labels(topic, str(partition))
                gauge.set(watermark_us / 1e6)
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Another consumer took over, or the broker is down: what is not committed is repeated
            # with the same values.
            log.warning("commit refused: %s", error.args[0].str())
            return
        self._moved.clear()


def _label_stage(plan: Plan) -> int:
    return plan.label.stage if plan.label else 0


def serve(plan: Plan) -> None:
    """Run ingest for a plan until SIGTERM."""

    def work(stop: threading.Event) -> None:
        tokeniser = Tokeniser.from_settings()
        wait_for_topics([*plan.raw_topics, *(stage.topic for stage in plan.stages)], stop)
        if not stop.is_set():
            Ingest(plan, tokeniser).run(stop)

    run_service("ingest", work)


def main() -> None:
    """`penstock run ingest`."""
    serve(load_plan(settings().feature_set))


if __name__ == "__main__":
    main()

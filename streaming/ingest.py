"""Reads the raw topics and writes the stages' logs: the one door into Penstock.

It judges what only the raw log can tell: whether a record keeps its contract, lies in the future of
its broker time, or comes late. Each verdict is a function of the raw log, so a crash can only
repeat rows with the same values, which the first stage drops by their position. The running maximum
event time of a raw partition, which lateness is judged against, is kept in the metadata of the
partition's committed offset, together with the id of the key that tokens are made under. Partitions
that get nothing are moved on (streaming/markers.py).
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.catalog import load_plan
from features.coding import composite_key
from features.contract import MAX_AHEAD_US, Contract
from features.errors import ContractError, PenstockError, PositionError
from features.failpoints import failpoint
from features.plan import Plan
from features.positions import reading_from
from features.settings import settings
from features.wire import (
    CUT_FROM,
    FOLDED,
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LATE,
    LOG_EVENTS,
    LOG_LABELS,
    LOG_REFERENCES,
    NEVER_US,
    REPLAY_OF,
    DeadLetter,
    dead_letter_topic,
    late_topic,
    partitions_of,
)
from monitoring import metrics
from streaming import markers
from streaming.broker import (
    RECREATED,
    GaplessProducer,
    bounds,
    commits,
    consumer_settings,
    end_process,
    instance_id,
    show_lag,
    topic_ids,
    unreadable,
    wait_for_topics,
    watch_topics,
)
from streaming.framed import FramedValues
from streaming.markers import IdleWatch, Stamp, marker_rows
from streaming.raw_rows import RawRow, RawRows
from streaming.service import run_service
from streaming.tokenise import Tokeniser
from streaming.topics import MAX_DEAD_LETTER_BYTES

log = logging.getLogger(__name__)

PACK_S = 0.006
"""How long records wait for company. Smaller envelopes cost each stage more than the wait saves."""

MAX_RECORDS = 4000
"""What a full batch holds: an envelope of 250 rows costs the first stage 6.6 µs a row, one of 1,000
rows 2.8."""

COMMIT_EVERY_S = 1.0
"""A crash repeats at most this much; a commit waits for every delivery before it."""


PROVE_S = 3.0
"""Half of the session time-out: a process that has not committed for as long may have been replaced
without knowing, so it commits before it judges."""

PROVE_WITHIN_S = 30.0

_REFUSED = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
}
"""Answers after which the group gives this process its partitions anew."""

_MEND = (
    "what it held never reached the features: give the feature set a new version, import what is "
    "missing into the lake and run `penstock bootstrap`"
)


Outcome = tuple[RawRow, int] | ContractError
"""A record's row with the partition of the target it belongs to, -1 where it is late; or why it is
refused."""


class Source:
    """One raw topic: its contract, where its rows go, and where its partitions stand.

    Args:
        plan: the compiled feature set.
        topic: its event topic, its label topic, or a reference's.
        tokeniser: replaces the fields that the plan says.
        framed: reads what a schema registry's client sent.
    """

    def __init__(
        self, plan: Plan, topic: str, tokeniser: Tokeniser, framed: FramedValues | None = None
    ) -> None:
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
        self._key_indices = [names.index(name) for name in stage.key_fields]
        self._token_indices = {i for i, name in enumerate(names) if name in tokens}
        self._tokens = tokeniser.tokens
        self._framed = framed or FramedValues()
        self.rows = RawRows(plan, kind, log, columns)
        self.watermarks_us: dict[int, int] = {}
        self.next_offsets: dict[int, int] = {}
        self._raised_us: dict[int, int] = {}

    def stamp(self, partition: int) -> Stamp:
        """How far a partition is."""
        watermark_us = self.watermarks_us.get(partition, NEVER_US)
        return Stamp(watermark_us, watermark_us == self._raised_us.get(partition))

    def take_over(self, partition: int, offset: int, stamp: Stamp) -> None:
        """Continue a partition where its commit says."""
        self.forget(partition)
        self.next_offsets[partition] = offset
        if stamp.watermark_us > NEVER_US:
            self.watermarks_us[partition] = stamp.watermark_us
        if stamp.is_raised:
            self._raised_us[partition] = stamp.watermark_us

    def move_on(self, partition: int, watermark_us: int) -> None:
        """Raise the watermark of an idle partition."""
        self.watermarks_us[partition] = self._raised_us[partition] = watermark_us

    def forget(self, partition: int) -> None:
        """The partition is another process's."""
        for held in (self.next_offsets, self.watermarks_us, self._raised_us):
            held.pop(partition, None)

    def judge(self, records: Sequence[Message]) -> list[Outcome]:
        """What becomes of each of some records of the topic, which come in their order.

        Lateness and the future are judged of events and labels; a version of a reference may hold
        from any time on.
        """
        payloads, outcomes = self._payloads(records)
        kept, columns, refused = self.contract.read_all(payloads)
        outcomes = {**refused, **outcomes}
        stamps = [self._stamp(records[at], us) for at, us in zip(kept, columns[1], strict=True)]
        rows, targets = self._rows(columns)
        for place, stamp, row, target in zip(kept, stamps, rows, targets, strict=True):
            if isinstance(stamp, ContractError):
                outcomes[place] = stamp
            else:
                late = self.is_event and row[1] < stamp[2] - self._lateness_us
                outcomes[place] = ((*stamp, *row), -1 if late else target)
        return [outcomes[place] for place in range(len(records))]

    def _payloads(
        self, records: Sequence[Message]
    ) -> tuple[list[bytes | None], dict[int, Outcome]]:
        """The JSON of each record, and by place the refusals of those whose frame is not read."""
        payloads: list[bytes | None] = [record.value() for record in records]
        refused: dict[int, Outcome] = {}
        for place, payload in enumerate(payloads):
            if payload and payload[0] == 0:
                try:
                    payloads[place] = self._framed.json_of(payload)
                except ContractError as refusal:
                    refused[place], payloads[place] = refusal, None
        return payloads, refused

    def _stamp(self, record: Message, time_us: int) -> tuple[int, int, int, int] | ContractError:
        """(partition, offset, watermark µs, broker time µs), or the refusal of a future event."""
        partition, offset = record.partition(), record.offset()
        broker_time_us = record.timestamp()[1] * 1000
        if self._reference is not None:
            return partition, offset, NEVER_US, broker_time_us
        if time_us > broker_time_us + MAX_AHEAD_US:
            return self.contract.in_future(time_us, broker_time_us)
        watermark_us = self.watermarks_us.get(partition, NEVER_US)
        if time_us > watermark_us:
            watermark_us = self.watermarks_us[partition] = time_us
        return partition, offset, watermark_us, broker_time_us

    def _rows(self, columns: list[Sequence[Any]]) -> tuple[Iterable[tuple[Any, ...]], list[int]]:
        """Rows of what the contract read, and the partition of each."""
        columns = [
            self._tokens(column) if index in self._token_indices else column
            for index, column in enumerate(columns)
        ]
        parts = [columns[index] for index in self._key_indices]
        keys = parts[0] if len(parts) == 1 else [*map(composite_key, zip(*parts, strict=True))]
        if self._reference is not None:
            # Its key is what a version is known by.
            at = len(self._reference.key_fields)
            columns = [keys, columns[at], *columns[:at], *columns[at + 1 :]]
        targets = partitions_of(pa.array(keys, pa.string()), self._partitions)
        return zip(*columns, strict=True), targets.tolist()


class Ingest:
    """The loop from the raw topics to the stages' logs.

    Args:
        plan: the compiled feature set.
        tokeniser: under the chain's key.
    """

    def __init__(self, plan: Plan, tokeniser: Tokeniser) -> None:
        self._plan = plan
        self._key_id = tokeniser.key_id if _tokenises(plan) else ""
        framed = FramedValues()
        self._sources = {topic: Source(plan, topic, tokeniser, framed) for topic in plan.raw_topics}
        self._producer = GaplessProducer()
        self._consumer = Consumer(
            consumer_settings(
                f"penstock.{plan.name}.v{plan.version}.ingest",
                **{"group.instance.id": instance_id()},
            )
        )
        self._moved: set[tuple[str, int]] = set()
        self._in_hand: list[Message] = []
        self._stop = threading.Event()
        # Until the group has given out partitions, none is ours.
        self._is_replaced = True
        self._proved_s = 0.0
        self._idle = IdleWatch()
        self._told_us: dict[int, int] = {}
        self._tell_at_s = 0.0
        # The broker forgets commits of a topic that is deleted, so what is known of the raw topics
        # lies with another one.
        self._topics = TopicPartition(plan.stages[0].topic, 0)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then commit what is done.

        Raises:
            PenstockError: the chain was fed under another token key, or from other topics.
        """
        try:
            self._refuse_other_key()
            self._check_topics()
        except BaseException:
            self._consumer.close()
            raise
        self._consumer.subscribe(
            list(self._sources),
            on_assign=self._take_over,
            on_revoke=self._give_up,
            on_lost=self._forget,
        )
        self._stop = stop
        committed_at = self._proved_s = time.monotonic()
        while not stop.is_set():
            self._poll()
            if self._in_hand and time.monotonic() - self._proved_s > PROVE_S:
                self._prove()
            if time.monotonic() > self._tell_at_s:
                self._tell()
            if self._in_hand and not self._is_replaced:
                self._handle(self._in_hand)
                failpoint("ingest.sent_not_flushed")
            elif self._in_hand and time.monotonic() - self._proved_s > PROVE_WITHIN_S:
                end_process("the group of ingest has refused this process and not called it back")
            self._producer.poll()
            if time.monotonic() - committed_at > COMMIT_EVERY_S:
                self._commit()
                show_lag(self._consumer)
                committed_at = time.monotonic()
        self._commit()
        self._consumer.close()

    def _check_topics(self) -> None:
        """The raw topics must be those that were read before: else their offsets begin anew.

        The first stage would take their records for repeats.
        """
        found = topic_ids(self._sources)
        [held] = commits(self._consumer, [self._topics])
        for topic, identity in json.loads(held.metadata or "{}").items():
            if found.get(topic, identity) != identity:
                raise PositionError(
                    f"{topic} is not the topic that was read before: it was deleted and created "
                    f"again; {RECREATED}"
                )
        self._topics = TopicPartition(held.topic, held.partition, 0, metadata=json.dumps(found))

    def _poll(self) -> None:
        """Read what is to be handled together; a rebalance takes out what is no longer ours."""
        self._in_hand = []
        first = self._consumer.poll(0.1)
        if first is None:
            return
        self._in_hand.append(first)
        until = time.monotonic() + PACK_S
        while len(self._in_hand) < MAX_RECORDS:
            found = self._consumer.consume(MAX_RECORDS - len(self._in_hand), 0)
            self._in_hand += found
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            more = self._consumer.poll(left_s)
            if more is not None:
                self._in_hand.append(more)

    def _handle(self, records: list[Message]) -> None:
        by_topic: dict[str, list[Message]] = {}
        for record in records:
            if record.error() is not None:
                end_process(unreadable(self._consumer, record, _MEND))
            by_topic.setdefault(record.topic(), []).append(record)
        for topic, own in by_topic.items():
            self._handle_topic(self._sources[topic], own)

    def _handle_topic(self, source: Source, records: list[Message]) -> None:
        # The last record of each partition tells where to go on.
        for partition, last in {record.partition(): record for record in records}.items():
            source.next_offsets[partition] = last.offset() + 1
            self._moved.add((source.topic, partition))
        accepted: dict[int, list[RawRow]] = {}
        late: dict[int, list[tuple[bytes | None, RawRow]]] = {}
        refused = 0
        for record, outcome in zip(records, source.judge(records), strict=True):
            if isinstance(outcome, ContractError):
                refused += 1
                self._dead_letter(record, outcome)
                continue
            row, target = outcome
            if target < 0:
                replay_of = dict(record.headers() or []).get(REPLAY_OF)
                late.setdefault(record.partition(), []).append((replay_of, row))
            else:
                accepted.setdefault(target, []).append(row)
        failpoint("ingest.judged_not_sent")
        if accepted:
            self._send(source, accepted)
        for partition, marked in late.items():
            # A replay keeps its mark, so it has an envelope of its own; the order stays.
            for replay_of, run in itertools.groupby(marked, itemgetter(0)):
                batch = source.rows.batch([row for _, row in run], LATE)
                headers = [(REPLAY_OF, replay_of)] if replay_of else None
                topic = late_topic(source.topic)
                self._producer.send_rows(self._plan, topic, partition, batch, headers)
        counts = {
            "accepted": sum(map(len, accepted.values())),
            "late": sum(map(len, late.values())),
            "dead_letter": refused,
        }
        for name, count in counts.items():
            if count:
                metrics.INGEST_RECORDS.labels(source.topic, name).inc(count)

    def _send(self, source: Source, accepted: dict[int, list[RawRow]]) -> None:
        """Send rows by partition of the target."""
        # One batch is made of all, and cut: making one costs the same for any number of rows.
        whole = source.rows.batch([row for rows in accepted.values() for row in rows], FOLDED)
        first = sent = 0
        for target, rows in accepted.items():
            part = whole.slice(first, len(rows))
            sent += self._producer.send_rows(self._plan, source.target, target, part)
            first += len(rows)
        metrics.INGEST_ENVELOPES.labels(source.target).inc(sent)

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
        headers = [*(record.headers() or []), *letter.headers()]
        size = len(value or b"") + len(key or b"") + sum(len(n) + len(v or b"") for n, v in headers)
        if size > MAX_DEAD_LETTER_BYTES - 8192:
            # Only a topic with a raised limit holds such a record; its beginning tells enough.
            value, key = (value or b"")[: MAX_DEAD_LETTER_BYTES // 2], (key or b"")[:1024]
            headers = [*letter.headers(), (CUT_FROM, str(size).encode())]
        self._producer.produce(
            dead_letter_topic(letter.topic), letter.partition, value, key, headers
        )
        metrics.DEAD_LETTERS.labels(letter.topic, letter.reason).inc()

    def _refuse_other_key(self) -> None:
        raw = [TopicPartition(t, p) for t in self._sources for p in range(self._plan.partitions)]
        for held in commits(self._consumer, raw):
            stamp = Stamp.of(held.metadata)
            if self._is_other_key(stamp):
                raise PenstockError(self._other_key(stamp))

    def _is_other_key(self, stamp: Stamp) -> bool:
        return bool(self._key_id and stamp.key_id) and stamp.key_id != self._key_id

    def _other_key(self, stamp: Stamp) -> str:
        return (
            f"the chain of {self._plan.name!r} version {self._plan.version} has been fed under the "
            f"token key {stamp.key_id}, PENSTOCK_TOKEN_KEY is {self._key_id} (each named by the "
            "beginning of its SHA-256): no window would go on. Set the former key again; or give "
            "the feature set a new version, which begins with state of its own"
        )

    def _take_over(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Continue each partition where its commit says, with the watermark stored there."""
        begun_s = time.monotonic()
        grown = [place for place in partitions if place.partition >= self._plan.partitions]
        if grown:
            raise PenstockError(
                f"{grown[0].topic} has got a partition {grown[0].partition}, the plan of "
                f"{self._plan.name!r} has {self._plan.partitions}; give the feature set another "
                "version or its event another topic"
            )
        places = commits(consumer, partitions)
        for held in places:
            low, high = bounds(consumer, held)
            offset = reading_from(held.topic, held.partition, held.offset, low, high, _MEND)
            if held.offset < 0 < low:
                log.warning(
                    "%s [%d] is read from offset %d on, the first it still holds",
                    held.topic,
                    held.partition,
                    low,
                )
            held.offset = offset
            stamp = Stamp.of(held.metadata)
            if self._is_other_key(stamp):
                end_process(self._other_key(stamp))
            self._sources[held.topic].take_over(held.partition, offset, stamp)
            if held.topic == self._plan.event_topic:
                self._idle.forget(held.partition)
                self._told_us.pop(held.partition, None)
        consumer.assign(places)
        self._is_replaced, self._proved_s = False, begun_s
        # What was raised before is told before anything is judged by it.
        self._tell_at_s = 0.0

    def _give_up(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit()
        self._forget(_, partitions)

    def _forget(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {(place.topic, place.partition) for place in partitions}
        self._moved -= gone
        for topic, partition in gone:
            self._sources[topic].forget(partition)
        self._in_hand = [r for r in self._in_hand if (r.topic(), r.partition()) not in gone]

    def _prove(self) -> bool:
        """Commit, as only the owner of partitions can; waits for the broker.

        False where it refuses, or the process is to stop: what is in hand is not to be judged.
        After a refusal the group gives out the partitions anew.
        """
        if not self._moved:
            held = ((s.topic, p) for s in self._sources.values() for p in s.next_offsets)
            self._moved.update(list(held)[:1])
        until = time.monotonic() + PROVE_WITHIN_S
        while not self._commit():
            if self._is_replaced or self._stop.wait(0.2):
                self._in_hand = []
                return False
            if time.monotonic() > until:
                end_process(f"Kafka takes no commit of the raw topics for {PROVE_WITHIN_S:g} s")
        return True

    def _tell(self) -> None:
        """Move idle partitions on, and tell the first stage how far each partition is."""
        if self._is_replaced:
            return
        now_s = time.monotonic()
        self._tell_at_s = now_s + markers.TELL_EVERY_S
        source = self._sources[self._plan.event_topic]
        raised = self._move_on(source, now_s)
        self._moved |= {(source.topic, partition) for partition in raised}
        if raised and not self._prove():
            return
        told = [
            (partition, offset, source.stamp(partition).watermark_us)
            for partition, offset in source.next_offsets.items()
            if source.stamp(partition).watermark_us > self._told_us.get(partition, NEVER_US)
        ]
        if not told:
            return
        rows = marker_rows(self._plan, told)
        for target in range(self._plan.partitions):
            self._producer.send_rows(self._plan, source.target, target, rows)
        self._told_us |= {partition: watermark_us for partition, _, watermark_us in told}

    def _move_on(self, source: Source, now_s: float) -> list[int]:
        """Raise the watermarks of idle partitions; returns which were."""
        places = [TopicPartition(source.topic, p) for p in range(self._plan.partitions)]
        try:
            committed = self._consumer.committed(places, timeout=5)
        except KafkaException as error:
            log.warning("no watermarks of idle partitions: %s", error.args[0].str())
            return []
        stamps = {held.partition: Stamp.of(held.metadata) for held in committed}
        stamps |= {partition: source.stamp(partition) for partition in source.next_offsets}
        idle, active_us = self._idle.look(stamps, now_s)
        raised = []
        for partition, offset in source.next_offsets.items():
            place = TopicPartition(source.topic, partition)
            _, end = self._consumer.get_watermark_offsets(place, cached=True)
            is_quiet = self._idle.is_quiet(partition, offset, now_s)
            if partition not in idle or active_us <= stamps[partition].watermark_us:
                continue
            # A transaction's end is an offset that nobody reads.
            if 0 <= end <= offset or is_quiet:
                source.move_on(partition, active_us)
                raised.append(partition)
        return raised

    def _commit(self) -> bool:
        """Commit what has been handled; false where it is not known to be committed."""
        if not self._moved:
            return True
        self._producer.flush()
        failpoint("ingest.flushed_not_committed")
        begun_s = time.monotonic()
        offsets = [self._topics]
        for topic, partition in self._moved:
            source = self._sources[topic]
            stamp = source.stamp(partition)
            offsets.append(
                TopicPartition(
                    topic,
                    partition,
                    source.next_offsets[partition],
                    metadata=str(replace(stamp, key_id=self._key_id)),
                )
            )
            if stamp.watermark_us > NEVER_US:
                gauge = metrics.INGEST_WATERMARK_SECONDS.labels(topic, str(partition))
                gauge.set(stamp.watermark_us / 1e6)
        try:
            answers = self._consumer.commit(offsets=offsets, asynchronous=False)
            for answer in answers:
                if answer.error is not None:
                    raise KafkaException(answer.error)
        except KafkaException as error:
            # Another consumer took over, or the broker is down: what is not committed is repeated
            # with the same values.
            refusal: KafkaError = error.args[0]
            log.warning("commit refused: %s", refusal.str())
            if refusal.fatal() or refusal.code() == KafkaError.FENCED_INSTANCE_ID:
                end_process("another process of this name reads the raw topics")
            self._is_replaced = self._is_replaced or refusal.code() in _REFUSED
            return False
        self._moved.clear()
        self._proved_s = begun_s
        return True


def _tokenises(plan: Plan) -> bool:
    fields = [*plan.fields, *(field for each in plan.references for field in each.fields)]
    return any(field.token for field in fields)


def _label_stage(plan: Plan) -> int:
    return plan.label.stage if plan.label else 0


def serve(plan: Plan) -> None:
    """Run ingest for a plan until SIGTERM."""

    def work(stop: threading.Event) -> None:
        tokeniser = Tokeniser.from_settings()
        topics = [*plan.raw_topics, *(stage.topic for stage in plan.stages)]
        wait_for_topics(topics, stop)
        if not stop.is_set():
            watch_topics(dict.fromkeys(topics, plan.partitions), stop)
            Ingest(plan, tokeniser).run(stop)

    run_service("ingest", work)


def main() -> None:
    """`penstock run ingest`."""
    serve(load_plan(settings().feature_set))


if __name__ == "__main__":
    main()

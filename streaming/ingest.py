"""Reads the raw topics and writes the stages' logs: the one door into Penstock.

It judges what only the raw log can tell: whether a record keeps its contract, lies in the future of
its broker time, or comes late. Each verdict is a function of the raw log, so a crash can only
repeat rows with the same values, which the first stage drops by their position. The running maximum
event time of a raw partition, which lateness is judged against, is kept in the metadata of the
partition's committed offset, together with the id of the key that tokens are made under.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from features.catalog import load_plan
from features.coding import composite_key
from features.contract import MAX_AHEAD_US, Contract
from features.errors import ContractError, PenstockError
from features.plan import Plan
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
from streaming.broker import (
    GaplessProducer,
    consumer_settings,
    end_process,
    instance_id,
    show_lag,
    wait_for_topics,
)
from streaming.framed import FramedValues
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


@dataclass(frozen=True)
class CommitNote:
    """What the metadata of a raw partition's committed offset says: `WATERMARK_US [KEY_ID]`.

    The key id is empty where nothing is tokenised, and in commits of before it was noted.
    """

    watermark_us: int
    key_id: str = ""

    def __str__(self) -> str:
        return f"{self.watermark_us} {self.key_id}".rstrip()

    @classmethod
    def of(cls, metadata: str | None) -> CommitNote:
        """Read what a commit says; an empty one, of a tool, says nothing."""
        watermark_us, _, key_id = (metadata or str(NEVER_US)).partition(" ")
        return cls(int(watermark_us), key_id)


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
        return zip(*columns, strict=True), partitions_of(keys, self._partitions)


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

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then commit what is done.

        Raises:
            PenstockError: the chain was fed under another token key.
        """
        try:
            self._refuse_other_key()
        except BaseException:
            self._consumer.close()
            raise
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
        by_topic: dict[str, list[Message]] = {}
        for record in records:
            if record.error() is not None:
                end_process(f"the raw topics cannot be read: {record.error().str()}")
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
        for held in self._consumer.committed(raw, timeout=30):
            note = CommitNote.of(held.metadata)
            if self._is_other_key(note):
                raise PenstockError(self._other_key(note))

    def _is_other_key(self, note: CommitNote) -> bool:
        return bool(self._key_id and note.key_id) and note.key_id != self._key_id

    def _other_key(self, note: CommitNote) -> str:
        return (
            f"the chain of {self._plan.name!r} version {self._plan.version} has been fed under the "
            f"token key {note.key_id}, PENSTOCK_TOKEN_KEY is {self._key_id} (each named by the "
            "beginning of its SHA-256): no window would go on. Set the former key again; or give "
            "the feature set a new version, which begins with state of its own"
        )

    def _take_over(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Continue each partition where its commit says, with the watermark stored there."""
        for held in consumer.committed(partitions, timeout=30):
            source = self._sources[held.topic]
            note = CommitNote.of(held.metadata)
            if self._is_other_key(note):
                end_process(self._other_key(note))
            source.watermarks_us[held.partition] = note.watermark_us
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
        offsets = []
        for topic, partition in self._moved:
            source = self._sources[topic]
            watermark_us = source.watermarks_us.get(partition, NEVER_US)
            offsets.append(
                TopicPartition(
                    topic,
                    partition,
                    source.next_offsets[partition],
                    metadata=str(CommitNote(watermark_us, self._key_id)),
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


def _tokenises(plan: Plan) -> bool:
    fields = [*plan.fields, *(field for each in plan.references for field in each.fields)]
    return any(field.token for field in fields)


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

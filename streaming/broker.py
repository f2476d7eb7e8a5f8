"""How our services talk to Kafka: waiting for it, and producing without gaps.

Downstream folds drop repeats by position, which is only right if a producer never leaves a gap:
it delivers everything in order or ends its process.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from features.errors import PenstockError, ServiceUnavailableError
from features.plan import Plan
from features.settings import settings
from features.wire import Headers, encode
from monitoring import metrics

log = logging.getLogger(__name__)

MAX_ENVELOPE_BYTES = 512 * 1024
"""Half of a topic's default limit; larger envelopes are split."""

LOOK_EVERY_S = 10.0
"""How soon a topic that was deleted or given more partitions ends the processes that use it."""

_LONGEST_WAIT_S = 15.0
_SILENCE_S = 30.0
"""A broker that says neither a record nor the end of its log for so long is gone."""

_EXIT_CODE = 70  # EX_SOFTWARE

Delivered = dict[tuple[str, int], int]


def end_process(reason: str) -> None:
    """End the process at once: what was not acknowledged is read again after the restart."""
    log.critical("%s; this process ends and its restart reads again from the last commit", reason)
    logging.shutdown()
    os._exit(_EXIT_CODE)


def admin() -> AdminClient:
    """A client of the cluster's administration."""
    return AdminClient({"bootstrap.servers": settings().kafka_bootstrap, "log_level": 0})


def wait_for_topics(topics: Iterable[str], stop: threading.Event) -> None:
    """Wait until the brokers answer and hold every topic, saying at each try what is missing."""
    wanted = list(topics)
    wait_s = 0.5
    client = admin()
    while not stop.is_set():
        try:
            held = client.list_topics(timeout=5).topics
        except KafkaException:
            missing = f"no broker answers at {settings().kafka_bootstrap}"
        else:
            absent = [topic for topic in wanted if topic not in held]
            if not absent:
                return
            missing = f"topics {', '.join(absent)} are missing; `penstock apply` creates them"
        log.warning("%s; next try in %.1f s", missing, wait_s)
        stop.wait(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def watch_topics(topics: Mapping[str, int], stop: threading.Event) -> None:
    """Check the topics' numbers of partitions now, and end the process once a topic changes.

    A topic that is deleted, also one that is created again under its name, takes records with it
    that were never read; one that gets more partitions gives keys other partitions.

    Args:
        topics: by name, the number of partitions that the plan says.
        stop: ends the watch.

    Raises:
        PenstockError: a topic has another number of partitions.
    """
    client = admin()
    first: dict[str, tuple[str, int]] = _patiently(lambda: _described(client, topics))
    for topic, (_, partitions) in first.items():
        if partitions != topics[topic]:
            raise PenstockError(_other_partitions(topic, partitions, topics[topic]))

    def watch() -> None:
        absent: set[str] = set()
        while not stop.wait(LOOK_EVERY_S):
            try:
                found = _described(client, topics)
            except KafkaException:
                # The process waits for its broker by itself.
                continue
            for topic, (identity, partitions) in found.items():
                if first.get(topic, (identity, 0))[0] != identity:
                    end_process(f"topic {topic!r} was deleted and created again; {RECREATED}")
                if partitions != topics[topic]:
                    end_process(_other_partitions(topic, partitions, topics[topic]))
            # A broker that has just come back may not know every topic yet.
            gone = first.keys() - found.keys()
            for topic in sorted(gone & absent):
                end_process(f"topic {topic!r} was deleted; {RECREATED}")
            absent = gone

    threading.Thread(target=watch, name="topics", daemon=True).start()


RECREATED = (
    "what it held is gone: give the feature set a new version, and run `penstock apply` and "
    "`penstock bootstrap`"
)


def topic_ids(topics: Iterable[str]) -> dict[str, str]:
    """What tells a topic from one that is created under its name later on."""
    client = admin()
    found: dict[str, tuple[str, int]] = _patiently(lambda: _described(client, topics))
    return {topic: identity for topic, (identity, _) in found.items()}


def _described(client: AdminClient, topics: Iterable[str]) -> dict[str, tuple[str, int]]:
    """The id and the number of partitions of each topic there is."""
    found = {}
    for topic, outcome in client.describe_topics(
        TopicCollection(list(topics)), request_timeout=10
    ).items():
        try:
            described = outcome.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
        else:
            found[topic] = (str(described.topic_id), len(described.partitions))
    return found


def _other_partitions(topic: str, partitions: int, wanted: int) -> str:
    return (
        f"topic {topic!r} has {partitions} partitions, the plan has {wanted}, and keys would "
        "change their places: give the feature set another version or its event another topic"
    )


def bounds(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The first offset of a partition and the one after its last, as a consumer may read them."""
    low, high = _patiently(lambda: consumer.get_watermark_offsets(place, timeout=10))
    return low, high


def commits(consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
    """What the consumer's group has committed of partitions."""
    found: list[TopicPartition] = _patiently(lambda: consumer.committed(places, timeout=10))
    return found


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask the brokers until they answer, for half a minute: new ones do not know everything yet."""
    until = time.monotonic() + 30
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > until:
                raise
            log.warning("Kafka: %s; asking again", error.args[0].str())
            time.sleep(0.2)


def log_bounds(topic: str, partition: int) -> tuple[int, int]:
    """The first offset a partition holds, and the one after its last."""
    place = TopicPartition(topic, partition)
    client = admin()
    low, high = (
        client.list_offsets({place: spec}, request_timeout=30)[place].result().offset
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    )
    return low, high


def unreadable(consumer: Consumer, message: Message, mend: str) -> str:
    """Why a consumer was given an error in place of a message.

    Args:
        consumer: it was given to.
        message: the error.
        mend: what to do where the log no longer holds what was to be read.
    """
    error, topic, partition = message.error(), message.topic(), message.partition()
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return f"topic {topic!r} was deleted; {RECREATED}"
    if error.code() != KafkaError._AUTO_OFFSET_RESET:
        return f"{topic} cannot be read: {error.str()}"
    low, high = bounds(consumer, TopicPartition(topic, partition))
    return (
        f"{topic} [{partition}] cannot be read on from offset {message.offset()}: it holds offsets "
        f"{low} to {high}; {mend}"
    )


def consumer_settings(group: str, **more: Any) -> dict[str, Any]:
    """Settings of a consumer that commits by itself, never behind our back."""
    return {
        "bootstrap.servers": settings().kafka_bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        # No reader jumps unseen: each looks where it stands (features/positions.py).
        "auto.offset.reset": "error",
        "error_cb": say_broker_error,
        "fetch.wait.max.ms": 100,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 1500,
        # The error callback says what matters, once per try.
        "log_level": 0,
        **more,
    }


def instance_id() -> str:
    """This process's name in its consumer group, the same after a restart.

    A restarted process takes over its own partitions at once instead of waiting for the session of
    its predecessor to time out. Processes of one service on one host differ in their metrics port.
    """
    return f"{socket.gethostname()}-{settings().metrics_port}"


def say_broker_error(error: KafkaError) -> None:
    """librdkafka reconnects with its own back-off; a line in the log says that it does."""
    log.warning("Kafka: %s; waiting for it to come back", error.str())


def show_lag(consumer: Consumer) -> None:
    """Set the lag of each assigned partition from what the last fetches told."""
    for at in consumer.position(consumer.assignment()):
        _, end = consumer.get_watermark_offsets(at, cached=True)
        if at.offset >= 0 and end >= 0:
            lag = metrics.CONSUMER_LAG_MESSAGES.labels(at.topic, str(at.partition))
            lag.set(max(0, end - at.offset))


def read_all(topic: str, first: Mapping[int, int] | None = None) -> Iterator[Message]:
    """Every committed message of a topic up to its present end.

    Args:
        topic: its name.
        first: where partitions are read from; each of the topic's from its beginning by default.

    Raises:
        ServiceUnavailableError: the broker does not answer, or the topic does not exist.
    """
    no_broker = ServiceUnavailableError(
        f"no broker answers at {settings().kafka_bootstrap}; start one with `penstock up kafka`"
    )
    consumer = Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": "penstock-reader",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        try:
            held = consumer.list_topics(topic, timeout=10).topics[topic]
        except KafkaException:
            raise no_broker from None
        if held.error is not None:
            raise ServiceUnavailableError(
                f"there is no topic {topic!r}; `penstock apply` creates the topics"
            )
        starts = first or dict.fromkeys(held.partitions, OFFSET_BEGINNING)
        consumer.assign([TopicPartition(topic, p, start) for p, start in starts.items()])
        unfinished = set(starts)
        heard = time.monotonic()
        while unfinished:
            messages = consumer.consume(2000, 1.0)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE_S:
                raise no_broker
            for message in messages:
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(message.partition())
                else:
                    raise ServiceUnavailableError(
                        f"cannot read {topic}: {error}; is the stack up? (penstock status)"
                    )
    finally:
        consumer.close()


class GaplessProducer:
    """Delivers in order and without gaps, or ends the process.

    Args:
        linger_ms: how long small messages of one partition wait for each other.
    """

    def __init__(self, linger_ms: int = 1) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": settings().kafka_bootstrap,
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                # A message never times out: a broker that is down makes the process wait.
                "message.timeout.ms": 0,
                "linger.ms": linger_ms,
                "message.max.bytes": 4 * 1024 * 1024,
                "error_cb": self._on_error,
                # The error callback says what matters, once per try.
                "log_level": 0,
            }
        )
        self._sent: Delivered = {}
        self._counting = threading.Lock()
        self._delivered: Delivered = {}

    def produce(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Send one message; waits while the queue is full."""
        target = (topic, partition)
        while True:
            try:
                self._producer.produce(
                    topic,
                    partition=partition,
                    value=value,
                    key=key,
                    headers=headers or [],
                    on_delivery=self._on_delivery,
                )
            except BufferError:
                self._serve(0.05)
                continue
            except KafkaException as error:
                end_process(f"cannot produce to {topic} [{partition}]: {error.args[0].str()}")
            self._sent[target] = self._sent.get(target, 0) + 1
            self._serve(0)
            return

    def send_rows(
        self,
        plan: Plan,
        topic: str,
        partition: int,
        rows: pa.RecordBatch,
        headers: Headers | None = None,
    ) -> int:
        """Send rows of `row_schema(plan)` in as few envelopes as fit; returns how many."""
        envelope = encode(plan, rows)
        if len(envelope) > MAX_ENVELOPE_BYTES and rows.num_rows > 1:
            half = rows.num_rows // 2
            first = self.send_rows(plan, topic, partition, rows.slice(0, half), headers)
            return first + self.send_rows(plan, topic, partition, rows.slice(half), headers)
        self.produce(topic, partition, envelope, headers=headers)
        return 1

    def sent(self) -> Delivered:
        """Messages sent so far by (topic, partition), to be given to `wait_for`."""
        return dict(self._sent)

    def wait_for(self, sent: Delivered) -> None:
        """Wait until everything that `sent` counted is acknowledged by the brokers.

        Unlike a flush it ends under a constant stream of newer messages.
        """
        while any(self._delivered.get(target, 0) < count for target, count in sent.items()):
            self._serve(0.02)

    def poll(self) -> None:
        """Serve delivery reports."""
        self._serve(0)

    def flush(self) -> None:
        """Wait until every message is acknowledged."""
        self.wait_for(self.sent())

    def _serve(self, timeout_s: float) -> None:
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:
            # A lost message makes every later one impossible.
            end_process(f"the producer cannot go on: {error.args[0].str()}")

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        target = (message.topic(), message.partition())
        if error is not None:
            end_process(f"a message to {target[0]} [{target[1]}] was lost: {error.str()}")
        # Deliveries of one partition come in order, so a count tells which were acknowledged.
        # Reports are served by whichever thread polls.
        with self._counting:
            self._delivered[target] = self._delivered.get(target, 0) + 1

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            end_process(f"the producer cannot go on: {error.str()}")
        say_broker_error(error)

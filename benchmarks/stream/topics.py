"""What the topics hold, read when nothing is timed any more, and what is visible while it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from features.settings import settings
from streaming.broker import admin


def consumer(group: str = "penstock-bench", **more: Any) -> Consumer:
    """A consumer that sees what is committed."""
    return Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            **more,
        }
    )


def is_reading(group: str, partitions: int) -> bool:
    """Whether members of a group hold so many partitions."""
    # A client that nobody holds takes its answers with it.
    client = admin()
    try:
        found = client.describe_consumer_groups([group])[group].result(10)
    except (KafkaException, TimeoutError):
        # The first group of all makes the broker make its topic of groups.
        return False
    held = sum(len(member.assignment.topic_partitions) for member in found.members)
    return held >= partitions and found.state.name == "STABLE"


def places(topic: str, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for partition in range(partitions)]


def ends(topic: str, partitions: int, **more: Any) -> list[int]:
    """The end of each partition: with `read_committed`, of what is decided."""
    reader = consumer(**more)
    found = [reader.get_watermark_offsets(at, 10)[1] for at in places(topic, partitions)]
    reader.close()
    return found


def is_all_visible(topic: str, partitions: int) -> bool:
    """Whether no transaction on the topic is open."""
    uncommitted = ends(topic, partitions, **{"isolation.level": "read_uncommitted"})
    return ends(topic, partitions) == uncommitted


def lag(group: str, topic: str, partitions: int) -> int:
    """Messages between a group's commits and the end of a topic."""
    reader = consumer(group)
    held = reader.committed(places(topic, partitions), 10)
    total = 0
    for at in held:
        begin, end = reader.get_watermark_offsets(at, 10)
        total += end - max(at.offset, begin)
    reader.close()
    return total


def read(topic: str, partitions: int) -> Iterator[Message]:
    """Every message there is now, each partition in order."""
    reader = consumer(**{"enable.partition.eof": True, "fetch.max.bytes": 64 << 20})
    reader.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    ended: set[int] = set()
    while len(ended) < partitions:
        for message in reader.consume(5_000, 1.0):
            if message.error() is not None:
                ended.add(message.partition())
            else:
                yield message
    reader.close()


def delete(names: Iterable[str]) -> None:
    """Give a run's disk back to those that follow."""
    client = admin()
    for outcome in client.delete_topics(list(names)).values():
        outcome.result(30)


class Span(msgspec.Struct):
    """When a topic got its first and its last message (ms since 1970), and how many."""

    first_ms: int
    last_ms: int
    messages: int


def span(topic: str, partitions: int) -> Span:
    """The span of a topic that is written in order of time."""
    found = Span(2**63 - 1, 0, 0)
    for message in read(topic, partitions):
        at_ms = message.timestamp()[1]
        found.first_ms, found.last_ms = min(found.first_ms, at_ms), max(found.last_ms, at_ms)
        found.messages += 1
    return found


class Origin(msgspec.Struct):
    partition: int
    offset: int


class Score(msgspec.Struct):
    """What is read of a scored record."""

    event_time: str
    score: float
    origin: Origin


read_score = msgspec.json.Decoder(Score).decode


def assert_scored_once(topic: str, partitions: int, events: int) -> int:
    """Every event has one score that a `read_committed` consumer sees; returns how many."""
    seen: set[tuple[int, int]] = set()
    scores = 0
    for message in read(topic, partitions):
        origin = read_score(message.value()).origin
        seen.add((origin.partition, origin.offset))
        scores += 1
    assert scores == len(seen) == events, f"{scores} scores of {len(seen)} events, not {events}"
    return scores

"""One hop of plain confluent-kafka: what is read from one topic goes to the next as it is.

`python -m benchmarks.stream.hops SOURCE TARGET [--transactional]`.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

from features.settings import settings

BATCH = 1000
COMMIT_EVERY_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--transactional", action="store_true")
    given = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    hop(given.source, given.target, given.transactional, stop)


def hop(source: str, target: str, transactional: bool, stop: threading.Event) -> None:
    """Pass messages on until stopped, with the settings that our services have."""
    brokers = {"bootstrap.servers": settings().kafka_bootstrap}
    consumer = Consumer(
        brokers
        | {
            "group.id": f"hop-{source}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
        }
    )
    own = {"transactional.id": f"hop-{source}", "retry.backoff.ms": 2} if transactional else {}
    producer = Producer(brokers | {"enable.idempotence": True, "linger.ms": 1} | own)
    if transactional:
        producer.init_transactions()
    consumer.subscribe([source])
    committed_at = time.monotonic()
    moved: dict[int, int] = {}
    while not stop.is_set():
        first = consumer.poll(0.1)
        if first is None:
            continue
        messages = [first, *consumer.consume(BATCH - 1, 0)]
        if transactional:
            producer.begin_transaction()
        for message in messages:
            producer.produce(target, message.value(), message.key(), message.partition())
            moved[message.partition()] = message.offset() + 1
        offsets = [TopicPartition(source, partition, at) for partition, at in moved.items()]
        if transactional:
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
            producer.commit_transaction()
        else:
            producer.poll(0)
            if time.monotonic() - committed_at > COMMIT_EVERY_S:
                producer.flush()
                consumer.commit(offsets=offsets, asynchronous=True)
                committed_at = time.monotonic()
    consumer.close()


if __name__ == "__main__":
    main()

"""The scorer without transactions: idempotent produce, then a commit of offsets.

`python -m benchmarks.stream.plain_scorer` takes the place of `penstock run scorer`. A crash between
the two would score a batch twice.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, Producer, TopicPartition

from features.catalog import load_plan
from features.plan import Plan
from features.settings import settings as shared_settings
from monitoring import metrics
from serving.scorer import Scorer
from serving.settings import ServingSettings
from serving.settings import settings as serving_settings
from serving.transaction import Output


class AtLeastOnce:
    """What the scorer asks of its transactions, without one."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 1,
                "partitioner": "consistent",
                "compression.type": "lz4",
            }
        )

    def open(self) -> None:
        """Nothing is registered."""

    def commit(
        self, consumer: Consumer, outputs: Iterable[Output], offsets: Sequence[TopicPartition]
    ) -> None:
        """Send, wait for the brokers, commit without waiting."""
        for topic, key, value in outputs:
            while True:
                try:
                    self._producer.produce(topic, value, key)
                except BufferError:
                    self._producer.poll(0.05)
                else:
                    break
        self._producer.flush()
        if offsets:
            consumer.commit(offsets=list(offsets), asynchronous=True)


class PlainScorer(Scorer):
    """The product's scorer, but for its transactions."""

    def __init__(self, plan: Plan, bootstrap: str, options: ServingSettings) -> None:
        super().__init__(plan, bootstrap, options)
        self._transactions = AtLeastOnce(bootstrap)


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    shared = shared_settings()
    metrics.serve(shared.metrics_port, shared.bind_host)
    scorer = PlainScorer(load_plan(shared.feature_set), shared.kafka_bootstrap, serving_settings())
    signal.signal(signal.SIGTERM, lambda *_: scorer.stop())
    scorer.run()


if __name__ == "__main__":
    main()

"""One Kafka transaction: outputs, input offsets and their marks, together or not at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from features.errors import ServiceUnavailableError
from features.failpoints import failpoint

logger = logging.getLogger(__name__)

Output = tuple[str, str, bytes]
"""(topic, key, value) of a record to send."""

_STEP_TIMEOUT_S = 10.0


class Aborted(Exception):  # noqa: N818  an outcome, not a mistake
    """The transaction was aborted and nothing of it will be seen; read the batch again."""


class Transactions:
    """A transactional producer for one input group.

    Args:
        bootstrap: the brokers.
        transactional_id: fences an older process of the same id, whose open transaction is
            aborted.
        stopping: set when the process is to end; a step that waits for the broker gives up.
    """

    def __init__(self, bootstrap: str, transactional_id: str, stopping: threading.Event) -> None:
        self._bootstrap = bootstrap
        self._stopping = stopping
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": transactional_id,
                # Every step of a transaction that meets the one before it waits this long; the
                # default of 100 ms would be the latency of a score.
                "retry.backoff.ms": 2,
                "transaction.timeout.ms": 60_000,
                "partitioner": "consistent",
                "compression.type": "lz4",
            }
        )

    def open(self) -> None:
        """Registers the id with the broker; waits for the broker, and says so.

        Raises:
            ServiceUnavailableError: the broker refuses the id.
        """
        try:
            self._step("register", self._producer.init_transactions)
        except KafkaException as failure:
            raise ServiceUnavailableError(
                f"Kafka at {self._bootstrap} refuses the scorer's transactions: "
                f"{failure.args[0].str()}; look at the broker's log"
            ) from failure

    def commit(
        self, consumer: Consumer, outputs: Iterable[Output], offsets: Sequence[TopicPartition]
    ) -> None:
        """Sends the outputs and commits the offsets with their metadata.

        Raises:
            Aborted: nothing was committed; the batch is to be read again.
            ServiceUnavailableError: the producer cannot go on; the process is to be started again.
        """
        try:
            self._producer.begin_transaction()
            failpoint("scorer.begun_not_sent")
            for topic, key, value in outputs:
                self._send(topic, key, value)
            failpoint("scorer.sent_without_offsets")
            if offsets:
                self._step(
                    "send offsets",
                    lambda timeout_s: self._producer.send_offsets_to_transaction(
                        list(offsets), consumer.consumer_group_metadata(), timeout_s
                    ),
                )
            failpoint("scorer.offsets_not_committed")
            self._step("commit", self._producer.commit_transaction)
        except KafkaException as failure:
            error = failure.args[0]
            if error.fatal() or not error.txn_requires_abort():
                raise ServiceUnavailableError(
                    f"Kafka at {self._bootstrap} ended the scorer's transactions: {error}; "
                    "another scorer may have taken over, or the broker was away for too long: "
                    "start the scorer again"
                ) from failure
            logger.warning("scorer: transaction aborted: %s", error)
            self._abort()
            raise Aborted(str(error)) from failure

    def _abort(self) -> None:
        try:
            self._step("abort", self._producer.abort_transaction)
        except KafkaException as failure:
            raise ServiceUnavailableError(
                f"Kafka at {self._bootstrap} cannot abort a transaction: {failure.args[0]}; "
                "start the scorer again"
            ) from failure

    def _send(self, topic: str, key: str, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _step(self, name: str, step: Callable[[float], Any]) -> None:
        """Runs a step until it has an outcome; a retriable error is none."""
        while True:
            try:
                step(_STEP_TIMEOUT_S)
            except KafkaException as failure:
                if not failure.args[0].retriable():
                    raise
                logger.warning(
                    "scorer: cannot %s at Kafka %s yet: %s",
                    name, self._bootstrap, failure.args[0].str(),
                )  # fmt: skip
                if self._stopping.wait(0.2):
                    raise ServiceUnavailableError(
                        f"Kafka at {self._bootstrap} does not answer; the scorer was told to end "
                        "and leaves its transaction to the broker, which aborts it"
                    ) from failure
            else:
                return

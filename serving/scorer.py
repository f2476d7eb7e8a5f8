"""The scorer: finished rows in, scores and decisions out, each event once.

    poll ─▶ take (intake.py) ─▶ score (engines.py) ─▶ decide ─▶ one transaction ─▶ fold into drift

The features topic is read in batches of what has arrived. A batch is scored by one model version;
its records, its offsets and its marks are committed in one transaction, so a reader that skips
uncommitted records sees each event once, whatever crashes. Drift is folded after the commit, so an
aborted batch is not counted twice; a drift event goes out in the next transaction.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features import wire
from features.catalog import load_plan
from features.errors import PenstockError, PositionError, ServiceUnavailableError
from features.failpoints import failpoint
from features.plan import Plan
from features.positions import reading_from
from features.settings import settings as shared_settings
from monitoring import metrics
from serving import scored
from serving.bundle import LoadedBundle
from serving.champion import ChampionWatch
from serving.intake import Batch, mark_of, take
from serving.settings import ServingSettings
from serving.settings import settings as serving_settings
from serving.transaction import Aborted, Output, Transactions

logger = logging.getLogger(__name__)

POLL_S = 0.1
BATCH_MESSAGES = 256
"""A transaction costs the same 7 ms for one score and for thousands."""
_OBSERVE_EVERY_S = 1.0


class Scorer:
    """Scores a plan's features topic until `stop` is called.

    Args:
        plan: what is scored.
        bootstrap: the brokers.
        options: the registry and how drift is watched.
    """

    def __init__(self, plan: Plan, bootstrap: str, options: ServingSettings) -> None:
        self._plan = plan
        self._bootstrap = bootstrap
        self._stopping = threading.Event()
        self._champions = ChampionWatch(plan, options)
        self._instance = f"penstock-{plan.name}-v{plan.version}-scorer-0"
        self._group = f"penstock-{plan.name}-v{plan.version}-scorer"
        self._transactions = Transactions(bootstrap, self._instance, self._stopping)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": self._group,
                # A restarted scorer takes its partitions back at once under the same name.
                "group.instance.id": self._instance,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 1500,
                "enable.auto.commit": False,
                # `_place` says where to begin; nothing is jumped over unseen.
                "auto.offset.reset": "error",
                # Not for the features topic, which has no transactions: it makes the broker hold
                # back a committed offset while the transaction that moves it is undecided.
                "isolation.level": "read_committed",
                "error_cb": self._on_client_error,
            }
        )
        self._marks: dict[int, int] = {}
        self._was_placed = False
        self._champion: LoadedBundle | None = None
        self._drift_event: dict[str, Any] | None = None
        self._observed_s = 0.0

    def stop(self) -> None:
        """Ends `run` after the batch in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Scores until stopped.

        Raises:
            ServiceUnavailableError: the transactions were taken over or ended by the broker.
            WireError: the features topic holds what another plan packed.
            PositionError: the features topic no longer holds what comes after the last score.
        """
        self._champions.start()
        try:
            self._transactions.open()
            self._wait_for_champion()
            self._consumer.subscribe([self._plan.features_topic], on_assign=self._on_assign)
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._champions.stop()
            self._consumer.close()

    def _wait_for_champion(self) -> None:
        said = ""
        while self._champions.current is None and not self._stopping.wait(0.1):
            if self._champions.waiting_for != said:
                said = self._champions.waiting_for
                logger.info("scorer: waiting for %s", said)

    def _turn(self) -> None:
        messages = self._read()
        champion = self._follow_champion()
        if champion is None:
            return
        if messages or self._drift_event is not None:
            began_s = time.perf_counter()
            batch = take(self._plan, messages, self._marks)
            try:
                self._score(champion, batch)
            except Aborted:
                metrics.SCORER_ABORTS.inc()
                self._place(self._consumer.assignment())
                return
            metrics.SCORE_BATCH_SECONDS.observe(time.perf_counter() - began_s)
        if time.monotonic() - self._observed_s > _OBSERVE_EVERY_S:
            self._observe(champion)

    def _read(self) -> list[Message]:
        """What has arrived, without waiting for more than the first message."""
        first = self._consumer.poll(POLL_S)
        if first is None:
            return []
        found = [first, *self._consumer.consume(BATCH_MESSAGES - 1, 0)]
        for message in found:
            if message.error() is not None:
                self._on_read_error(message.error())
        return [message for message in found if message.error() is None]

    def _on_read_error(self, error: KafkaError) -> None:
        # What the consumer hands out for a fatal error need not call itself fatal.
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            raise ServiceUnavailableError(
                f"Kafka at {self._bootstrap} ended the scorer's reading: {error.str()}; another "
                "scorer of the same name may have started: start this one again"
            )
        topic = self._plan.features_topic
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise PositionError(f"{topic} lost what was to be read: {error.str()}; {self._mend()}")
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART and self._was_placed:
            raise PositionError(f"{topic} was deleted under the scorer; {self._mend()}")
        logger.warning("scorer: reading %s: %s", topic, error.str())
        self._stopping.wait(1.0)

    def _on_client_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._on_read_error(error)
        logger.warning("scorer: Kafka at %s: %s", self._bootstrap, error.str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._place(partitions)

    def _place(self, partitions: list[TopicPartition]) -> None:
        """Goes to the committed offsets and takes the marks that were committed with them."""
        while partitions:
            try:
                committed = self._consumer.committed(partitions, timeout=10)
                self._check(committed)
            except KafkaException as failure:
                logger.warning("scorer: cannot read committed offsets: %s", failure.args[0].str())
                if self._stopping.wait(1.0):
                    return
                continue
            self._was_placed = True
            self._consumer.assign(committed)
            logger.info(
                "scorer: reads %s from %s", self._plan.features_topic,
                ", ".join(f"{tp.partition}@{max(tp.offset, 0)}" for tp in committed),
            )  # fmt: skip
            return
        self._marks = {}

    def _check(self, committed: list[TopicPartition]) -> None:
        """Take the marks, and set offsets to where the log is to be read on."""
        topic, partitions = self._plan.features_topic, self._plan.partitions
        marks = {}
        for at in committed:
            if at.partition >= partitions:
                raise PositionError(
                    f"{topic} has got a partition {at.partition}, the plan has {partitions}: give "
                    "the feature set a new version"
                )
            low, high = self._consumer.get_watermark_offsets(at, timeout=10)
            marks[at.partition] = mark_of(at)
            if at.offset < 0 < low:
                logger.warning(
                    "scorer: %s [%d] is read from offset %d on, the first it still holds",
                    topic, at.partition, low,
                )  # fmt: skip
            at.offset = reading_from(topic, at.partition, at.offset, low, high, self._mend())
        self._marks = marks

    def _mend(self) -> str:
        return (
            "events it held were not scored: give the feature set a new version, or go on without "
            f"them by moving the offsets of the group {self._group!r}"
        )

    def _follow_champion(self) -> LoadedBundle | None:
        """The version for the next batch; a change of it starts drift and its gauges anew."""
        champion = self._champions.current
        if champion is not None and champion is not self._champion:
            self._champion = champion
            self._drift_event = None
            metrics.MODEL_INFO.clear()
            metrics.MODEL_INFO.labels(champion.version, champion.manifest.fingerprint).set(1)
            metrics.DRIFT_PSI.clear()
            metrics.DRIFT_THRESHOLD.set(champion.drift.threshold)
        return champion

    def _score(self, champion: LoadedBundle, batch: Batch) -> None:
        failpoint("scorer.read_not_scored")
        rows = batch.rows
        vectors = wire.vectors(self._plan, rows)
        scores = np.empty(0)
        if rows.num_rows:
            scores = champion.engine.score(vectors.astype(np.float32))
        decisions = champion.decisions.of(scores)
        topic = self._plan.scored_topic
        outputs: list[Output] = [
            (topic, key, value)
            for key, value in scored.records(self._plan, rows, scores, decisions, champion.version)
        ]
        if self._drift_event is not None:
            value = msgspec.json.encode(self._drift_event)
            outputs.append((self._plan.drift_topic, self._plan.name, value))
        self._transactions.commit(self._consumer, outputs, batch.offsets)
        failpoint("scorer.committed_not_marked")
        committed_us = time.time_ns() // 1000
        self._marks.update(batch.marks)
        if self._drift_event is not None:
            logger.warning("scorer: drift announced: %s", self._drift_event)
            metrics.DRIFT_EVENTS.inc()
            champion.drift.announced()
            self._drift_event = None
        champion.drift.fold(vectors, scores, rows.column("event_time_us").to_numpy())
        self._count(batch, decisions, champion.version, committed_us)

    def _count(self, batch: Batch, decisions: list[str], version: str, committed_us: int) -> None:
        for decision in set(decisions):
            metrics.SCORED.labels(decision, version).inc(decisions.count(decision))
        waited_us = committed_us - batch.rows.column("broker_time_us").to_numpy()
        metrics.observe_all(metrics.SCORE_LATENCY_SECONDS, np.maximum(waited_us, 0) / 1e6)
        for cause, number in batch.skipped.items():
            if number:
                metrics.SCORER_SKIPPED_ROWS.labels(cause).inc(number)

    def _observe(self, champion: LoadedBundle) -> None:
        """Shows drift and lag, and prepares the drift event when drift begins."""
        self._observed_s = time.monotonic()
        measured = champion.drift.measure()
        for found in measured:
            metrics.DRIFT_PSI.labels(found.column).set(found.psi)
        metrics.DRIFT_ROWS.set(champion.drift.rows)
        self._drift_event = champion.drift.event(measured)
        for place in self._consumer.position(self._consumer.assignment()):
            _, end = self._consumer.get_watermark_offsets(place, cached=True)
            if place.offset >= 0 and end >= 0:
                metrics.CONSUMER_LAG_MESSAGES.labels(place.topic, place.partition).set(
                    max(end - place.offset, 0)
                )


def main() -> None:
    """Runs the scorer of `PENSTOCK_FEATURE_SET` until SIGTERM."""
    # One line for each look at the champion would bury the rest.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    shared = shared_settings()
    metrics.serve(shared.metrics_port, shared.bind_host)
    scorer = Scorer(load_plan(shared.feature_set), shared.kafka_bootstrap, serving_settings())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: scorer.stop())
    try:
        scorer.run()
    except PenstockError as error:
        logger.critical("scorer: %s", error)
        sys.exit(1)
    logger.info("scorer: ended")

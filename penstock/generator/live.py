"""A live run: payments and labels go to Kafka on a clock that runs faster than the real one.

Event time moves `scale` seconds a second. The load is open-loop: a record is handed to the producer
when its time has come, whether earlier ones are acknowledged or not, so a slow stream shows as
latency and not as fewer payments.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from features.errors import PenstockError, ServiceUnavailableError
from features.plan import Plan
from features.settings import settings
from penstock.generator.faults import Faults
from penstock.generator.payments import PaymentWorld, to_us
from penstock.generator.records import BROKEN, COPY, LABEL, PAYMENT, RawRecord, RecordWriter

log = logging.getLogger(__name__)

_TICK_S = 0.005
_CHUNK_S = 0.25
"""Real time drawn at once; it is drawn one chunk ahead, so drawing does not delay sending."""

_PROGRESS_S = 0.2
_METADATA_TIMEOUT_S = 5.0
_SECOND_US = 1_000_000


@dataclass
class LiveReport:
    """What a run has sent so far, judged by the order within each raw partition.

    `payments` counts each valid payment once; `late` and `out_of_order` are among them.
    """

    event_time: datetime
    until: datetime
    elapsed_s: float = 0.0
    payments: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    late: int = 0
    labels: int = 0
    labels_changed: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    unacknowledged: int = 0
    drift_at: datetime | None = None

    @property
    def records(self) -> int:
        """Records sent to both raw topics."""
        return self.payments + self.duplicates + self.broken.total() + self.labels


class LiveRun:
    """Sends what a world pays from `start` on, for some real seconds.

    Args:
        world: whose payments; it decides the rate together with the scale.
        plan: names the topics and the lateness.
        start: event time of the first payment; where the history ends.
        scale: seconds of event time a real second.
        seconds: how long, in real time.
        faults: what goes wrong on the way.
        seed: of the faults.

    Raises:
        PenstockError: event time would overtake the real clock.
    """

    def __init__(
        self,
        world: PaymentWorld,
        plan: Plan,
        start: datetime,
        scale: float,
        seconds: float,
        faults: Faults,
        seed: int,
    ) -> None:
        until = start + timedelta(seconds=seconds * scale)
        if until > datetime.now(UTC):
            raise PenstockError(
                f"event time would reach {until:%Y-%m-%d %H:%M}, past the real clock: broker times "
                "would make those payments lie in the future; start earlier, or run fewer seconds "
                "or at a smaller scale"
            )
        self._world = world
        self._plan = plan
        self._start_us, self._until_us = to_us(start), to_us(until)
        self._scale = scale
        self._seconds = seconds
        self._faults = faults
        self._seed = seed
        self._drift_wanted = threading.Event()
        self._failure: KafkaError | None = None
        self._pending: list[tuple[int, int, RawRecord]] = []
        self._order = 0
        self._drawn_until_us = self._start_us
        self._newest_us: dict[int, int] = {}
        self._verdicts: dict[int, str] = {}
        self._changed: set[int] = set()
        self._topics = {
            PAYMENT: plan.event_topic,
            COPY: plan.event_topic,
            BROKEN: plan.event_topic,
            LABEL: plan.label_topic,
        }
        self.report = LiveReport(start, until, drift_at=world.drift_at)

    @property
    def world(self) -> PaymentWorld:
        """The world as it is now, with its drift once that is on."""
        return self._world

    @property
    def rate(self) -> float:
        """Payments a real second, on average."""
        return self._world.payments_per_day * self._scale / 86_400

    def drift_on(self) -> None:
        """Let spending and fraud change from the next chunk on; `report.drift_at` tells when."""
        self._drift_wanted.set()

    def run(
        self,
        progress: Callable[[LiveReport], None] = lambda report: None,
        stop: threading.Event | None = None,
    ) -> LiveReport:
        """Send everything, wait until it is acknowledged, and say what it was.

        Args:
            progress: called about five times a second with the report so far.
            stop: ends the run early; what was drawn by then is still sent.

        Raises:
            ServiceUnavailableError: Kafka does not answer, or refused a record.
            PenstockError: a topic does not exist.
        """
        stop = stop or threading.Event()
        producer = self._connect()
        writer = RecordWriter(
            self._seed,
            self._faults,
            self._plan.lateness_us,
            *self._partitions(producer),
        )
        self._draw(writer)
        began = time.monotonic()
        next_progress_s = 0.0
        while not stop.is_set():
            elapsed_s = min(time.monotonic() - began, self._seconds)
            clock_us = self._start_us + int(elapsed_s * self._scale * _SECOND_US)
            self._send_until(producer, clock_us)
            self._tell(producer, clock_us, elapsed_s)
            if elapsed_s >= next_progress_s:
                progress(self.report)
                next_progress_s = elapsed_s + _PROGRESS_S
            if elapsed_s >= self._seconds:
                break
            if self._drawn_until_us - clock_us < _CHUNK_S * self._scale * _SECOND_US:
                self._draw(writer)
            spent_s = time.monotonic() - began - elapsed_s
            time.sleep(max(0.0, _TICK_S - spent_s))
        self._finish(producer, progress)
        return self.report

    def _connect(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": settings().kafka_bootstrap,
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "message.timeout.ms": 0,
                "linger.ms": 5,
                "queue.buffering.max.messages": 1_000_000,
                "error_cb": self._on_error,
                # Its log repeats at every attempt to connect what the callback says once.
                "log_level": 0,
            }
        )

    def _partitions(self, producer: Producer) -> tuple[int, int]:
        """Partitions of the raw event topic and of the raw label topic."""
        try:
            known = producer.list_topics(timeout=_METADATA_TIMEOUT_S).topics
        except KafkaException as error:
            raise ServiceUnavailableError(
                f"Kafka does not answer at {settings().kafka_bootstrap}; "
                "`penstock up kafka` starts the local one"
            ) from error
        for topic in (self._plan.event_topic, self._plan.label_topic):
            if topic not in known:
                raise PenstockError(f"the topic {topic} does not exist; `penstock apply` makes it")
        return (
            len(known[self._plan.event_topic].partitions),
            len(known[self._plan.label_topic].partitions),
        )

    def _draw(self, writer: RecordWriter) -> None:
        """Draw the next chunk and put its records in line."""
        from_us = self._drawn_until_us
        chunk_us = int(_CHUNK_S * self._scale * _SECOND_US)
        until_us = min(from_us + chunk_us, self._until_us)
        if until_us <= from_us:
            return
        if self._drift_wanted.is_set() and self._world.drift_at is None:
            drift_at = datetime.fromtimestamp(from_us // _SECOND_US, UTC) + timedelta(
                microseconds=from_us % _SECOND_US
            )
            self._world = self._world.with_drift(drift_at)
            self.report.drift_at = drift_at
        for records in (
            writer.payments(self._world.payments(from_us, until_us)),
            writer.labels(self._world.labels(from_us, until_us)),
        ):
            for record in records:
                self._order += 1
                heapq.heappush(self._pending, (record.send_us, self._order, record))
        self._drawn_until_us = until_us

    def _send_until(self, producer: Producer, clock_us: int) -> None:
        while self._pending and self._pending[0][0] <= clock_us:
            record = heapq.heappop(self._pending)[2]
            self._send(producer, record)
        producer.poll(0)
        if self._failure is not None:
            raise ServiceUnavailableError(
                f"Kafka at {settings().kafka_bootstrap} refused a record: {self._failure}; "
                "records after it were not sent, start the run again from an empty stack"
            )

    def _send(self, producer: Producer, record: RawRecord) -> None:
        while True:
            try:
                producer.produce(
                    self._topics[record.what],
                    record.value,
                    record.key,
                    record.partition,
                    self._on_delivery,
                    headers=list(record.headers),
                )
            except BufferError:
                # The broker is away or behind; a gap is worse than a late record.
                producer.poll(0.05)
            else:
                break
        self._count(record)

    def _count(self, record: RawRecord) -> None:
        report = self.report
        if record.what == BROKEN:
            report.broken[record.says] += 1
        elif record.what == COPY:
            report.duplicates += 1
        elif record.what == LABEL:
            report.labels += 1
            if self._verdicts.setdefault(record.number, record.says) != record.says:
                self._changed.add(record.number)
                report.labels_changed = len(self._changed)
        else:
            report.payments += 1
            newest_us = self._newest_us.get(record.partition, record.event_time_us)
            if record.event_time_us < newest_us - self._plan.lateness_us:
                report.late += 1
            elif record.event_time_us < newest_us:
                report.out_of_order += 1
            self._newest_us[record.partition] = max(newest_us, record.event_time_us)

    def _tell(self, producer: Producer, clock_us: int, elapsed_s: float) -> None:
        self.report.event_time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock_us)
        self.report.elapsed_s = elapsed_s
        self.report.unacknowledged = len(producer)

    def _finish(self, producer: Producer, progress: Callable[[LiveReport], None]) -> None:
        """Send what is still held back, then wait for the last acknowledgement."""
        while self._pending:
            self._send_until(producer, self._pending[0][0])
        self.report.event_time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            microseconds=self._drawn_until_us
        )
        self.report.until = self.report.event_time
        while producer.flush(_PROGRESS_S):
            self.report.unacknowledged = len(producer)
            progress(self.report)
            self._send_until(producer, 0)
        self._send_until(producer, 0)
        self.report.unacknowledged = 0
        progress(self.report)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = error
        elif self._drawn_until_us > self._start_us:
            log.warning("Kafka: %s; waiting for it to come back", error.str())

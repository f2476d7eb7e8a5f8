"""The dead letters of a users' topic: found, sent through the door again, or dropped.

Nothing but Kafka remembers what became of a letter: a marker goes into the same dead-letter topic.
A replayed record and its marker are one transaction, and whoever begins takes the transaction's
name from a predecessor. So a letter is sent once, whoever asks at the same time and whatever is
killed meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from features.errors import PenstockError, ServiceUnavailableError
from features.settings import settings
from features.wire import (
    CUT_FROM,
    DROPPED,
    REPLAY_OF,
    REPLAYED,
    DeadLetter,
    Dealt,
    Headers,
    dead_letter_topic,
    is_dead_letter,
    origin_text,
    own_headers,
)
from streaming.broker import read_all

OPEN = "open"
"""The state of a letter that nobody has dealt with; else it is `REPLAYED` or `DROPPED`."""

_BATCH_LETTERS, _BATCH_BYTES = 500, 8 * 1024 * 1024
"""What one transaction holds at most: a few milliseconds for each, and bounded memory."""

_PATIENCE_S = 30.0

_silent = logging.Logger("penstock.dlq", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Letter:
    """A dead letter, where it lies in its topic, and what became of it."""

    said: DeadLetter
    place: tuple[int, int]
    is_cut: bool
    replay_of: str
    state: str = OPEN
    dealt_ms: int | None = None

    @property
    def origin(self) -> str:
        """The refused record: `topic/partition/offset`."""
        return origin_text(self.said.topic, self.said.partition, self.said.offset)


@dataclass
class Dealings:
    """What a replay or a drop did: letters by origin."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


def letters(topic: str) -> list[Letter]:
    """Every dead letter of a users' topic that is still held, in the order of broker time.

    One that a crash of ingest has repeated is one letter.

    Raises:
        ServiceUnavailableError: the broker does not answer.
    """
    found: dict[tuple[int, int], Letter] = {}
    for message in read_all(dead_letter_topic(topic)):
        headers = message.headers() or []
        marker = Dealt.from_headers(headers)
        if marker is not None:
            held = found.get((marker.partition, marker.offset))
            # A topic's retention may leave a marker without its letter.
            if held is not None:
                found[marker.partition, marker.offset] = dataclasses.replace(
                    held, state=marker.how, dealt_ms=message.timestamp()[1]
                )
        elif is_dead_letter(headers):
            said = DeadLetter.from_headers(headers)
            letter = Letter(
                said,
                (message.partition(), message.offset()),
                any(name == CUT_FROM for name, _ in headers[-1:]),
                _text(dict(own_headers(headers)).get(REPLAY_OF)),
            )
            found.setdefault((said.partition, said.offset), letter)
    return sorted(found.values(), key=lambda each: (each.said.timestamp_ms, each.place))


def record_of(letter: Letter) -> Message:
    """The message of a letter: the refused record's key, value and headers.

    Raises:
        PenstockError: the topic no longer holds it.
    """
    for message in _messages([letter]):
        return message
    raise PenstockError(f"the dead letter of {letter.origin} is held no longer")


def replay(topic: str, wanted: Callable[[DeadLetter], bool], again: bool = False) -> Dealings:
    """Send refused records to their topic once more, with their key, value and headers.

    Each carries its former origin as the header `REPLAY_OF`. What was replayed or dropped before is
    skipped unless `again`; so is a record of which the letter holds only the beginning.

    Raises:
        ServiceUnavailableError: the broker does not answer.
        PenstockError: another command took over, or the broker refuses a record.
    """
    with _Transactions(topic) as transactions:
        dealings, chosen = _choose(topic, wanted, again)
        for letter in [each for each in chosen if each.is_cut]:
            chosen.remove(letter)
            dealings.cut.append(letter.origin)
        by_place = {letter.place: letter for letter in chosen}
        for message in _messages(chosen):
            letter = by_place[message.partition(), message.offset()]
            rest = [each for each in own_headers(message.headers() or []) if each[0] != REPLAY_OF]
            headers = [*rest, (REPLAY_OF, letter.origin.encode())]
            transactions.send(letter, REPLAYED, (message.value(), message.key(), headers))
            dealings.done.append(letter.origin)
    return dealings


def drop(topic: str, wanted: Callable[[DeadLetter], bool]) -> Dealings:
    """Mark letters as dealt with; those that were replayed or dropped before are skipped.

    Raises:
        ServiceUnavailableError: the broker does not answer.
        PenstockError: another command took over.
    """
    with _Transactions(topic) as transactions:
        dealings, chosen = _choose(topic, wanted, again=False)
        for letter in chosen:
            transactions.send(letter, DROPPED)
            dealings.done.append(letter.origin)
    return dealings


def _choose(
    topic: str, wanted: Callable[[DeadLetter], bool], again: bool
) -> tuple[Dealings, list[Letter]]:
    found = [letter for letter in letters(topic) if wanted(letter.said)]
    chosen = [letter for letter in found if again or letter.state == OPEN]
    skipped = [letter.origin for letter in found if not again and letter.state != OPEN]
    return Dealings(skipped=skipped), chosen


def _messages(wanted: Iterable[Letter]) -> Iterator[Message]:
    """The messages of letters of one topic, read again: payloads are never all in memory."""
    places = {letter.place: letter.said.topic for letter in wanted}
    for topic in set(places.values()):
        first: dict[int, int] = {}
        for partition, offset in places:
            first[partition] = min(offset, first.get(partition, offset))
        for message in read_all(dead_letter_topic(topic), first):
            if places.pop((message.partition(), message.offset()), None) is not None:
                yield message
            if not places:
                return


class _Transactions:
    """Records and markers about one topic's letters, a transaction for each few hundred."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._letters, self._bytes = 0, 0
        self._refused: KafkaError | None = None
        self._ended: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": settings().kafka_bootstrap,
                "transactional.id": f"penstock.dlq.{topic}",
                "message.max.bytes": 4 * 1024 * 1024,
                # The default waits 100 ms between the steps of a commit.
                "retry.backoff.ms": 2,
                "error_cb": self._on_error,
                # What matters is said once, by the error that is raised.
                "log_level": 0,
                "logger": _silent,
            }
        )

    def __enter__(self) -> _Transactions:
        # From here on no marker comes but ours: a predecessor's transaction is ended.
        self._do(lambda: self._producer.init_transactions(_PATIENCE_S))
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None and self._letters:
            self._commit()
        elif failed is not None:
            # Else readers of these topics wait until the broker gives it up.
            with contextlib.suppress(KafkaException):
                self._producer.abort_transaction(_PATIENCE_S)

    def send(
        self,
        letter: Letter,
        how: str,
        record: tuple[bytes | None, bytes | None, Headers] | None = None,
    ) -> None:
        """Mark a letter, and send a record (value, key, headers) to where it came from."""
        said = letter.said
        if not self._letters:
            self._do(self._producer.begin_transaction)
        if record is not None:
            self._produce(said.topic, said.partition, *record)
        marker = Dealt(said.topic, said.partition, said.offset, how)
        target = dead_letter_topic(said.topic)
        self._produce(target, letter.place[0], None, None, marker.headers())
        self._letters += 1
        if self._letters >= _BATCH_LETTERS or self._bytes >= _BATCH_BYTES:
            self._commit()

    def _produce(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
    ) -> None:
        self._bytes += len(value or b"") + len(key or b"")
        self._do(
            lambda: self._producer.produce(
                topic,
                value,
                key,
                partition,
                headers=list(headers),
                on_delivery=self._on_delivery,
            )
        )

    def _commit(self) -> None:
        self._letters, self._bytes = 0, 0
        self._do(lambda: self._producer.commit_transaction(_PATIENCE_S))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._ended = error

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._refused = self._refused or error

    def _do(self, step: Callable[[], None]) -> None:
        try:
            step()
        except KafkaException as failure:
            # Which error was fatal is told on the side.
            self._producer.poll(0)
            error: KafkaError = self._ended or failure.args[0]
            if error.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                raise PenstockError(
                    f"another `penstock dlq` command on {self._topic} took over; what this one had "
                    "not finished is as it was: look with `penstock dlq list`"
                ) from None
            if error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
                raise ServiceUnavailableError(
                    f"no broker answers at {settings().kafka_bootstrap}; start one with "
                    "`penstock up kafka`"
                ) from None
            said = (self._refused or error).str()
            raise PenstockError(
                f"the broker refuses what is sent about {self._topic}: {said}; what was not "
                "finished is as it was: look with `penstock dlq list`"
            ) from None


def _text(header: bytes | None) -> str:
    return bytes(header or b"").decode(errors="backslashreplace")

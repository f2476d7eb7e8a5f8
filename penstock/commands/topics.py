"""`penstock produce` and `penstock tail`: a user's own events in, any topic's records out."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.errors import PenstockError, ServiceUnavailableError
from features.place import did_you_mean
from features.settings import settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

_PATIENCE_S = 30


def produce(
    file: Annotated[
        Path,
        typer.Argument(
            help="One JSON event a line; - reads them from standard input.", metavar="FILE.jsonl"
        ),
    ],
    topic: Annotated[
        str, typer.Option(help="By default the feature set's event topic.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send events from a file; lines are sent as they are, so broken ones become dead letters."""
    from confluent_kafka import KafkaException, Producer

    from features.catalog import load_plan
    from features.wire import dead_letter_topic, late_topic

    plan = load_plan(settings().feature_set)
    target = topic or plan.event_topic
    piped = str(file) == "-"
    if not piped and not file.is_file():
        raise PenstockError(f"there is no file {str(file)!r}")
    _partitions(target)
    lost: list[str] = []
    acknowledged = 0

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        nonlocal acknowledged
        if error is None:
            acknowledged += 1
        else:
            lost.append(error.str())

    producer = Producer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "enable.idempotence": True,
            "message.timeout.ms": _PATIENCE_S * 1000,
            "linger.ms": 5,
            "log_level": 0,
        }
    )
    with contextlib.nullcontext(sys.stdin.buffer) if piped else file.open("rb") as lines:
        for line in lines:
            value = line.rstrip(b"\r\n")
            if not value:
                continue
            key = _key_of(value, plan.key_field)
            while True:
                try:
                    producer.produce(target, value, key, on_delivery=on_delivery)
                except BufferError:
                    producer.poll(0.1)
                    continue
                except KafkaException as error:
                    raise PenstockError(
                        f"{file}: a record of {len(value)} bytes cannot be sent: {error}; "
                        f"{acknowledged} records before it were acknowledged"
                    ) from error
                break
            producer.poll(0)
    producer.flush(_PATIENCE_S + 5)
    if lost:
        raise PenstockError(
            f"{acknowledged} records were acknowledged on {target}, {len(lost)} were not: {lost[0]}"
        )
    if as_json:
        print(json.dumps({"topic": target, "acknowledged": acknowledged}))
    else:
        print(f"{acknowledged} records acknowledged on {target}")
    if target == plan.event_topic:
        # Without a label there is no model, and so no scores.
        finished = plan.scored_topic if plan.label else plan.features_topic
        print(
            f"{'scores' if plan.label else 'features'}: penstock tail {finished}; refused records: "
            f"penstock tail {dead_letter_topic(target)}; too late ones: {late_topic(target)}",
            file=sys.stderr,
        )


def tail(
    topic: Annotated[str, typer.Argument(help="Any topic of ours or of yours.")],
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start at the oldest record.")
    ] = False,
    number: Annotated[int, typer.Option("-n", min=0, help="Stop after so many; 0 goes on.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print partition, offset, time, key and headers too.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Stop after this many seconds without a record; 0 waits.")
    ] = 0.0,
) -> None:
    """Print the records of a topic as they come, one JSON value a line."""
    shown = 0
    for message in _messages(topic, from_beginning, timeout):
        for value in _values(message):
            line = value if not as_json else _with_origin(message, value)
            print(line if isinstance(line, str) else json.dumps(line), flush=True)
            shown += 1
            if number and shown >= number:
                return


def _messages(topic: str, from_beginning: bool, timeout_s: float) -> Iterator[Message]:
    from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, TopicPartition

    partitions = _partitions(topic)
    consumer = Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": "penstock.tail",
            "enable.auto.commit": False,
            # Scores of a transaction that was aborted never were.
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    start = OFFSET_BEGINNING if from_beginning else OFFSET_END
    consumer.assign([TopicPartition(topic, partition, start) for partition in range(partitions)])
    try:
        heard = time.monotonic()
        while not timeout_s or time.monotonic() - heard < timeout_s:
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error() is not None:
                raise ServiceUnavailableError(f"{topic} cannot be read: {message.error().str()}")
            heard = time.monotonic()
            yield message
    finally:
        consumer.close()


def _partitions(topic: str) -> int:
    """How many partitions a topic has.

    Raises:
        ServiceUnavailableError: no broker answers.
        PenstockError: there is no such topic.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": settings().kafka_bootstrap, "log_level": 0})
    try:
        held = client.list_topics(timeout=5).topics
    except KafkaException:
        raise ServiceUnavailableError(
            f"no broker answers at {settings().kafka_bootstrap}; start one with `penstock up kafka`"
        ) from None
    if topic not in held:
        known = sorted(name for name in held if not name.startswith("__"))
        hint = did_you_mean(topic, known) if known else "`penstock apply` creates the topics"
        raise PenstockError(f"there is no topic {topic!r}; {hint}")
    return len(held[topic].partitions)


def _key_of(value: bytes, key_field: str) -> bytes | None:
    try:
        record = json.loads(value)
    except ValueError:
        return None
    key = record.get(key_field) if isinstance(record, dict) else None
    return key.encode() if isinstance(key, str) else None


def _values(message: Message) -> list[str | dict[str, Any]]:
    """What a message says: the rows of an envelope, a dead letter, or its own text."""
    from features.wire import MAGIC, DeadLetter, Dealt, is_dead_letter

    value = message.value() or b""
    if value[:4] == MAGIC:
        return _rows(value)
    headers = message.headers() or []
    if is_dead_letter(headers):
        letter = DeadLetter.from_headers(headers)
        payload = value.decode(errors="backslashreplace")
        return [letter.__dict__ | {"payload": payload}]
    marker = Dealt.from_headers(headers)
    if marker is not None:
        return [marker.__dict__]
    return [value.decode(errors="backslashreplace")]


def _rows(envelope: bytes) -> list[str | dict[str, Any]]:
    from features.catalog import load_plan
    from features.wire import decode

    rows = decode(load_plan(settings().feature_set), envelope).to_pylist()
    return [{name: cell for name, cell in row.items() if cell is not None} for row in rows]


def _with_origin(message: Message, value: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    key = message.key()
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
        "key": key.decode(errors="backslashreplace") if key is not None else None,
        "headers": {
            name: (cell or b"").decode(errors="backslashreplace")
            for name, cell in message.headers() or []
        },
        "value": value,
    }

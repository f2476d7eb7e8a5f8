"""A small feature set of its own for each test, its services as processes, and what they wrote.

`python -m tests.streaming.chain SERVICE NAME` runs a service for the feature set of that name.
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from features.fold import Fold
from features.plan import Plan, compile_plan
from features.settings import settings
from features.types import FieldType
from features.vocabulary import (
    Category,
    Entity,
    Event,
    Feature,
    FeatureSet,
    Float,
    Integer,
    Label,
    Money,
    Reference,
    Text,
    category_hash,
    count,
    hours,
    is_known,
    mean,
    minutes,
    rate,
)
from features.wire import KIND_MARKER, decode
from streaming.broker import commits
from streaming.ingest import Ingest
from streaming.lake_sink import LakeSink
from streaming.tokenise import Tokeniser

TOKEN_KEY = "5a" * 32
PATIENCE_S = 120.0
PROJECT = Path(__file__).parents[2]


def plan_of(name: str) -> Plan:
    """Two stages and a label; topics carry the test's name.

    A name that ends in `_pair` has a third stage, by both, and labels that only it reads; one with
    `_looks_up` has a reference on each entity.
    """
    person, shop = Entity("person_id"), Entity("shop_id")
    labelled = Entity("shop_id", "person_id") if name.endswith("_pair") else shop
    sales = Event(
        f"{name}.sale.v1",
        id="sale_id",
        time="at",
        key=person,
        lateness=hours(1),
        fields={"person_id": Text(token=True), "shop_id": Text(), "price": Money("EUR", min=0)},
    )
    refunds = Label(f"{name}.refund.v1", of=sales, field="refunded", known_after=hours(2))
    fields: dict[str, FieldType] = {"limit": Money("EUR"), "tier": Category("low", "high")}
    accounts = Reference(f"{name}.account.v1", key=person, time="valid_from", fields=fields)
    leases = Reference(
        f"{name}.lease.v1",
        key=shop,
        time="since",
        fields={"rate": Float(decimals=2, min=0), "owner": Text(token=True)},
    )
    fields = {"discount": Integer(min=0, max=99)}
    deals = Reference(f"{name}.deal.v1", key=labelled, time="from", fields=fields)
    looked_up: list[Feature] = [
        accounts.tier,
        (accounts.limit - sales.price).named("left"),
        leases.rate,
        category_hash(leases.owner, 1000),
        is_known(leases),
        *([deals.discount] if name.endswith("_pair") else []),
    ]
    return compile_plan(
        FeatureSet(
            name,
            event=sales,
            label=refunds,
            features=[
                sales.price,
                count(by=person, over=minutes(10)),
                mean(sales.price, by=person, over=hours(1)),
                count(by=shop, over=hours(1), delay=minutes(5)),
                rate(refunds.refunded, by=labelled, over=hours(2)),
                *(looked_up if "_looks_up" in name else []),
            ],
        )
    )


def sale(number: int, second: float, person: str = "p1", **changed: Any) -> dict[str, Any]:
    """A sale `second` seconds after 2026-01-05T00:00Z."""
    return {
        "sale_id": f"s{number}",
        "at": moment(second),
        "person_id": person,
        "shop_id": f"shop{number % 3}",
        "price": {"minor": 100 + number, "currency": "EUR"},
    } | changed


def refund(number: int, second: float, refunded: bool = True) -> dict[str, Any]:
    """The label of `sale(number, second)`."""
    return {
        "sale_id": f"s{number}",
        "at": moment(second),
        "shop_id": f"shop{number % 3}",
        "refunded": refunded,
    }


def account(person: str, second: float, limit: int, tier: str = "low") -> dict[str, Any]:
    """A version of the reference on persons, from `second` on."""
    money = {"minor": limit, "currency": "EUR"}
    return {"person_id": person, "valid_from": moment(second), "limit": money, "tier": tier}


def lease(shop: str, second: float, rate: float, owner: str = "me") -> dict[str, Any]:
    """A version of the reference on shops, from `second` on."""
    return {"shop_id": shop, "since": moment(second), "rate": rate, "owner": owner}


def deal(shop: str, person: str, second: float, discount: int) -> dict[str, Any]:
    """A version of the reference on a shop's dealings with a person, from `second` on."""
    return {"shop_id": shop, "person_id": person, "from": moment(second), "discount": discount}


def moment(second: float) -> str:
    """RFC 3339 of a moment on 2026-01-05."""
    whole, micros = divmod(round(second * 1_000_000), 1_000_000)
    hour, rest = divmod(whole, 3600)
    return f"2026-01-05T{hour:02}:{rest // 60:02}:{rest % 60:02}.{micros:06}Z"


def send(topic: str, partition: int, values: list[Any], key: bytes | None = None) -> None:
    """Produce raw values (bytes, None, or what JSON can say) to one partition, in order."""
    producer = Producer({"bootstrap.servers": settings().kafka_bootstrap, "linger.ms": 5})
    for value in values:
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic, partition=partition, value=raw, key=key)
        producer.poll(0)
    assert producer.flush(30) == 0


def read(topic: str, partitions: int, enough: Callable[[list[Message]], bool]) -> list[Message]:
    """Messages of a topic from its beginning until they are enough; fails when they never are."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": "tests",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 4_000_000,
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    messages: list[Message] = []
    until = time.monotonic() + PATIENCE_S
    try:
        while not enough(messages):
            assert time.monotonic() < until, f"{topic} holds only {len(messages)} messages"
            message = consumer.poll(0.2)
            if message is not None:
                assert message.error() is None, message.error()
                messages.append(message)
    finally:
        consumer.close()
    return messages


def read_rows(plan: Plan, topic: str, rows: int) -> list[dict[str, Any]]:
    """Decoded rows of an internal topic, at least so many; markers are no rows."""
    decoded: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def enough(messages: list[Message]) -> bool:
        for message in messages[len(decoded) :]:
            at = (message.partition(), message.offset())
            found = decode(plan, message.value()).to_pylist()
            decoded[at] = [row for row in found if row["kind"] != KIND_MARKER]
        return sum(len(batch) for batch in decoded.values()) >= rows

    read(topic, plan.partitions, enough)
    return [row for batch in decoded.values() for row in batch]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what a service does; fails when it never does."""
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)


def committed(plan: Plan, service: str, topic: str) -> dict[int, TopicPartition]:
    """What the group of a service has committed of each partition of a topic."""
    group = f"penstock.{plan.name}.v{plan.version}.{service}"
    consumer = Consumer({"bootstrap.servers": settings().kafka_bootstrap, "group.id": group})
    held = commits(consumer, [TopicPartition(topic, p) for p in range(plan.partitions)])
    consumer.close()
    return {place.partition: place for place in held}


@contextmanager
def running(service: Ingest | LakeSink) -> Iterator[None]:
    """A service's loop in a thread: enough where nothing is killed."""
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def ingest(plan: Plan) -> Ingest:
    """Ingest under the tests' key."""
    return Ingest(plan, Tokeniser(bytes.fromhex(TOKEN_KEY)))


@contextmanager
def service(name: str, plan: Plan, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service as a process, with more in its environment; its log is `folder/<name>.log`."""
    folder.mkdir(exist_ok=True)
    environment = (
        os.environ
        | {
            "PENSTOCK_TOKEN_KEY": TOKEN_KEY,
            "PENSTOCK_HOME": str(folder),
            "PENSTOCK_LAKE_URI": str(folder / "lake"),
            "PENSTOCK_SNAPSHOT_URI": str(folder / "snapshots"),
            "PENSTOCK_METRICS_PORT": "0",
        }
        | more
    )
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.streaming.chain", name, plan.name],
            env=environment,
            cwd=PROJECT,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def raise_at(fold: int) -> None:
    """Let this process's folding raise once it has folded so many times."""
    whole, folded = Fold.fold_envelopes, itertools.count()

    def raising(self: Fold, *args: Any) -> Any:
        # The stages fold a row each before they begin.
        if next(folded) == fold:
            raise RuntimeError("raised by the test")
        return whole(self, *args)

    Fold.fold_envelopes = raising  # type: ignore[method-assign]


if __name__ == "__main__":
    module = importlib.import_module(f"streaming.{sys.argv[1]}")
    if hasattr(module, "SNAPSHOT_EVERY_S"):
        # Tests live seconds; they must see snapshots, acknowledgements and replays.
        module.SNAPSHOT_EVERY_S = 0.7
    if "RAISE_AT_FOLD" in os.environ:
        raise_at(int(os.environ["RAISE_AT_FOLD"]))
    module.serve(plan_of(sys.argv[2]))

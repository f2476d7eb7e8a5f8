"""The steady load of `penstock chaos`: orders, labels and versions of a reference, drawn by a seed.

Some orders come out of order or late, some twice, some broken; some labels come before their
event. What the clock and the broker make of them lies in the raw log, which is all the judge reads.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from features.plan import Plan
from features.settings import settings
from features.wire import partition_of

PERSONS, SHOPS = 400, 150
REMEMBERED = 400
"""Orders that may be sent again or get a label."""

STALLED_S = 60.0
"""Longer than any fault keeps the broker away."""

_TICK_S = 0.05

POISON = (
    b"",
    b"not json",
    b"[1, 2]",
    b'{"order_id": "\xff\xfe"}',
    b'{"order_id": "p"}',
    b"{" * 3000,
    b" " * 66_000,
)
"""Records that no contract accepts, beside those that break a single rule."""


class Load:
    """Sends records until stopped.

    Args:
        plan: of `penstock/chaos/definitions`.
        seed: of everything drawn; when a record is sent is up to the clock.
        rate: orders a second.
    """

    def __init__(self, plan: Plan, seed: int, rate: float) -> None:
        self._plan = plan
        self._rate = rate
        self._draw = random.Random(f"load {seed}")
        self._producer = _producer()
        self._delivered_s = time.monotonic()
        self.stalls = 0
        """How often a producer had to be given up because it delivered nothing for long."""
        self._recent: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._number = 0
        self._asked: dict[str, int] = dict.fromkeys(("poison", "repeat", "reorder"), 0)
        self._clock_s = [0.0] * plan.partitions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End sending; returns when the broker has every record, or takes none for long.

        What it has not taken is in no raw log, so nobody misses it.
        """
        self._stop.set()
        self._thread.join()
        self._delivered_s = time.monotonic()
        while self._producer.flush(1.0):
            if time.monotonic() - self._delivered_s > STALLED_S:
                self._producer.purge()
                self.stalls += 1
                break

    def ask_for(self, what: str, records: int) -> None:
        """Send so many more broken (`poison`), repeated (`repeat`) or mixed up (`reorder`) ones."""
        self._asked[what] += records

    def move_clock(self, partition: int, seconds: float) -> None:
        """Let the producers of a raw partition tell another time from now on; 0 is the true one."""
        self._clock_s[partition] = seconds

    def _run(self) -> None:
        owed, at = 0.0, time.monotonic()
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            # A machine that stood still does not owe what it could not send.
            owed = min(owed + (now - at) * self._rate, self._rate)
            at = now
            while owed >= 1:
                self._one()
                owed -= 1
            self._more()
            self._producer.poll(0)
            self._replace_stalled(now)

    def _replace_stalled(self, now: float) -> None:
        """Go on with a new producer where the old one has not come back from a broker's absence."""
        if not len(self._producer):
            self._delivered_s = now
        elif now - self._delivered_s > STALLED_S:
            self._producer.purge()
            self._producer = _producer()
            self._delivered_s = now
            self.stalls += 1

    def _one(self) -> None:
        draw = self._draw
        order = self._order()
        if draw.random() < 0.05:
            # Its label comes before it.
            self._label(order)
        self._send(self._plan.event_topic, order["person_id"], order)
        self._recent.append(order)
        chance = draw.random()
        if chance < 0.03:
            self._repeat()
        elif chance < 0.05:
            self._poison()
        elif chance < 0.25:
            self._label(draw.choice(self._recent))
        elif chance < 0.27:
            self._version()

    def _more(self) -> None:
        for what, send in (("poison", self._poison), ("repeat", self._repeat)):
            while self._asked[what]:
                self._asked[what] -= 1
                send()
        if self._asked["reorder"]:
            mixed = [self._order() for _ in range(self._asked["reorder"])]
            self._asked["reorder"] = 0
            for order in mixed:
                order["at"] = _moment(time.time() - self._draw.uniform(0, 15))
                self._send(self._plan.event_topic, order["person_id"], order)

    def _order(self) -> dict[str, Any]:
        draw = self._draw
        self._number += 1
        # A few keys get much of it.
        person = f"p{int(PERSONS * draw.random() ** 2)}"
        partition = partition_of(person, self._plan.partitions)
        behind_s = 0.0
        chance = draw.random()
        if chance < 0.10:
            behind_s = draw.uniform(0, 18)
        elif chance < 0.13:
            behind_s = draw.uniform(22, 200)
        return {
            "order_id": f"o{self._number}",
            "at": _moment(time.time() + self._clock_s[partition] - behind_s),
            "person_id": person,
            "shop_id": f"s{int(SHOPS * draw.random() ** 1.5)}",
            "price": {"minor": draw.randrange(100, 20_000), "currency": "EUR"},
        }

    def _repeat(self) -> None:
        if self._recent:
            again = self._draw.choice(self._recent)
            if self._draw.random() < 0.2:
                # The same id with another price is a duplicate all the same.
                again = again | {"price": {"minor": 1, "currency": "EUR"}}
            self._send(self._plan.event_topic, again["person_id"], again)

    def _poison(self) -> None:
        draw = self._draw
        order = self._order()
        broken: Any = draw.choice(
            [
                *POISON,
                order | {"colour": "red"},
                {name: value for name, value in order.items() if name != "shop_id"},
                order | {"price": {"minor": -1, "currency": "EUR"}},
                order | {"price": {"minor": 5, "currency": "XQX"}},
                order | {"at": _moment(time.time() + 3600)},
                order | {"at": "yesterday"},
            ]
        )
        topic = self._plan.event_topic
        if self._plan.label and draw.random() < 0.2:
            topic = self._plan.label_topic
        self._send(topic, order["person_id"], broken)

    def _label(self, order: dict[str, Any]) -> None:
        label = {
            "order_id": order["order_id"],
            "at": order["at"],
            "shop_id": order["shop_id"],
            "returned": self._draw.random() < 0.5,
        }
        self._send(self._plan.label_topic, order["shop_id"], label)

    def _version(self) -> None:
        draw = self._draw
        shop = f"s{draw.randrange(SHOPS)}"
        version = {
            "shop_id": shop,
            "since": _moment(time.time() + draw.uniform(-60, 20)),
            "rate": round(draw.uniform(0, 9), 2),
            "kind": draw.choice(["food", "fuel", "toys"]),
        }
        self._send(self._plan.references[0].topic, shop, version)

    def _send(self, topic: str, key: str, value: dict[str, Any] | bytes) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        partition = partition_of(key, self._plan.partitions)
        self._producer.produce(
            topic, content, key, partition=partition, on_delivery=self._on_delivery
        )

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._delivered_s = time.monotonic()


def _producer() -> Any:
    return Producer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "enable.idempotence": True,
            # A broker that is down delays records; none is given up.
            "message.timeout.ms": 0,
            "queue.buffering.max.messages": 1_000_000,
            "linger.ms": 5,
            "log_level": 0,
        }
    )


def _moment(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="microseconds")

"""The same fifteen features as Faust's documentation writes them: Records, agents, hopping tables.

`python -m benchmarks.stream.faust_windows GROUP PAYMENTS BY_TERMINAL FEATURES` is one worker. Faust
has no sliding windows: every window hops sixty times in its length, and what is read is the oldest
hop that holds the event. Tables are in memory and write no changelog, which is kind to Faust: each
of the sixty hops of each table would else be a message. There is no model behind it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import faust

from benchmarks.stream.fifteen import DAYS
from benchmarks.update import HOPS
from features.settings import settings


class Amount(faust.Record):
    minor: int
    currency: str


class Payment(faust.Record, serializer="json"):
    transaction_id: str
    event_time: str
    customer_id: str
    terminal_id: str
    amount: Amount


class ByTerminal(faust.Record, serializer="json"):
    transaction_id: str
    customer_id: str
    terminal_id: str
    features: dict[str, float]


class Features(faust.Record, serializer="json"):
    transaction_id: str
    customer_id: str
    features: dict[str, float]


def app_of(group: str, payments: str, by_terminal: str, features: str) -> Any:
    """Two agents between three topics."""
    app = faust.App(
        group,
        broker=f"aiokafka://{settings().kafka_bootstrap}",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_partitions=4,
        topic_disable_leader=True,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
    )
    paid = app.topic(payments, value_type=Payment, key_type=str)
    at_terminal = app.topic(by_terminal, value_type=ByTerminal, key_type=str)
    made = app.topic(features, value_type=Features, key_type=str)
    of_customer, of_terminal = tables(app, "customer"), tables(app, "terminal")

    @app.agent(paid)
    async def by_customer(stream: Any) -> None:
        async for event in stream.events():
            payment = event.value
            at = datetime.fromtimestamp(event.message.timestamp, UTC)
            found = {
                "amount": float(payment.amount.minor),
                "is_weekend": float(at.weekday() >= 5),
                "is_night": float(at.hour < 6),
            }
            add(of_customer, "customer", payment.customer_id, payment.amount.minor, found)
            value = ByTerminal(
                transaction_id=payment.transaction_id,
                customer_id=payment.customer_id,
                terminal_id=payment.terminal_id,
                features=found,
            )
            await at_terminal.send(
                key=payment.terminal_id, value=value, timestamp=event.message.timestamp
            )

    @app.agent(at_terminal)
    async def by_the_terminal(stream: Any) -> None:
        async for row in stream:
            found = dict(row.features)
            add(of_terminal, "terminal", row.terminal_id, int(found["amount"]), found)
            value = Features(
                transaction_id=row.transaction_id, customer_id=row.customer_id, features=found
            )
            await made.send(key=row.customer_id, value=value)

    return app


def tables(app: Any, entity: str) -> list[tuple[int, Any, Any]]:
    """A table of counts and one of sums for each window."""
    made = []
    for days in DAYS:
        size_s = days * 86_400
        pair = []
        for what in ("count", "sum"):
            table = app.Table(f"{entity}_{what}_{days}", default=int)
            table.on_key_set = lambda key, value: None
            pair.append(table.hopping(size_s, size_s / HOPS))
        made.append((days, *pair))
    return made


def add(
    windows: list[tuple[int, Any, Any]],
    entity: str,
    key: str,
    amount: int,
    found: dict[str, float],
) -> None:
    """Take one payment in and read count and mean of every window."""
    for days, counts, sums in windows:
        counts[key] += 1
        sums[key] += amount
        back_s = days * 86_400 * (1 - 1 / HOPS)
        held = counts[key].delta(back_s)
        found[f"{entity}_count_{days}d"] = held
        found[f"{entity}_amount_mean_{days}d"] = sums[key].delta(back_s) / held


if __name__ == "__main__":
    faust.Worker(app_of(*sys.argv[1:]), quiet=True, loglevel="WARNING").execute_from_commandline()

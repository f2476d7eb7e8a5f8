"""The feature set that is measured: fifteen features in two stages, without a label.

Peers have no word for a label that arrives later, so there is none. Every run has a set of its own
name, whose topics, groups and state nobody else uses.
"""

from __future__ import annotations

from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Money,
    Text,
    count,
    days,
    hours,
    is_night,
    is_weekend,
    mean,
)

DAYS = (1, 7, 30)


def fifteen(name: str) -> FeatureSet:
    """Payments under the topics `<name>.*`, with the contract of the payment generator."""
    customer, terminal = Entity("customer_id"), Entity("terminal_id")
    payments = Event(
        f"{name}.transaction.v1",
        id="transaction_id",
        time="event_time",
        key=customer,
        lateness=hours(1),
        fields={
            "customer_id": Text(max=64, token=True),
            "terminal_id": Text(max=64),
            "amount": Money("EUR", min=0),
        },
    )
    return FeatureSet(
        name,
        event=payments,
        features=[
            payments.amount,
            is_weekend(payments),
            is_night(payments),
            *(count(by=customer, over=days(d)) for d in DAYS),
            *(mean(payments.amount, by=customer, over=days(d)) for d in DAYS),
            *(count(by=terminal, over=days(d)) for d in DAYS),
            *(mean(payments.amount, by=terminal, over=days(d)) for d in DAYS),
        ],
    )

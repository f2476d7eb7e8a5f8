"""Card-payment fraud: the fifteen features of the Fraud Detection Handbook (Le Borgne et al.)."""

from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Label,
    Money,
    Text,
    count,
    days,
    hours,
    is_night,
    is_weekend,
    mean,
    rate,
    seconds,
)

customer = Entity("customer_id")
terminal = Entity("terminal_id")

payments = Event(
    "payments.transaction.v1",
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

chargebacks = Label("payments.chargeback.v1", of=payments, field="is_fraud", known_after=days(7))

card_fraud = FeatureSet(
    "card_fraud",
    event=payments,
    label=chargebacks,
    owner="payments-risk",
    description="How customers spend and how often terminals turned out to be abused, for the "
    "decision whether a card payment is fraud.",
    tags=("payments", "fraud"),
    freshness=seconds(1),
    features=[
        payments.amount,
        is_weekend(payments),
        is_night(payments),
        *(count(by=customer, over=days(d)) for d in (1, 7, 30)),
        *(mean(payments.amount, by=customer, over=days(d)) for d in (1, 7, 30)),
        *(count(by=terminal, over=days(d), delay=days(7)) for d in (1, 7, 30)),
        *(rate(chargebacks.is_fraud, by=terminal, over=days(d), delay=days(7)) for d in (1, 7, 30)),
    ],
)

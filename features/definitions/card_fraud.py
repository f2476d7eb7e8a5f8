"""Card-payment fraud.

The first fifteen features are those of the Fraud Detection Handbook (Le Borgne et al.); the others
say how fast a card is used, how a payment lies against its customer's own history, and what has
become known about its terminal.
"""

from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Label,
    Money,
    Text,
    count,
    days,
    distinct,
    hour_of_day,
    hours,
    is_night,
    is_weekend,
    label_count,
    log1p,
    max,
    mean,
    rate,
    seconds,
    seconds_between,
    seconds_since_label,
    seconds_since_last,
    std,
    sum,
    velocity_ratio,
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

# Habits are taken from before any card fraud that is not known yet.
usual_amount = mean(payments.amount, by=customer, over=days(30), delay=days(14))
usual_spread = std(payments.amount, by=customer, over=days(30), delay=days(14))
largest_amount = max(payments.amount, by=customer, over=days(30))
terminal_amount = mean(payments.amount, by=terminal, over=days(30))

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
        hour_of_day(payments),
        log1p(payments.amount).named("log_amount"),
        *(count(by=customer, over=hours(h)) for h in (1, 6)),
        *(sum(payments.amount, by=customer, over=days(d)) for d in (1, 7)),
        velocity_ratio(by=customer, short=days(1), long=days(30)),
        velocity_ratio(payments.amount, by=customer, short=days(1), long=days(30)),
        seconds_since_last(by=customer, over=days(30)),
        seconds_between(by=customer, over=days(30)),
        distinct(payments.terminal_id, by=customer, over=days(30)),
        largest_amount,
        std(payments.amount, by=customer, over=days(30)),
        usual_amount,
        usual_spread,
        ((payments.amount - usual_amount) / usual_spread).named("customer_amount_deviation"),
        (payments.amount / usual_amount).named("customer_amount_to_usual"),
        (payments.amount / largest_amount).named("customer_amount_to_largest"),
        *(count(by=terminal, over=days(d)) for d in (1, 7)),
        distinct(payments.customer_id, by=terminal, over=days(7)),
        terminal_amount,
        (payments.amount / terminal_amount).named("terminal_amount_to_usual"),
        *(
            label_count(chargebacks.is_fraud, by=terminal, over=days(d), delay=days(7))
            for d in (1, 7, 14, 30, 60)
        ),
        seconds_since_label(chargebacks.is_fraud, by=terminal, over=days(60), delay=days(7)),
    ],
)

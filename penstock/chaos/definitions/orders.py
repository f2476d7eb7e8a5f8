"""The feature set of `penstock chaos`: two stages, a label, a reference, windows of seconds.

Its windows, lateness and labels are short, so that everything a stage ever lets go of is let go of
within minutes of the real clock.
"""

from features.vocabulary import (
    Category,
    Entity,
    Event,
    FeatureSet,
    Float,
    Label,
    Money,
    Reference,
    Text,
    count,
    is_known,
    mean,
    minutes,
    rate,
    seconds,
)

person, shop = Entity("person_id"), Entity("shop_id")

orders = Event(
    "chaos.order.v1",
    id="order_id",
    time="at",
    key=person,
    lateness=seconds(20),
    fields={
        "person_id": Text(max=32, token=True),
        "shop_id": Text(max=32),
        "price": Money("EUR", min=0, max=1_000_000),
    },
)

returns = Label("chaos.return.v1", of=orders, field="returned", known_after=minutes(2))

shops = Reference(
    "chaos.shop.v1",
    key=shop,
    time="since",
    fields={"rate": Float(decimals=2, min=0, max=100), "kind": Category("food", "fuel", "toys")},
)

chaos = FeatureSet(
    "chaos",
    event=orders,
    label=returns,
    owner="penstock",
    description="What penstock chaos sends through the chain while it breaks it.",
    features=[
        orders.price,
        count(by=person, over=seconds(30)),
        mean(orders.price, by=person, over=minutes(2)),
        count(by=shop, over=minutes(1), delay=seconds(10)),
        rate(returns.returned, by=shop, over=minutes(3), delay=seconds(30)),
        shops.rate,
        is_known(shops),
        (orders.price * shops.rate).named("fee"),
    ],
)

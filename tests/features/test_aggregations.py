"""What every aggregation must show: a value worked out by hand, an empty window, honest bounds."""

import pyarrow as pa
import pytest

from features.aggregations import aggregations
from features.aggregations.base import NONE, Aggregation, Entry
from features.fold import Fold
from features.plan import Plan, compile_plan
from features.vocabulary import (
    Aggregate,
    Entity,
    Event,
    FeatureSet,
    Label,
    Money,
    Text,
    days,
    hours,
    minutes,
)
from kernels import windows
from tests.features.rows import batch

BY_HAND = {
    "count": 4.0,
    "sum": 18.0,
    "mean": 4.5,
    "std": 4.330127018922194,  # sqrt(4·156 − 18²) / 4
    "min": -2.0,
    "max": 10.0,
    "first": 4.0,
    "last": 6.0,
    "rate": 0.25,
    "label_count": 1.0,
    "seconds_since_last": 240.0,
    "seconds_since_label": 300.0,
    "seconds_between": 100.0,
}
"""Each aggregation's value at the last event of `LOG`."""

LOG = [(0, 4), (1, -2), (1, 10), (5, 6)]
"""(minute, price) of one payer's sales; the first one is refunded before the last one comes."""

EMPTY = {"seconds_since_last": 600.0, "seconds_since_label": 600.0, "seconds_between": 600.0}
"""What is not 0 in an empty window of ten minutes."""

shop = Entity("shop_id")
sales = Event(
    "shop.sale.v1",
    id="sale_id",
    time="at",
    key=shop,
    lateness=hours(1),
    fields={"shop_id": Text(), "price": Money("EUR")},
)
refunds = Label("shop.refund.v1", of=sales, field="refunded", known_after=days(1))


def plan_of(name: str, delay: int = 0) -> Plan:
    of = {"nothing": None, "number": sales.price, "label": refunds.refunded}
    window = Aggregate(name)(of[aggregations()[name].takes], by=shop, over=minutes(10), delay=delay)
    return compile_plan(FeatureSet("sales", event=sales, label=refunds, features=[window]))


def folded(plan: Plan) -> pa.RecordBatch:
    sold = [
        {"event_id": f"s{i}", "event_time_us": minutes(m), "shop_id": "x", "price": price}
        for i, (m, price) in enumerate(LOG)
    ]
    refund = sold[0] | {"kind": 1, "price": None, "refunded": 1}
    return Fold(plan, 0).fold_history(batch(plan, [*sold[:3], refund, sold[3]]))


def test_every_aggregation_is_worked_out_here() -> None:
    assert set(BY_HAND) == set(aggregations())


@pytest.mark.parametrize("name", BY_HAND)
def test_kernel_and_reference_give_the_value_worked_out_by_hand(name: str) -> None:
    plan = plan_of(name)
    assert folded(plan).column(plan.column_names[0])[-1].as_py() == BY_HAND[name]
    entries = [
        Entry(minutes(m), price, label=i == 0, is_current=i == 3)
        for i, (m, price) in enumerate(LOG)
    ]
    assert aggregations()[name].reference(entries, minutes(5), minutes(10)) == BY_HAND[name]


@pytest.mark.parametrize("name", BY_HAND)
def test_empty_window_gives_what_is_stated(name: str) -> None:
    plan = plan_of(name, delay=minutes(30))
    expected = EMPTY.get(name, 0.0)
    assert folded(plan).column(plan.column_names[0])[-1].as_py() == expected
    meaning = aggregations()[name]
    assert meaning.reference([], minutes(5), minutes(10)) == expected
    assert (meaning.empty == "0") == (expected == 0.0)


@pytest.mark.parametrize("name", BY_HAND)
def test_values_lie_within_the_bounds(name: str) -> None:
    meaning = aggregations()[name]
    low, high = meaning.bounds(-2.0, 10.0, 1, minutes(10))
    assert low <= BY_HAND[name] <= high
    low, high = meaning.bounds(-2.0, 10.0, 0, minutes(10))
    assert low <= EMPTY.get(name, 0.0) <= high


@pytest.mark.parametrize("name", BY_HAND)
def test_aggregation_says_what_it_is(name: str) -> None:
    meaning: Aggregation = aggregations()[name]
    assert meaning.formula
    assert meaning.__doc__
    assert {primitive.kind for primitive in meaning.primitives} <= set(windows.KINDS)


def test_nothing_is_the_same_here_and_in_the_kernel() -> None:
    assert NONE == windows.NONE

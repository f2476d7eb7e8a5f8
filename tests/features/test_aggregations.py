"""What every aggregation must show: a value worked out by hand, an empty window, honest bounds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from features.aggregations import aggregations
from features.aggregations.base import NONE, Aggregation, Entry
from features.coding import pack_position
from features.errors import DefinitionError
from features.fold import Fold
from features.layout import PRIMITIVES
from features.plan import Plan, compile_plan
from features.vocabulary import (
    Aggregate,
    Category,
    Entity,
    Event,
    FeatureSet,
    Label,
    Money,
    Position,
    Text,
    days,
    hours,
    minutes,
)
from kernels import arena
from tests.features.rows import batch


@dataclass(frozen=True)
class Example:
    """What an aggregation gives at the last event of `LOG`, worked out by hand."""

    value: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    of: str = ""
    """The field, where the aggregation takes one that is no number."""
    empty: Any = 0.0


BY_HAND = {
    "count": Example(4.0),
    "sum": Example(18.0),
    "mean": Example(4.5),
    "std": Example(4.330127018922194),  # sqrt(4·156 − 18²) / 4
    "min": Example(-2.0),
    "max": Example(10.0),
    "first": Example(4.0),
    "last": Example(6.0),
    "last_k": Example([6.0, 10.0, -2.0], {"k": 3}, empty=[0.0, 0.0, 0.0]),
    # Past its cap, where it estimates.
    "distinct": Example(3.0, {"cap": 2}, of="colour"),
    "top_k": Example([2.0, 1.0, 3.0, 0.0], {"k": 4}, of="colour", empty=[0.0] * 4),
    "percentile": Example(6.0, {"p": 75}),  # the 3rd smallest of −2, 4, 6, 10
    "histogram": Example([1.0, 2.0, 1.0], {"edges": [0, 10]}, empty=[0.0, 0.0, 0.0]),
    "entropy": Example(1.0397207708399179, of="colour"),  # 1.5 ln 2: ¼, ½, ¼
    # 4·2^(−5/4) − 2·2^(−1) + 10·2^(−1) + 6
    "decay": Example(4 * 2**-1.25 + 10.0, {"half_life": minutes(4)}),
    "rate": Example(0.25),
    "label_count": Example(1.0),
    "seconds_since_last": Example(240.0, empty=600.0),
    "seconds_since_label": Example(300.0, empty=600.0),
    "seconds_between": Example(100.0, empty=600.0),
    # sqrt(10400): the gaps are 60, 0 and 240 s.
    "seconds_between_std": Example(101.9803902718557),
    # One degree, π/180 of the mean radius, in 240 s.
    "speed": Example(1667.9262035029938, of="place"),
}
"""One line for every aggregation."""

LOG = [(0, 4, "red", 0), (1, -2, "blue", 1), (1, 10, "blue", 2), (5, 6, "green", 3)]
"""(minute, price, colour, degrees north) of one payer's sales; the first one is refunded before the
last one comes."""

shop = Entity("shop_id")
sales = Event(
    "shop.sale.v1",
    id="sale_id",
    time="at",
    key=shop,
    lateness=hours(1),
    fields={
        "shop_id": Text(),
        "price": Money("EUR"),
        "colour": Category("red", "blue", "green"),
        "place": Position(),
    },
)
refunds = Label("shop.refund.v1", of=sales, field="refunded", known_after=days(1))


def plan_of(name: str, delay: int = 0) -> Plan:
    of = {"nothing": None, "number": sales["price"], "label": refunds.refunded}
    example = BY_HAND[name]
    window = Aggregate(name)(
        sales[example.of] if example.of else of[aggregations()[name].takes],
        by=shop,
        over=minutes(10),
        delay=delay,
        **example.arguments,
    )
    return compile_plan(FeatureSet("sales", event=sales, label=refunds, features=[window]))


def entries_of(name: str) -> list[Entry]:
    which = {"colour": 2, "place": 3}.get(BY_HAND[name].of, 1)
    return [
        Entry(
            minutes(row[0]),
            (row[3] * 1_000_000, 0) if which == 3 else row[which],
            label=i == 0,
            is_current=i == 3,
        )
        for i, row in enumerate(LOG)
    ]


def as_list(found: Any) -> list[float]:
    return found if isinstance(found, list) else [found]


def folded(plan: Plan) -> list[float]:
    """The columns of the last event."""
    sold = [
        {
            "event_id": f"s{i}",
            "event_time_us": minutes(m),
            "shop_id": "x",
            "price": price,
            "colour": colour,
            "place": pack_position(north * 1_000_000, 0),
        }
        for i, (m, price, colour, north) in enumerate(LOG)
    ]
    keys = {name: sold[0][name] for name in ("event_id", "event_time_us", "shop_id")}
    refund = keys | {"kind": 1, "refunded": 1}
    rows = Fold(plan, 0).fold_history(batch(plan, [*sold[:3], refund, sold[3]]))
    return [rows.column(name)[-1].as_py() for name in plan.column_names]


def test_every_aggregation_is_worked_out_here() -> None:
    assert set(BY_HAND) == set(aggregations())


@pytest.mark.parametrize("name", BY_HAND)
def test_kernel_and_reference_give_the_value_worked_out_by_hand(name: str) -> None:
    plan = plan_of(name)
    expected = as_list(BY_HAND[name].value)
    assert folded(plan) == pytest.approx(expected, rel=1e-15)
    entries = entries_of(name)
    terms = plan.stages[0].windows[0].terms
    # The reference gives the kernel's very bits.
    assert as_list(aggregations()[name].reference(entries, entries[-1], terms)) == folded(plan)


@pytest.mark.parametrize("name", BY_HAND)
def test_empty_window_gives_what_is_stated(name: str) -> None:
    plan = plan_of(name, delay=minutes(30))
    expected = as_list(BY_HAND[name].empty)
    assert folded(plan) == expected
    meaning, terms = aggregations()[name], plan.stages[0].windows[0].terms
    now = entries_of(name)[-1]
    assert as_list(meaning.reference([], now, terms)) == expected
    assert meaning.empty.startswith("0") == (not any(expected))


@pytest.mark.parametrize("name", BY_HAND)
def test_values_lie_within_the_bounds(name: str) -> None:
    meaning, terms = aggregations()[name], plan_of(name).stages[0].windows[0].terms
    low, high = meaning.bounds(-2.0, 10.0, 1, terms)
    assert all(low <= value <= high for value in as_list(BY_HAND[name].value))
    low, high = meaning.bounds(-2.0, 10.0, 0, terms)
    assert all(low <= value <= high for value in as_list(BY_HAND[name].empty))


@pytest.mark.parametrize("name", BY_HAND)
def test_aggregation_says_what_it_is(name: str) -> None:
    meaning: Aggregation = aggregations()[name]
    terms = plan_of(name).stages[0].windows[0].terms
    assert meaning.formula
    assert meaning.__doc__
    assert {need.kind for need in meaning.primitives(terms)} <= set(PRIMITIVES)
    assert len(set(meaning.columns(terms))) == len(as_list(BY_HAND[name].value))


@pytest.mark.parametrize("name", [name for name, each in BY_HAND.items() if each.arguments])
def test_argument_of_no_use_is_refused_with_the_mend(name: str) -> None:
    wrong = dict.fromkeys(BY_HAND[name].arguments, -1)
    with pytest.raises(DefinitionError, match="give "):
        Aggregate(name)(sales["price"], by=shop, over=minutes(10), **wrong)


def test_nothing_is_the_same_here_and_in_the_kernel() -> None:
    assert NONE == arena.NONE


@pytest.mark.parametrize("name", sorted(aggregations()))
def test_vocabulary_page_says_what_the_code_says(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "vocabulary.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    meaning = aggregations()[name]
    said = [cell.strip().replace("∣", "|") for cell in line.split("|")[2:-1]]
    arguments = ", ".join(f"`{each}=`" for each in meaning.parameters)
    told = (meaning.__doc__ or "").strip().splitlines()[0]
    assert said == [meaning.takes, arguments, told, meaning.formula, meaning.empty]

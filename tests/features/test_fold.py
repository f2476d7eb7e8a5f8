"""The fold against the plain reference, and what it promises about repeats and snapshots."""

import builtins
import dataclasses

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import reference
from features.catalog import load_plan
from features.errors import SnapshotError
from features.fold import Fold
from features.plan import compile_plan
from features.reference import Fact
from features.vocabulary import (
    Category,
    Entity,
    Event,
    FeatureSet,
    Integer,
    Label,
    Money,
    Text,
    count,
    days,
    entropy,
    first,
    histogram,
    hours,
    label_count,
    last,
    max,
    mean,
    min,
    minutes,
    rate,
    seconds_between,
    seconds_since_label,
    seconds_since_last,
    std,
    sum,
    top_k,
)
from features.wire import DUPLICATE
from tests.features.rows import batch

person, shop = Entity("person_id"), Entity("shop_id")
sales = Event(
    "shop.sale.v1",
    id="sale_id",
    time="at",
    key=person,
    lateness=hours(1),
    fields={"person_id": Text(), "shop_id": Text(), "price": Money("EUR")},
)
refunds = Label("shop.refund.v1", of=sales, field="refunded", known_after=hours(2))
PLAN = compile_plan(
    FeatureSet(
        "sales",
        event=sales,
        label=refunds,
        features=[
            count(by=person, over=minutes(10)),
            count(by=person, over=minutes(10), where=sales.price > 0),
            mean(sales.price, by=person, over=hours(1)),
            *(
                word(sales.price, by=person, over=minutes(50), delay=delay, where=where)
                for word in (sum, mean, std, min, max, first, last)
                for delay in (0, minutes(7))
                for where in (None, (sales.price <= 10**11) & sales.shop_id.is_in("x"))
            ),
            *(
                word(by=person, over=over)
                for word in (seconds_since_last, seconds_between)
                for over in (minutes(3), hours(1))
            ),
            *(
                word(refunds.refunded, by=shop, over=minutes(90), delay=delay, where=where)
                for word in (label_count, seconds_since_label, rate)
                for delay in (0, minutes(20))
                for where in (None, sales.price >= 0)
            ),
            sum(sales.price, by=person, over=hours(3), delay=minutes(5)),
            count(by=shop, over=hours(1), delay=minutes(30)),
            rate(refunds.refunded, by=shop, over=minutes(40)),
            rate(refunds.refunded, by=shop, over=hours(2), delay=minutes(30)),
        ],
    )
)

MINUTE_US = 60_000_000
events = st.fixed_dictionaries(
    {
        "id": st.integers(0, 30),
        "time": st.integers(0, 300),
        "person": st.sampled_from("ab"),
        "shop": st.sampled_from("xy"),
        "price": st.integers(-(10**12), 10**12),
    }
)
labels = st.fixed_dictionaries({"of": st.integers(0, 40), "label": st.booleans()})
logs = st.lists(st.one_of(events, labels), min_size=1, max_size=60)


def rows_of(log: list[dict]) -> tuple[list[dict], list[Fact], list[Fact]]:
    """Raw rows, and the same as the reference's facts of both stages."""
    sold: list[dict] = []
    by_identity: dict[str, dict] = {}
    rows, persons, shops = [], [], []
    for offset, entry in enumerate(log):
        if "of" in entry:
            # A label may speak of an event that comes later in the log, or never.
            every = [e for e in log if "of" not in e]
            if not every:
                continue
            about = every[entry["of"] % len(every)]
        else:
            about = entry
        # One id means one payer, shop and time, as in any real topic.
        about = by_identity.setdefault(f"{about['id']}", about)
        row = {
            "kind": int("of" in entry),
            "event_id": f"s{about['id']}",
            "event_time_us": about["time"] * MINUTE_US,
            "shop_id": about["shop"],
            "origin_offset": offset,
            "position_seq": offset << 20,
        }
        fact = Fact(row["event_id"], row["event_time_us"], about["person"], {})
        shop_fact = dataclasses.replace(fact, key=about["shop"])
        if "of" in entry:
            row |= {"refunded": int(entry["label"]), "origin_log": 1, "position_log": 1}
            persons.append(dataclasses.replace(fact, label=entry["label"]))
            shops.append(dataclasses.replace(shop_fact, label=entry["label"]))
        else:
            row |= {"person_id": about["person"], "price": about["price"]}
            values = {"price": about["price"], "shop_id": about["shop"]}
            persons.append(dataclasses.replace(fact, values=values))
            duplicate = reference.is_duplicate(persons, len(persons) - 1, PLAN.lateness_us)
            persons[-1] = dataclasses.replace(persons[-1], duplicate=duplicate)
            shops.append(dataclasses.replace(shop_fact, values=values, duplicate=duplicate))
            sold.append(row)
        rows.append(row)
    return rows, persons, shops


def fold_all(rows: list[dict], sizes: list[int]) -> list[dict]:
    """Both stages over one partition each; envelopes of the given sizes, in turn."""
    persons, shops = Fold(PLAN, 0), Fold(PLAN, 1)
    out: list[dict] = []
    at = offset = 0
    while at < len(rows):
        size = sizes[offset % len(sizes)]
        envelope = batch(PLAN, rows[at : at + size])
        # Labels go straight into the second log; events pass the first.
        is_label = pa.compute.equal(envelope.column("kind"), 1)
        middle = persons.fold(envelope.filter(pa.compute.invert(is_label)), 0, offset)
        both = envelope.to_pylist()
        passed = iter(middle.to_pylist())
        merged = [row if row["kind"] == 1 else next(passed) for row in both]
        out.extend(shops.fold(batch(PLAN, merged), 0, offset).to_pylist())
        at += size
        offset += 1
    return out


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(logs, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_fold_equals_reference(log: list[dict], sizes: list[int]) -> None:
    rows, persons, shops = rows_of(log)
    folded = fold_all(rows, sizes)
    assert len(folded) == len(rows)
    by_person = reference.stage_columns(PLAN, PLAN.stages[0], persons)
    by_shop = reference.stage_columns(PLAN, PLAN.stages[1], shops)
    for got, fact, one, two in zip(folded, persons, by_person, by_shop, strict=True):
        expected = one | two
        assert (got["verdict"] == DUPLICATE) == fact.duplicate
        for window in (*PLAN.stages[0].windows, *PLAN.stages[1].windows):
            assert got[window.columns[0]] == expected.get(window.columns[0]), window.columns[0]


@settings(max_examples=60, deadline=None)
@given(logs, st.integers(0, 60))
def test_restored_snapshot_continues_where_it_was_taken(log: list[dict], cut: int) -> None:
    rows, _, _ = rows_of(log)
    cut = builtins.min(cut, len(rows))
    whole, before = Fold(PLAN, 1), Fold(PLAN, 1)
    expected = [whole.fold(batch(PLAN, [row]), 0, i).to_pylist() for i, row in enumerate(rows)]
    for i, row in enumerate(rows[:cut]):
        before.fold(batch(PLAN, [row]), 0, i)
    after = Fold(PLAN, 1)
    after.restore(before.snapshot())
    # Everything is replayed from the beginning: what the snapshot covers must be dropped.
    replayed = [after.fold(batch(PLAN, [row]), 0, i).to_pylist() for i, row in enumerate(rows)]
    assert replayed == [[] for _ in range(cut)] + expected[cut:]


def test_repeats_are_dropped_whatever_the_envelope() -> None:
    rows = [
        {"event_id": f"s{i}", "event_time_us": i, "person_id": "a", "shop_id": "x", "price": 1}
        | {"position_seq": i << 20, "origin_offset": i}
        for i in range(6)
    ]
    fold = Fold(PLAN, 0)
    assert fold.fold(batch(PLAN, rows[:4]), 0, 0).num_rows == 4
    repeated = fold.fold(batch(PLAN, rows[2:]), 0, 1)
    assert repeated.column("event_id").to_pylist() == ["s4", "s5"]
    assert repeated.column("person_seq").to_pylist() == [
        (1 << 20) + 2,
        (1 << 20) + 3,
    ]
    assert repeated.column("person_count_10m").to_pylist() == [5.0, 6.0]


def test_many_events_grow_and_expire_without_changing_values() -> None:
    minute = 60_000_000
    fold = Fold(dataclasses.replace(PLAN, partitions=1), 0)
    retained = []
    for i in range(3000):
        time_us = i * minute
        row = {"event_id": f"s{i}", "event_time_us": time_us, "person_id": "ab"[i % 2]} | {
            "shop_id": "x",
            "price": i,
            "position_seq": i << 20,
            "watermark_us": time_us,
        }
        out = fold.fold(batch(PLAN, [row]), 0, i)
        if i > 300:
            assert out.column("person_count_10m").to_pylist() == [5.0]
            # Odd or even minutes of the last hour: i, i − 2, …, i − 58.
            assert out.column("person_price_mean_1h").to_pylist() == [i - 29.0]
        retained.append(fold.entries)
    assert builtins.max(retained) < 1200


def test_ids_and_events_that_cannot_matter_any_more_take_no_memory() -> None:
    plan = dataclasses.replace(PLAN, partitions=1)
    fold, sizes = Fold(plan, 0), []
    for n in range(400):
        # Two days, where the windows and the lateness reach a few hours back.
        rows = [sale(n * 100 + i, (n * 100 + i) // 14, price=3) for i in range(100)]
        fold.fold(batch(plan, rows), 0, n)
        sizes.append(fold.state_bytes)
    # No snapshot was taken, which would forget.
    assert sorted(sizes[200:])[-1] <= sorted(sizes[:200])[-1]


def test_damaged_or_foreign_snapshot_is_refused() -> None:
    snapshot = Fold(PLAN, 0).snapshot()
    with pytest.raises(SnapshotError, match="checksum"):
        Fold(PLAN, 0).restore(snapshot[:-1] + b"x")
    other = load_plan("card_fraud")
    with pytest.raises(SnapshotError, match=f"{PLAN.fingerprint}.*{other.fingerprint}"):
        Fold(other, 0).restore(snapshot)


def test_keep_only_forgets_other_keys() -> None:
    rows = [
        {"event_id": f"s{i}", "event_time_us": i, "person_id": p, "shop_id": "x", "price": 3}
        for i, p in enumerate("aabbb")
    ]
    fold = Fold(PLAN, 0)
    fold.fold_history(batch(PLAN, rows))
    fold.keep_only("b")
    more = {"event_id": "s9", "event_time_us": 9, "person_id": "b", "shop_id": "x", "price": 3}
    out = fold.fold_history(batch(PLAN, [more, more | {"event_id": "s10", "person_id": "a"}]))
    assert out.column("person_count_10m").to_pylist() == [4.0, 1.0]


def test_one_batch_may_bring_more_keys_than_the_state_has_room_for() -> None:
    rows = [
        {"event_id": f"s{i}", "event_time_us": i, "person_id": f"p{i}", "shop_id": "x", "price": 1}
        for i in range(30_000)
    ]
    out = Fold(PLAN, 0).fold_history(batch(PLAN, rows))
    assert out.column("person_count_10m").to_pylist() == [1.0] * len(rows)


def sale(i: int, minute: int, **more: object) -> dict:
    row = {"event_id": f"s{i}", "event_time_us": minute * MINUTE_US, "person_id": "a"}
    stamps = {"position_seq": i << 20, "origin_offset": i, "watermark_us": minute * MINUTE_US}
    return row | stamps | {"shop_id": "x", "price": i} | more


def test_expiry_does_not_depend_on_how_much_an_envelope_spans() -> None:
    plan = dataclasses.replace(PLAN, partitions=1)
    rows = [sale(i, i) for i in range(3000)]
    one_by_one, at_once = Fold(plan, 0), Fold(plan, 0)
    expected = [
        one_by_one.fold(batch(plan, [row]), 0, i).to_pylist()[0] for i, row in enumerate(rows)
    ]
    got = at_once.fold(batch(plan, rows[:600]), 0, 0).to_pylist()
    # An envelope that spans many windows: its first rows look back at what its last have passed.
    got += at_once.fold(batch(plan, rows[600:]), 0, 1).to_pylist()
    for window in PLAN.stages[0].windows:
        assert [row[window.columns[0]] for row in got] == [
            row[window.columns[0]] for row in expected
        ]


def test_expiry_waits_for_the_upstream_partition_that_lags_behind() -> None:
    plan = dataclasses.replace(PLAN, partitions=2)
    fold = Fold(plan, 1)

    def fold_one(i: int, minute: int, upstream: int, raw: int) -> dict:
        row = sale(i, minute, position_log=2, position_partition=upstream, origin_partition=raw)
        [folded] = fold.fold(batch(plan, [row]), 0, i).to_pylist()
        return folded

    for i, (upstream, raw) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        fold_one(i, i, upstream, raw)
    # Through one upstream partition both raw partitions run far ahead.
    for i in range(4, 2000):
        fold_one(i, i, 0, i % 2)
    behind = fold_one(2000, 300, 1, 0)
    assert behind["shop_count_1h_delay_30m"] == 60.0
    assert fold.entries == 2001


def test_label_of_an_event_that_was_merged_changes_no_window() -> None:
    reading = Event(
        "house.reading.v1",
        id="reading_id",
        time="at",
        key=person,
        lateness=hours(1),
        fields={"person_id": Text(), "sort": Category("x", "y"), "size": Integer(min=0, max=100)},
    )
    alarm = Label("house.alarm.v1", of=reading, field="is_true", known_after=hours(24))
    near = {"by": person, "over": hours(2)}
    features = [
        count(by=person, over=days(40), resolution=days(1)),
        histogram(reading.size, edges=[5, 50], **near),
        top_k(reading.sort, k=1, **near),
        entropy(reading.sort, **near),
        label_count(alarm.is_true, **near),
    ]
    plan = compile_plan(FeatureSet("house", event=reading, label=alarm, features=features))
    plan = dataclasses.replace(plan, partitions=1)
    log: list[Fact] = []
    fold = Fold(plan, 0)

    def folds(at: int, hour: int, who: str = "k", label: bool | None = None) -> None:
        time_us = days(20_000) + hours(hour)
        kind = 0 if label is None else 1
        values = {"sort": "xy"[hour % 2], "size": hour}
        row = {"event_id": f"e{hour}", "event_time_us": time_us, "person_id": who, "kind": kind}
        row |= {"origin_log": kind, "position_log": kind, "position_seq": at << 20}
        row |= {"is_true": int(label)} if label is not None else values | {"watermark_us": time_us}
        log.append(Fact(f"e{hour}", time_us, who, values if label is None else {}, label))
        (found,) = fold.fold(batch(plan, [row]), 0, at).to_pylist()
        for name, expected in reference.stage_columns(plan, plan.stages[0], log)[-1].items():
            assert found[name] == expected, (hour, name)

    folds(0, 1)
    folds(1, 2)
    # Time goes on for another key, and a snapshot lets go of what is settled.
    folds(2, 20, who="other")
    snapshot, fold = fold.snapshot(), Fold(plan, 0)
    fold.restore(snapshot)
    folds(3, 1, label=True)
    folds(4, 21)
    folds(5, 22)

"""References: what they compile to, what their topics take, and what an event sees of them."""

import dataclasses
import json
from typing import Any

import pyarrow as pa
import pytest

from features import changes, lake, quality
from features.contract import Contract, reference_schema
from features.errors import ContractError
from features.fold import Fold
from features.plan import Plan, compile_plan
from features.vocabulary import (
    Boolean,
    Category,
    Entity,
    Event,
    Feature,
    FeatureSet,
    Float,
    Integer,
    Label,
    List,
    Money,
    Reference,
    Text,
    Timestamp,
    age_seconds,
    category_hash,
    count,
    days,
    hours,
    is_known,
    length,
    minutes,
    rate,
)
from features.wire import (
    DUPLICATE,
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LOG_REFERENCES,
    NEVER_US,
    row_schema,
    vectors,
)
from tests.features.rows import batch

customer, terminal, device = Entity("customer_id"), Entity("terminal_id"), Entity("device_id")
payments = Event(
    "pay.made.v1",
    id="pay_id",
    time="at",
    key=customer,
    lateness=hours(1),
    fields={
        "customer_id": Text(max=9, token=True),
        "terminal_id": Text(),
        "device_id": Text(),
        "amount": Money("EUR", min=0),
    },
)
chargebacks = Label("pay.back.v1", of=payments, field="is_fraud", known_after=days(7))
merchants = Reference(
    "pay.merchant.v3",
    key=terminal,
    time="valid_from",
    fields={
        "category": Category("food", "travel"),
        "rate": Float(decimals=4, min=1, max=100),
        "owner": Text(token=True),
        "open": Boolean(),
        "since": Timestamp(),
        "tags": List(),
        "heat": Float(),
    },
)
models = Reference("pay.model.v1", key=device, time="from", fields={"size": Integer()}, name="kind")
clients = Reference("clients", key=customer, time="from", fields={"limit": Money("EUR", min=5)})

LOOKED_UP: list[Feature] = [
    merchants.category,
    merchants.rate,
    merchants.open,
    merchants["heat"],
    (payments.amount * merchants.rate).named("amount_eur"),
    (merchants.rate >= 2.5).named("is_high"),
    merchants.category.is_in("travel").named("is_travel"),
    category_hash(merchants.owner, 11),
    age_seconds(merchants.since),
    length(merchants.tags),
    is_known(merchants),
    models.size,
    (is_known(models) + is_known(clients) * 2).named("known"),
    clients.limit,
]


def plan_of(features: list[Feature], label: bool = True, **about: Any) -> Plan:
    made = FeatureSet(
        "set", event=payments, label=chargebacks if label else None, features=features, **about
    )
    return dataclasses.replace(compile_plan(made), partitions=1)


PLAN = plan_of(
    [
        *LOOKED_UP,
        count(by=terminal, over=minutes(10)),
        rate(chargebacks.is_fraud, by=terminal, over=hours(1)),
    ]
)
MERCHANT, KIND, CLIENT = range(3)
MINUTE_US = 60_000_000


# What it compiles to.


def test_references_are_compiled_with_the_stage_of_their_key() -> None:
    assert [(each.name, each.topic, each.table) for each in PLAN.references] == [
        ("merchant", "pay.merchant.v3", "reference_merchant"),
        ("kind", "pay.model.v1", "reference_kind"),
        ("clients", "clients", "reference_clients"),
    ]
    # A stage that only looks up lies before the windows': labels need not carry its key.
    assert [stage.key_column for stage in PLAN.stages] == [
        "customer_id",
        "device_id",
        "terminal_id",
    ]
    assert [PLAN.stages[each.stage].key_column for each in PLAN.references] == [
        "terminal_id",
        "device_id",
        "customer_id",
    ]
    assert PLAN.label is not None
    assert PLAN.label.keys == ("terminal_id",)
    assert (PLAN.stages[1].columns, PLAN.stages[1].retention_us) == ((), 0)
    assert PLAN.raw_topics == [
        "pay.made.v1",
        "pay.back.v1",
        "pay.merchant.v3",
        "pay.model.v1",
        "clients",
    ]


def test_row_has_a_column_of_its_own_type_for_every_field() -> None:
    schema = row_schema(PLAN)
    assert {name: schema.field(name).type for name in PLAN.references[0].columns} == {
        "merchant__category": pa.string(),
        "merchant__rate": pa.int64(),
        "merchant__owner": pa.string(),
        "merchant__open": pa.bool_(),
        "merchant__since": pa.int64(),
        "merchant__tags": pa.list_(pa.string()),
        "merchant__heat": pa.float64(),
    }
    for name in PLAN.column_names:
        assert schema.field(name).type == (pa.int64() if name == "amount" else pa.float64())


def test_columns_have_names_units_and_meanings() -> None:
    told = {column.name: column for column in PLAN.columns}
    assert list(told)[:4] == [
        "merchant_category_code",
        "merchant_rate",
        "merchant_open",
        "merchant_heat",
    ]
    assert {"merchant_owner_hash_11", "merchant_since_age_seconds", "kind_size"} < set(told)
    assert told["merchant_rate"].kind == told["merchant_category_code"].kind == "reference"
    assert [told[name].unit for name in ("merchant_rate", "clients_limit", "merchant_open")] == [
        "",
        "EUR minor",
        "0 or 1",
    ]
    assert told["merchant_rate"].meaning == (
        "rate in pay.merchant.v3 for the event's terminal_id, as of its time; 0 where it has none"
    )
    assert told["merchant_category_code"].meaning.endswith("-1 where it has none")


def test_reference_that_no_feature_uses_is_not_compiled_in() -> None:
    plain = plan_of([payments.amount])
    assert plain.references == ()
    assert "references" in plain.to_dict()
    used = plan_of([payments.amount, is_known(models)])
    assert [each.name for each in used.references] == ["kind"]
    assert used.fingerprint != plain.fingerprint


def test_change_of_a_reference_alters_values_and_is_shown() -> None:
    before = plan_of([merchants.rate]).to_dict()
    after = json.loads(json.dumps(before))
    after["references"][0]["fields"][1]["maximum"] = 5
    after["fingerprint"] = "0" * 16
    [found] = changes.changes(before, after)
    assert str(found) == "~ reference merchant: field rate: maximum: 1000000 → 5"
    assert found.alters
    added = changes.changes(plan_of([payments.amount]).to_dict(), before)
    assert "+ reference merchant" in list(map(str, added))


def test_stage_of_a_reference_changes_with_the_columns_that_move_it() -> None:
    looked_up: list[Feature] = [merchants.rate, models.size]
    before, after = plan_of(looked_up), plan_of([*looked_up, count(by=terminal, over=days(1))])
    assert [each.stage for each in before.references] == [1, 2]
    assert [each.stage for each in after.references] == [2, 1]
    told = list(map(str, changes.changes(before.to_dict(), after.to_dict())))
    assert "+ column terminal_count_1d" in told
    assert not [line for line in told if "reference" in line]


def test_lake_has_a_table_for_each_reference() -> None:
    assert lake.tables(PLAN)[-3:] == ("reference_merchant", "reference_kind", "reference_clients")
    time = pa.timestamp("us", tz="UTC")
    assert lake.schema("reference_clients", PLAN) == pa.schema(
        [
            ("origin_partition", pa.int32()),
            ("origin_offset", pa.int64()),
            ("broker_time", time),
            ("valid_from", time),
            ("customer_id", pa.string()),
            ("limit", pa.int64()),
            ("customer_seq", pa.int64()),
        ]
    )
    assert lake.schema("reference_merchant", PLAN).field("since").type == time


def test_gate_knows_what_a_looked_up_value_can_be() -> None:
    assert quality.bounds(PLAN, "merchant_rate") == (0, 100)
    assert quality.bounds(PLAN, "merchant_category_code") == (-1, 1)
    assert quality.bounds(PLAN, "clients_limit") == (0, 10**12)
    assert quality.bounds(PLAN, "kind_size") == (-float("inf"), float("inf"))
    told = {rule.name for rule in quality.rules(PLAN)}
    assert {"merchant_is_known is 0 or 1", "merchant_open is 0 or 1"} < told


# Its topic.

VERSION: dict[str, Any] = {
    "terminal_id": "m1",
    "valid_from": "2026-01-05T12:34:56.789012Z",
    "category": "travel",
    "rate": 1.5,
    "owner": "",
    "open": True,
    "since": "1970-01-01T00:00:01Z",
    "tags": ["a"],
    "heat": -0.5,
}


def test_version_is_read_as_values_in_order() -> None:
    contract = Contract(PLAN, "pay.merchant.v3")
    assert contract.names == tuple(VERSION)
    expected = ("m1", 1767616496789012, "travel", 15_000, "", True, 1_000_000, ["a"], -0.5)
    assert contract.read(json.dumps(VERSION).encode()) == expected
    schema = reference_schema(PLAN, "pay.merchant.v3")
    assert schema["title"] == "pay.merchant.v3"
    assert schema["required"] == list(VERSION)
    assert schema["properties"]["category"] == {"enum": ["food", "travel"]}
    # Its key is as long as the event's.
    clients_schema = reference_schema(PLAN, "clients")
    assert clients_schema["properties"]["customer_id"]["maxLength"] == 9
    assert Contract(PLAN, PLAN.event_topic).names[0] == "pay_id"


def test_reference_about_several_fields_has_each_in_its_topic_and_its_table() -> None:
    deals = Reference(
        "pay.deal.v1",
        key=Entity("terminal_id", "customer_id"),
        time="from",
        fields={"discount": Integer()},
    )
    plan = plan_of([deals.discount, count(by=customer, over=days(1))])
    contract = Contract(plan, "pay.deal.v1")
    assert contract.names == ("terminal_id", "customer_id", "from", "discount")
    told = {"terminal_id": "m", "customer_id": "c", "from": VERSION["since"], "discount": 7}
    assert contract.read(json.dumps(told).encode()) == ("m", "c", 1_000_000, 7)
    assert lake.schema("reference_deal", plan).names[4:] == [
        *("terminal_id", "customer_id", "terminal_customer_key"),
        *("discount", "terminal_customer_seq"),
    ]
    assert plan.columns[0].meaning == (
        "discount in pay.deal.v1 for the event's terminal_id and customer_id, as of its time; "
        "0 where it has none"
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rate": 100.01}, "out_of_range"),
        ({"terminal_id": ""}, "out_of_range"),
        ({"category": "toys"}, "out_of_range"),
        ({"valid_from": "1969-12-31T23:59:59Z"}, "out_of_range"),
        ({"valid_from": "2262-01-01T00:00:00Z"}, "out_of_range"),
        ({"valid_from": "2026-01-05T12:34:56"}, "wrong_type"),
        ({"open": 1}, "wrong_type"),
        ({"colour": "red"}, "unknown_field"),
    ],
)
def test_broken_version_is_refused_with_its_reason(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ContractError) as refused:
        Contract(PLAN, "pay.merchant.v3").read(json.dumps(VERSION | changed).encode())
    assert refused.value.reason == reason


# What an event sees.


def payment(number: int, minute: float, **changed: Any) -> dict[str, Any]:
    return {
        "event_id": f"p{number}",
        "event_time_us": round(minute * MINUTE_US),
        "watermark_us": NEVER_US,
        "customer_id": "c",
        "terminal_id": "m",
        "device_id": "d",
        "amount": 100,
    } | changed


def version(index: int, number: int, minute: float, key: str = "", **values: Any) -> dict[str, Any]:
    reference = PLAN.references[index]
    given: dict[str, Any] = {
        "category": "travel",
        "rate": 10_000 + number,
        "owner": f"o{number}",
        "open": True,
        "since": 0,
        "tags": ["x", "y"],
        "heat": number / 3,
        "size": number,
        "limit": number,
    } | values
    own = zip(reference.columns, reference.fields, strict=True)
    return {column: given[field.name] for column, field in own} | {
        "kind": KIND_REFERENCE,
        "origin_log": LOG_REFERENCES + index,
        "position_log": LOG_REFERENCES + index,
        "event_id": key or reference.key_column[0],
        reference.key_column: key or "cdm"[[CLIENT, KIND, MERCHANT].index(index)],
        "event_time_us": round(minute * MINUTE_US),
        "watermark_us": NEVER_US,
    }


def numbered(rows: list[dict[str, Any]], first: int = 0) -> list[dict[str, Any]]:
    """With the places in their raw topics that ingest would give them."""
    return [
        row | {"origin_offset": at, "position_seq": at << 20} for at, row in enumerate(rows, first)
    ]


def through(rows: list[dict[str, Any]], folds: list[Fold] | None = None) -> list[dict[str, Any]]:
    """Rows, a fold each, one envelope a row; versions and labels enter with the events."""
    out = numbered(rows)
    for fold in folds or [Fold(PLAN, stage.index) for stage in PLAN.stages]:
        passed = []
        for row in out:
            at = fold.offset + 1
            passed += fold.fold(batch(PLAN, [row]), 0, at).to_pylist()
        out = passed
    return out


def rates(rows: list[dict[str, Any]]) -> list[int | None]:
    return [row["merchant__rate"] and row["merchant__rate"] - 10_000 for row in rows]


def test_event_sees_the_newest_version_up_to_its_time_that_had_arrived() -> None:
    log = [
        payment(0, 5),
        version(MERCHANT, 1, 4),
        payment(1, 5),
        version(MERCHANT, 2, 10),
        payment(2, 9.99),
        payment(3, 10),
        version(MERCHANT, 3, 7),
        payment(4, 8),
        payment(5, 11),
        version(MERCHANT, 4, 10),
        payment(6, 11),
        payment(7, 6.9),
        version(MERCHANT, 5, 3, key="other"),
        payment(8, 12),
        payment(9, 12, terminal_id="other"),
        payment(10, 3.9),
    ]
    seen = rates([row for row in through(log) if row["kind"] == KIND_EVENT])
    assert seen == [None, 1, 1, 2, 3, 2, 4, 1, 4, 5, None]


def test_looked_up_values_and_what_is_made_of_them() -> None:
    log = [
        version(MERCHANT, 7, 1, since=MINUTE_US, heat=-0.25, open=False),
        version(KIND, 9, 1),
        payment(1, 2),
        payment(2, 2, terminal_id="m2", device_id="d2"),
        version(CLIENT, 44, 2),
        version(MERCHANT, 3, 2, category="food", rate=25_000),
        payment(3, 3),
    ]
    rows = {row["event_id"]: row for row in through(log) if row["kind"] == 0}
    names = [column.name for column in PLAN.columns if column.name != "amount"][:14]

    def made(event_id: str) -> dict[str, float]:
        return {name: rows[event_id][name] for name in names}

    known = made("p1")
    hashed = known.pop("merchant_owner_hash_11")
    assert 0 <= hashed < 11
    assert known == {
        "merchant_category_code": 1.0,
        "merchant_rate": 1.0007,
        "merchant_open": 0.0,
        "merchant_heat": -0.25,
        "amount_eur": 100.07,
        "is_high": 0.0,
        "is_travel": 1.0,
        "merchant_since_age_seconds": 60.0,
        "merchant_tags_length": 2.0,
        "merchant_is_known": 1.0,
        "kind_size": 9.0,
        "known": 1.0,
        "clients_limit": 0.0,
    }
    unknown = made("p2")
    assert unknown.pop("merchant_category_code") == -1.0
    unknown.pop("merchant_owner_hash_11")
    assert set(unknown.values()) == {0.0}
    assert {rows["p2"][name] for name in PLAN.references[0].columns} == {None}
    later = made("p3")
    assert (later["merchant_category_code"], later["is_high"], later["known"]) == (0.0, 1.0, 3.0)
    assert later["clients_limit"] == 44.0
    table = pa.Table.from_batches([batch(PLAN, list(rows.values()))])
    assert vectors(PLAN, table).shape == (3, len(PLAN.columns))


def test_versions_pass_silently_with_their_place_in_every_log() -> None:
    log = [version(MERCHANT, 1, 9), version(CLIENT, 6, 9), payment(0, 9)]
    merchant, client, _ = through(log)
    for row, own in ((merchant, MERCHANT), (client, CLIENT)):
        sent = log[0 if own == MERCHANT else 1]
        assert {name: row[name] for name in PLAN.references[own].columns} == {
            name: sent[name] for name in PLAN.references[own].columns
        }
        assert [row[stage.seq_column] for stage in PLAN.stages] == [row["position_seq"]] * 3
        assert (row["verdict"], row["kind"], row["watermark_us"]) == (0, KIND_REFERENCE, NEVER_US)
        assert {row[name] for name in PLAN.column_names} == {None}
    assert merchant["clients__limit"] is None


def test_labels_and_repeated_events_look_nothing_up() -> None:
    log = [
        version(MERCHANT, 1, 1),
        payment(0, 2),
        payment(0, 2),
        {"kind": KIND_LABEL, "origin_log": 1, "position_log": 1, "event_id": "p0"}
        | {"event_time_us": 2 * MINUTE_US, "terminal_id": "m", "is_fraud": 1}
        | {"watermark_us": NEVER_US},
    ]
    found = through(log)
    assert [row["verdict"] for row in found] == [0, 0, DUPLICATE, 0]
    assert rates(found) == [1, 1, None, None]


def test_version_is_no_event_of_its_key() -> None:
    # One id, one key, one time: neither hides the other.
    log = [version(CLIENT, 5, 1, key="c"), payment(0, 1, event_id="c"), payment(1, 1)]
    found = through(log)
    assert [row["verdict"] for row in found] == [0, 0, 0]
    assert found[2]["terminal_count_10m"] == 2.0
    fold = Fold(PLAN, 0)
    fold.fold(batch(PLAN, numbered([version(CLIENT, n, 1, f"c{n}") for n in range(50)])), 0, 0)
    assert (fold.keys, fold.versions) == (1, 50)
    fold.snapshot()
    assert (fold.keys, fold.entries, fold.versions) == (0, 0, 50)
    assert fold.state_bytes > Fold(PLAN, 1).state_bytes


def test_one_envelope_gives_what_single_rows_give() -> None:
    log = [
        version(MERCHANT, n, n % 7, key=f"m{n % 3}")
        if n % 4 == 0
        else payment(n, n % 9, terminal_id=f"m{n % 3}")
        for n in range(80)
    ]
    at_once = Fold(PLAN, 2).fold(batch(PLAN, numbered(log)), 0, 0).to_pylist()
    assert rates(at_once) == rates(through(log, [Fold(PLAN, 2)]))
    # Two references in one log share nothing but the order.
    both = [version(KIND, 1, 1), version(MERCHANT, 2, 1)]
    plan = plan_of([is_known(merchants), is_known(models)])
    assert len(Fold(plan, 1)._versions) == len(Fold(plan, 2)._versions) == 1
    assert Fold(PLAN, 2).fold(batch(PLAN, numbered(both)), 0, 0).num_rows == 2


def test_repeated_versions_are_dropped_by_their_own_place() -> None:
    fold = Fold(PLAN, 2)
    # The stage before has the number that a raw log of references must not have.
    first = version(MERCHANT, 1, 1) | {"position_seq": 5 << 20, "origin_offset": 5}
    event = payment(0, 1) | {"position_log": 3, "position_seq": 1 << 20}
    assert fold.fold(batch(PLAN, [first, event]), 0, 0).num_rows == 2
    again = [first, first | {"position_seq": 4 << 20}, event]
    assert fold.fold(batch(PLAN, again), 0, 1).num_rows == 0
    other = version(KIND, 1, 1) | {"position_seq": 0}
    assert fold.fold(batch(PLAN, [other]), 0, 2).num_rows == 1


def stamped(minute: float) -> dict[str, Any]:
    return {"watermark_us": round(minute * MINUTE_US)}


def test_versions_hold_back_no_expiry_and_expire_themselves() -> None:
    fold = Fold(PLAN, 2)
    log = [version(MERCHANT, n, n) for n in range(10)]
    log += [version(MERCHANT, 500, 10**6)]
    log += [payment(n, n) | stamped(n) | {"position_log": 3} for n in range(200)]
    for at, row in enumerate(numbered(log)):
        fold.fold(batch(PLAN, [row]), 0, at)
    assert fold.versions == 11
    snapshot = fold.snapshot()
    # Nothing before minute 139 can come: what held then, and what is yet to come.
    assert fold.versions == 2
    assert fold.entries < 200
    restored = Fold(PLAN, 2)
    restored.restore(snapshot)
    assert restored.versions == 2
    for each in (fold, restored):
        late = numbered([payment(999, 139) | stamped(200) | {"position_log": 3}], first=10_000)
        assert rates(each.fold(batch(PLAN, late), 0, 10_000).to_pylist()) == [9]


@pytest.mark.parametrize("cut", [0, 1, 7, 20, 39])
def test_restored_snapshot_continues_where_it_was_taken(cut: int) -> None:
    log = [
        version(MERCHANT, n, 50 - n if n % 5 else n, key=f"m{n % 2}", owner="zażółć" * (n % 2))
        if n % 2
        else payment(n, 60 - n, terminal_id=f"m{n % 4 // 2}")
        for n in range(40)
    ]
    rows = numbered(log)
    whole, before = Fold(PLAN, 2), Fold(PLAN, 2)
    expected = [whole.fold(batch(PLAN, [row]), 0, at).to_pylist() for at, row in enumerate(rows)]
    for at, row in enumerate(rows[:cut]):
        before.fold(batch(PLAN, [row]), 0, at)
    after = Fold(PLAN, 2)
    after.restore(before.snapshot())
    replayed = [after.fold(batch(PLAN, [row]), 0, at).to_pylist() for at, row in enumerate(rows)]
    assert replayed == [[] for _ in range(cut)] + expected[cut:]


def test_keep_only_keeps_the_versions_of_one_key() -> None:
    fold = Fold(PLAN, 2)
    log = [version(MERCHANT, n, n, key=key) for n, key in enumerate("aabb")]
    fold.fold_history(batch(PLAN, log))
    fold.keep_only("b")
    asked = [payment(0, 9, terminal_id="a"), payment(1, 9, terminal_id="b")]
    asked.append(payment(2, 2.5, terminal_id="b"))
    assert rates(fold.fold_history(batch(PLAN, asked)).to_pylist()) == [None, 3, 2]
    fold.keep_only("b", 3 * MINUTE_US)
    assert fold.versions == 1
    fold.keep_only(None)
    assert fold.versions == 0

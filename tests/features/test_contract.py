"""What the raw topics accept, and the reason code of everything they refuse."""

import json
import re
from typing import Any

import pytest

from features.catalog import load_plan
from features.contract import MAX_AHEAD_US, Contract, event_schema, label_schema
from features.errors import ContractError
from features.plan import compile_plan
from features.vocabulary import (
    Entity,
    Event,
    Feature,
    FeatureSet,
    Integer,
    Label,
    Money,
    Text,
    count,
    hours,
    rate,
)

PLAN = load_plan("card_fraud")
EVENTS = Contract(PLAN, PLAN.event_topic)
LABELS = Contract(PLAN, PLAN.label_topic)

PAYMENT: dict[str, Any] = {
    "transaction_id": "t1",
    "event_time": "2026-01-05T12:34:56.789012Z",
    "customer_id": "c1",
    "terminal_id": "m1",
    "amount": {"minor": 1234, "currency": "EUR"},
}
CHARGEBACK: dict[str, Any] = {
    "transaction_id": "t1",
    "event_time": "2026-01-05T12:34:56.789012Z",
    "terminal_id": "m1",
    "is_fraud": True,
}


def raw(record: Any) -> bytes:
    return json.dumps(record).encode()


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in PAYMENT.items() if k != name}


def test_payment_is_read_as_values_in_order() -> None:
    assert EVENTS.names == ("transaction_id", "event_time", "customer_id", "terminal_id", "amount")
    assert EVENTS.read(raw(PAYMENT)) == ("t1", 1767616496789012, "c1", "m1", 1234)


def test_time_with_an_offset_is_read_in_utc() -> None:
    shifted = PAYMENT | {"event_time": "2026-01-05T18:04:56.789012+05:30"}
    assert EVENTS.read(raw(shifted)) == EVENTS.read(raw(PAYMENT))


def test_label_is_read_as_values_in_order() -> None:
    assert LABELS.names == ("transaction_id", "event_time", "terminal_id", "is_fraud")
    assert LABELS.read(raw(CHARGEBACK)) == ("t1", 1767616496789012, "m1", True)


def with_amount(**changed: Any) -> dict[str, Any]:
    return PAYMENT | {"amount": PAYMENT["amount"] | changed}


REFUSED = [
    (b"", "empty"),
    (None, "empty"),
    (b"{" + b" " * 70_000 + b"}", "oversize"),
    (raw(PAYMENT).replace(b"c1", b"c\xff"), "invalid_utf8"),
    (b"hello", "not_json"),
    (raw(PAYMENT)[:-1], "not_json"),
    (raw(PAYMENT) + b"{}", "not_json"),
    (b"[" * 60_000, "not_json"),
    (b'{"x":' + b"[" * 60_000, "not_json"),
    (raw(PAYMENT).replace(b"c1", b"\\ud800"), "not_json"),
    (raw([PAYMENT]), "wrong_type"),
    (b"null", "wrong_type"),
    (raw(PAYMENT | {"colour": "red"}), "unknown_field"),
    (raw(with_amount(tip=1)), "unknown_field"),
    (raw(without("customer_id")), "missing_field"),
    (raw(PAYMENT | {"amount": {"minor": 1}}), "missing_field"),
    (raw({}), "missing_field"),
    (raw(PAYMENT | {"customer_id": 7}), "wrong_type"),
    (raw(PAYMENT | {"customer_id": None}), "wrong_type"),
    (raw(PAYMENT | {"amount": 12.34}), "wrong_type"),
    (raw(with_amount(minor=12.5)), "wrong_type"),
    (raw(with_amount(minor=True)), "wrong_type"),
    (raw(with_amount(minor="12")), "wrong_type"),
    (raw(with_amount(currency=7)), "wrong_type"),
    (raw(PAYMENT | {"event_time": 1767616496}), "wrong_type"),
    (raw(PAYMENT | {"event_time": "yesterday"}), "wrong_type"),
    (raw(PAYMENT | {"event_time": "2026-01-05T12:34:56"}), "wrong_type"),
    (raw(PAYMENT | {"event_time": "1969-12-31T23:59:59Z"}), "out_of_range"),
    (raw(PAYMENT | {"event_time": "2262-01-01T00:00:00Z"}), "out_of_range"),
    (raw(with_amount(minor=-1)), "out_of_range"),
    (raw(with_amount(minor=10**12 + 1)), "out_of_range"),
    (raw(with_amount(minor=10**40)), "out_of_range"),
    (raw(PAYMENT | {"customer_id": ""}), "out_of_range"),
    (raw(PAYMENT | {"customer_id": "c" * 65}), "out_of_range"),
    (raw(PAYMENT | {"transaction_id": ""}), "out_of_range"),
    (raw(with_amount(currency="XTS")), "unknown_currency"),
    (raw(with_amount(currency="USD", minor=-1)), "out_of_range"),
    (raw(PAYMENT | {"colour": 1, "customer_id": 7}), "wrong_type"),
]


@pytest.mark.parametrize(("payload", "reason"), REFUSED)
def test_broken_record_is_refused_with_its_reason(payload: bytes | None, reason: str) -> None:
    with pytest.raises(ContractError) as refused:
        EVENTS.read(payload)
    assert refused.value.reason == reason
    assert str(refused.value)


@pytest.mark.parametrize(
    "broken", [REFUSED, [], [r for r in REFUSED if b"1969" not in (r[0] or b"")]]
)
def test_batch_is_read_as_its_records_are(broken: list[tuple[bytes | None, str]]) -> None:
    good = [raw(PAYMENT | {"transaction_id": f"t{n}"}) for n in range(3)]
    payloads = [good[0], *(payload for payload, _ in broken), *good[1:]]
    kept, columns, refused = EVENTS.read_all(payloads)
    assert [*zip(*columns, strict=True)] == [EVENTS.read(payload) for payload in good]
    assert kept == [0, len(payloads) - 2, len(payloads) - 1]
    assert [refused[place].reason for place in sorted(refused)] == [reason for _, reason in broken]
    assert sorted([*kept, *refused]) == list(range(len(payloads)))


def test_batch_without_a_good_record_has_empty_columns() -> None:
    for payloads in ([], [b"", b"{"], [raw(PAYMENT | {"event_time": "1969-12-31T23:59:59Z"})]):
        kept, columns, refused = EVENTS.read_all(payloads)
        assert (kept, [*map(list, columns)]) == ([], [[]] * len(EVENTS.names))
        assert list(refused) == list(range(len(payloads)))


def test_label_without_its_verdict_is_refused() -> None:
    with pytest.raises(ContractError, match="is_fraud") as refused:
        LABELS.read(raw({k: v for k, v in CHARGEBACK.items() if k != "is_fraud"}))
    assert refused.value.reason == "missing_field"
    with pytest.raises(ContractError, match="is_fraud") as refused:
        LABELS.read(raw(CHARGEBACK | {"is_fraud": 1}))
    assert refused.value.reason == "wrong_type"


def test_future_is_judged_against_the_broker_time() -> None:
    EVENTS.check_not_future(MAX_AHEAD_US + 5, 5)
    with pytest.raises(ContractError) as refused:
        EVENTS.check_not_future(MAX_AHEAD_US + 6, 5)
    assert refused.value.reason == "time_in_future"


def test_schema_says_the_same_as_the_reader() -> None:
    schema = event_schema(PLAN)
    assert schema["required"] == list(EVENTS.names)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["customer_id"] == {
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
    }
    assert schema["properties"]["amount"]["properties"] == {
        "minor": {"type": "integer", "minimum": 0, "maximum": 10**12},
        "currency": {"const": "EUR"},
    }
    pattern = schema["properties"]["event_time"]["pattern"]
    assert re.match(pattern, PAYMENT["event_time"])
    assert not re.match(pattern, "2026-01-05T12:34:56")
    assert label_schema(PLAN)["required"] == list(LABELS.names)


def test_key_of_several_fields_is_asked_for_by_its_fields() -> None:
    pair = Entity("who", "where_id")
    event = Event(
        "house.entry.v1",
        id="entry",
        time="at",
        key=Entity("who"),
        fields={"who": Text(), "where_id": Text(), "note": Text()},
    )
    alarm = Label("house.alarm.v1", of=event, field="was_alarm", known_after=hours(1))
    wanted: list[Feature] = [rate(alarm.was_alarm, by=pair, over=hours(1))]
    plan = compile_plan(FeatureSet("entries", event=event, label=alarm, features=wanted))
    assert Contract(plan, plan.event_topic).names == ("entry", "at", "who", "where_id", "note")
    assert Contract(plan, plan.label_topic).names == ("entry", "at", "who", "where_id", "was_alarm")
    for schema in (event_schema(plan), label_schema(plan)):
        assert schema["properties"]["where_id"]["minLength"] == 1
    assert event_schema(plan)["properties"]["note"]["minLength"] == 0


def test_any_feature_set_has_a_contract() -> None:
    room = Entity("room")
    event = Event(
        "house.reading.v1",
        id="reading",
        time="at",
        key=room,
        lateness=hours(1),
        fields={
            "room": Text(max=3),
            "note": Text(max=5),
            "level": Integer(),
            "cost": Money("JPY"),
        },
    )
    plan = compile_plan(FeatureSet("house", event=event, features=[count(by=room, over=hours(1))]))
    record = {
        "reading": "r",
        "at": "2026-01-05T00:00:00Z",
        "room": "k",
        "note": "",
        "level": 1 - 2**63,
        "cost": {"minor": -5, "currency": "JPY"},
    }
    contract = Contract(plan, plan.event_topic)
    assert contract.read(raw(record)) == ("r", 1767571200000000, "k", "", 1 - 2**63, -5)
    assert label_schema(plan) == {}

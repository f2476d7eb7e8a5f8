"""Values that a schema registry's client sends, judged by the contract of plain JSON."""

import io
import json
import random
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import httpx
import pytest

from features.contract import event_schema
from features.errors import ContractError
from features.settings import settings
from features.wire import DeadLetter, dead_letter_topic
from streaming import dead_letters, framed, topics
from streaming.framed import FramedValues
from tests.streaming.chain import ingest, plan_of, read, read_rows, running, sale, send

pytestmark = pytest.mark.slow

SALE = {
    "type": "record",
    "name": "Sale",
    "namespace": "shop",
    "fields": [
        {"name": "sale_id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "person_id", "type": "string"},
        {"name": "shop_id", "type": ["null", "string"]},
        {
            "name": "price",
            "type": {
                "type": "record",
                "name": "Money",
                "fields": [
                    {"name": "minor", "type": "long"},
                    {"name": "currency", "type": {"type": "enum", "name": "C", "symbols": ["EUR"]}},
                ],
            },
        },
    ],
}


@pytest.fixture(autouse=True)
def _kafka(stack) -> None:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")


def register(subject: str, kind: str, schema: str) -> int:
    url = f"{settings().schema_registry_url}/subjects/{subject}/versions"
    with httpx.Client(trust_env=False, timeout=15) as client:
        answer = client.post(url, json={"schemaType": kind, "schema": schema}).raise_for_status()
    return int(answer.json()["id"])


def frame(schema_id: int, value: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + value


def avro(schema: Any, record: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def avro_sale(number: int, second: float, **changed: Any) -> bytes:
    at = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=second)
    return avro(SALE, sale(number, second) | {"at": at} | changed)


def changed_type(name: str, kind: Any) -> dict[str, Any]:
    fields = [f | {"type": kind} if f["name"] == name else f for f in SALE["fields"]]
    return SALE | {"fields": fields}


def reason_of(values: FramedValues, value: bytes) -> str:
    with pytest.raises(ContractError) as refused:
        values.json_of(value)
    assert str(refused.value)
    return refused.value.reason


def test_framed_and_plain_records_give_the_same_rows() -> None:
    plan = plan_of("t_framed")
    topics.ensure(plan)
    as_json = register(f"{plan.event_topic}-value", "JSON", json.dumps(event_schema(plan)))
    as_avro = register("t_framed.avro", "AVRO", json.dumps(SALE))
    millis = changed_type("at", {"type": "long", "logicalType": "timestamp-millis"})
    with_millis = register("t_framed.millis", "AVRO", json.dumps(millis))
    proto = register("t_framed.proto", "PROTOBUF", 'syntax = "proto3"; message A {string id = 1;}')
    of_text = register("t_framed.text", "AVRO", '"string"')
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    with_decimal = register("t_framed.dec", "AVRO", json.dumps(changed_type("price", decimal)))
    now = datetime(2026, 1, 5, tzinfo=UTC)
    good = [
        json.dumps(sale(0, 1.25)).encode(),
        frame(as_json, json.dumps(sale(1, 1.25)).encode()),
        frame(as_avro, avro_sale(2, 1.25)),
        frame(with_millis, avro(millis, sale(3, 0) | {"at": now + timedelta(seconds=1.25)})),
    ]
    broken = [
        (frame(as_json, b'{"sale_id": 4}'), "wrong_type"),
        (frame(as_json, b""), "empty"),
        (frame(as_json, b"{"), "not_json"),
        (frame(as_avro, avro_sale(5, 1, shop_id=None)), "wrong_type"),
        (frame(as_avro, avro_sale(6, 1, sale_id="")), "out_of_range"),
        (frame(as_avro, avro_sale(7, 1, price={"minor": -1, "currency": "EUR"})), "out_of_range"),
        (frame(as_avro, avro_sale(8, 10**9)), "time_in_future"),
        (frame(as_avro, avro_sale(9, 1)[:-1]), "not_avro"),
        (frame(as_avro, avro_sale(9, 1) + b"x"), "not_avro"),
        (frame(as_avro, avro_sale(9, 1, shop_id="x" * 70_000)), "oversize"),
        (frame(with_decimal, b"\2\0\2\0"), "wrong_type"),
        (frame(of_text, b"\2a"), "wrong_type"),
        (frame(proto, b"\0\n\1a"), "unknown_schema"),
        (frame(2**31 - 9, b"{}"), "unknown_schema"),
        (b"\0\0\0\0", "not_json"),
    ]
    send(plan.event_topic, 1, [*good, *(value for value, _ in broken)])
    with running(ingest(plan)):
        rows = read_rows(plan, plan.stages[0].topic, len(good))
        letters = read(
            dead_letter_topic(plan.event_topic), plan.partitions, lambda m: len(m) >= len(broken)
        )
    rows.sort(key=lambda row: row["event_id"])
    assert [row["event_id"] for row in rows] == ["s0", "s1", "s2", "s3"]
    assert {row["event_time_us"] for row in rows} == {1767571200000000 + 1_250_000}
    assert [(row["price"], row["shop_id"]) for row in rows] == [
        (100 + n, f"shop{n % 3}") for n in range(4)
    ]
    assert len({row["person_id"] for row in rows}) == 1
    reasons = [DeadLetter.from_headers(letter.headers()).reason for letter in letters]
    assert reasons == [reason for _, reason in broken]
    assert [letter.value() for letter in letters] == [value for value, _ in broken]


def test_records_of_an_absent_registry_are_replayed_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("t_framed_absent")
    topics.ensure(plan)
    as_avro = register("t_framed_absent", "AVRO", json.dumps(SALE))
    there = settings().schema_registry_url
    monkeypatch.setattr(settings(), "schema_registry_url", "http://127.0.0.1:1")
    send(plan.event_topic, 0, [frame(as_avro, avro_sale(1, 1)), sale(2, 2)])
    with running(ingest(plan)):
        (row,) = read_rows(plan, plan.stages[0].topic, 1)
        (letter,) = read(dead_letter_topic(plan.event_topic), plan.partitions, lambda m: m)
    assert row["event_id"] == "s2"
    said = DeadLetter.from_headers(letter.headers())
    assert (said.reason, said.offset) == ("registry_unavailable", 0)
    assert "http://127.0.0.1:1" in said.message
    monkeypatch.setattr(settings(), "schema_registry_url", there)
    assert dead_letters.replay(plan.event_topic, lambda said: True).done
    with running(ingest(plan)):
        rows = read_rows(plan, plan.stages[0].topic, 2)
    assert {row["event_id"] for row in rows} == {"s1", "s2"}


def test_silent_registry_holds_up_one_record_and_no_known_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = register("t_framed_silent", "AVRO", json.dumps(SALE))
    values = FramedValues()
    value = frame(known, avro_sale(1, 1))
    expected = values.json_of(value)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(settings(), "schema_registry_url", url)
        started = time.monotonic()
        assert reason_of(values, frame(2**31 - 9, b"")) == "registry_unavailable"
        waited_s = time.monotonic() - started
        started = time.monotonic()
        for schema_id in range(10**6, 10**6 + 1000):
            assert reason_of(values, frame(schema_id, b"")) == "registry_unavailable"
        assert values.json_of(value) == expected
        then_waited_s = time.monotonic() - started
    assert waited_s > 0.9 * framed._PATIENCE_S
    assert then_waited_s < 0.5 * framed._PATIENCE_S


def test_schemas_are_fetched_once_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    schema_ids = [
        register(f"t_framed_many.{n}", "AVRO", json.dumps(SALE | {"name": f"Sale{n}"}))
        for n in range(4)
    ]
    asked: list[str] = []
    get = httpx.Client.get

    def counted(client: httpx.Client, url: str) -> httpx.Response:
        asked.append(url.rpartition("/")[2])
        return get(client, url)

    monkeypatch.setattr(httpx.Client, "get", counted)
    monkeypatch.setattr(framed, "MAX_SCHEMAS", 3)
    values = FramedValues()
    for schema_id in [*schema_ids, schema_ids[3], schema_ids[1], schema_ids[0]]:
        assert b"s1" in values.json_of(frame(schema_id, avro_sale(1, 1)))
    assert asked == [str(each) for each in (*schema_ids, schema_ids[0])]
    for _ in range(3):
        assert reason_of(values, frame(2**31 - 9, b"")) == "unknown_schema"
    assert asked[5:] == [str(2**31 - 9)]


@pytest.mark.parametrize(
    "schema",
    [
        changed_type("price", "bytes"),
        changed_type("at", ["null", {"type": "int", "logicalType": "date"}]),
        changed_type("at", {"type": "long", "logicalType": "local-timestamp-micros"}),
        changed_type("price", {"type": "map", "values": {"type": "fixed", "name": "F", "size": 2}}),
        changed_type("price", {"type": "array", "items": "null"}),
        changed_type("price", {"type": "record", "name": "Nothing", "fields": []}),
        changed_type("price", ["null", "shop.Sale"]),
    ],
)
def test_type_that_no_contract_has_is_refused_before_a_value_is_read(schema: Any) -> None:
    reader = framed._reader(1, "AVRO", json.dumps(schema))
    with pytest.raises(ContractError, match="which no contract has") as refused:
        reader(b"\0" * 100)
    assert refused.value.reason == "wrong_type"


def test_any_bytes_are_read_or_refused() -> None:
    reader = framed._reader(1, "AVRO", json.dumps(SALE))
    rng = random.Random(7)
    reasons = set()
    for n in range(20_000):
        value = bytearray(avro_sale(n, n) if n % 2 else rng.randbytes(n % 90))
        for at in rng.sample(range(len(value)), min(3, len(value))):
            value[at] = rng.randrange(256)
        try:
            json.loads(reader(bytes(value)))
        except ContractError as refusal:
            reasons.add(refusal.reason)
    assert reasons == {"not_avro", "out_of_range"}


def test_schema_that_cannot_be_read_is_an_unknown_one() -> None:
    for text in ("[1]", "5", "null", "{", json.dumps(changed_type("at", "Unheard"))):
        with pytest.raises(ContractError) as refused:
            framed._reader(1, "AVRO", text)(b"")
        assert refused.value.reason == "unknown_schema"

"""What every odd value means: at the door, and for what passes it in stream, lake and backfill.

The tables here are the list of meanings; `docs/architecture.md` says them in words. What is
accepted is folded by the reference, the kernel and the stream, which agree bit for bit.
"""

import dataclasses
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from features import lake, parity
from features.backfill import backfill
from features.contract import MAX_ID_LENGTH, MAX_RECORD_BYTES, Contract
from features.errors import ContractError, DefinitionError
from features.plan import compile_plan
from features.settings import settings
from features.vocabulary import (
    LARGEST_SUMMED,
    Boolean,
    Category,
    Entity,
    Event,
    FeatureSet,
    Float,
    Integer,
    Label,
    List,
    Money,
    Position,
    Text,
    Timestamp,
    age_seconds,
    bucket,
    category_hash,
    clip,
    count,
    day_of_week,
    days,
    decay,
    distinct,
    entropy,
    first,
    histogram,
    hour_of_day,
    hours,
    is_night,
    is_weekend,
    last,
    last_k,
    length,
    log1p,
    max,
    mean,
    min,
    minute_of_day,
    minutes,
    percentile,
    rate,
    seconds_between,
    seconds_between_std,
    seconds_since_last,
    speed,
    std,
    sum,
    top_k,
)
from features.wire import DUPLICATE, FOLDED
from penstock import prove
from streaming.broker import MAX_ENVELOPE_BYTES
from streaming.tokenise import Tokeniser
from tests.streaming.replay import Record, Stream, stream

who, shop = Entity("who_id"), Entity("shop_id")
sales = Event(
    "odd.sale.v1",
    id="sale_id",
    time="at",
    key=who,
    lateness=hours(1),
    fields={
        "who_id": Text(max=64),
        "shop_id": Text(max=64),
        "note": Text(max=MAX_RECORD_BYTES),
        "price": Money("EUR", min=-LARGEST_SUMMED, max=LARGEST_SUMMED),
        "items": Integer(),
        "weight": Float(decimals=2, min=-50, max=50),
        "heat": Float(),
        "online": Boolean(),
        "sort": Category("food", "zażółć"),
        "made": Timestamp(),
        "place": Position(),
        "tags": List(max=3, max_text=5),
    },
)
refunds = Label("odd.refund.v1", of=sales, field="refunded", known_after=days(1))
WHOLE = {"by": who, "over": days(200_000)}
"""A window from 1970 to 2262."""
HOUR = {"by": shop, "over": hours(1)}
PLAN = dataclasses.replace(
    compile_plan(
        FeatureSet(
            "odd",
            event=sales,
            label=refunds,
            features=[
                *(word(sales.price, **HOUR) for word in (sum, mean, std, min, max, first, last)),
                *(word(sales.price, **WHOLE) for word in (sum, mean, std)),
                decay(sales.price, half_life=minutes(5), **HOUR),
                *(word(sales.items, **HOUR) for word in (min, max, first, last)),
                last_k(sales["items"], k=3, **HOUR),
                percentile(sales["items"], p=50, **HOUR),
                *(
                    distinct(sales[name], **WHOLE)
                    for name in ("items", "note", "sort", "place", "shop_id")
                ),
                *(word(sales.weight, **HOUR) for word in (sum, std, min)),
                histogram(sales.weight, edges=[0, 1], **HOUR),
                *(entropy(sales.sort, **kind) for kind in (HOUR, WHOLE)),
                top_k(sales.sort, k=2, **HOUR),
                sum(sales.online, **HOUR),
                speed(sales.place, **HOUR),
                *(
                    word(by=shop, over=hours(1))
                    for word in (count, seconds_since_last, seconds_between, seconds_between_std)
                ),
                count(**WHOLE),
                count(by=Entity("who_id", "shop_id"), over=days(1)),
                count(where=sales.heat > 0, **WHOLE),
                rate(refunds.refunded, **WHOLE),
                sales.heat,
                sales["items"],
                sales.sort,
                (sales.heat * sales.heat).named("heat_squared"),
                (sales.heat * sales.heat - sales.heat * sales.heat * 2).named("heat_difference"),
                (sales.heat / sales.weight).named("heat_a_weight"),
                (sales.heat / (sales.heat * 0.1**300)).named("heat_a_crumb"),
                log1p(sales.heat).named("log_heat"),
                clip(sales.heat, -1, 1).named("clipped_heat"),
                bucket(sales.heat, [0, 5e-324]).named("heat_bucket"),
                category_hash(sales.note, 1009),
                age_seconds(sales.made),
                length(sales.tags),
                *(
                    part(sales)
                    for part in (hour_of_day, minute_of_day, day_of_week, is_weekend, is_night)
                ),
            ],
        )
    ),
    partitions=1,
)
COMPUTED = dataclasses.replace(
    PLAN, columns=tuple(column for column in PLAN.columns if column.kind != "field")
)
"""Without the columns that are fields of the event."""
DOOR = Contract(PLAN, PLAN.event_topic)
NOON_US = 1_767_614_400_000_000
GOOD = {
    "sale_id": '"s"',
    "at": '"2026-01-05T12:00:00Z"',
    "who_id": '"w"',
    "shop_id": '"x"',
    "note": '""',
    "price": '{"minor": 5, "currency": "EUR"}',
    "items": "1",
    "weight": "1.25",
    "heat": "0.5",
    "online": "true",
    "sort": '"food"',
    "made": '"2026-01-01T00:00:00Z"',
    "place": '{"latitude": 1, "longitude": 2}',
    "tags": '["a"]',
}


def raw(without: str = "", **changed: str) -> bytes:
    """A record whose members are given as they are spelt in JSON."""
    members = {name: text for name, text in (GOOD | changed).items() if name != without}
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in members.items()) + "}").encode()


def price(minor: object) -> str:
    return f'{{"minor": {minor}, "currency": "EUR"}}'


def place(latitude: object, longitude: object) -> str:
    return f'{{"latitude": {latitude}, "longitude": {longitude}}}'


def packed(latitude_e6: int, longitude_e6: int) -> int:
    return (latitude_e6 + 90_000_000) << 32 | (longitude_e6 + 180_000_000)


LARGEST = 2**63 - 1
ACCEPTED: list[tuple[str, str, Any]] = [
    # Zero is zero.
    ("heat", "-0.0", 0.0),
    ("heat", "-0", 0.0),
    ("heat", "-1e-400", 0.0),
    ("weight", "-0.0", 0),
    ("weight", "-0.004", 0),
    ("items", "-0", 0),
    ("price", price("-0"), 0),
    ("place", place("-0.0", "-0.0"), packed(0, 0)),
    # The least and the most.
    ("heat", "5e-324", 5e-324),
    ("heat", "1e300", 1e300),
    ("heat", "-1E+300", -1e300),
    ("heat", "9223372036854775808", 2.0**63),
    ("heat", "0.1000000000000000055511151231257827", 0.1),
    ("heat", f"0.{'3' * 50_000}", 1 / 3),
    ("heat", f"1e-{'9' * 5_000}", 0.0),
    ("items", str(LARGEST), LARGEST),
    ("items", str(-LARGEST), -LARGEST),
    ("price", price(LARGEST_SUMMED), LARGEST_SUMMED),
    ("price", price(-LARGEST_SUMMED), -LARGEST_SUMMED),
    ("weight", "50", 5000),
    ("weight", "-5e1", -5000),
    ("place", place(90, 180), packed(90_000_000, 180_000_000)),
    ("place", place(-90, -180), packed(-90_000_000, -180_000_000)),
    # Halves of the last decimal go to the even neighbour, of the float64 times 10^decimals.
    ("weight", "0.005", 0),
    ("weight", "0.015", 2),
    ("weight", "0.025", 2),
    ("weight", "1e-5", 0),
    ("place", place("0.0000005", "0.0000015"), packed(0, 2)),
    # Texts are their code points: nothing is normalised, trimmed or ended by a NUL.
    ("note", '""', ""),
    ("note", '" "', " "),
    ("note", '"a\\nb"', "a\nb"),
    ("note", '"\\u0000"', "\0"),
    ("note", '"\\ufeff"', "\ufeff"),
    ("note", json.dumps("x" * 60_000), "x" * 60_000),
    ("note", json.dumps("😀" * 15_000, ensure_ascii=False), "😀" * 15_000),
    ("who_id", '"\\u0000"', "\0"),
    ("who_id", '"w\\u0000"', "w\0"),
    ("who_id", '"\\u00e9"', "é"),
    ("who_id", '"e\\u0301"', "e\u0301"),
    ("who_id", '"ﬁ"', "ﬁ"),
    ("shop_id", '"\\ud83d\\ude00"', "😀"),
    ("shop_id", '"😀"', "😀"),
    ("shop_id", '"X"', "X"),
    ("shop_id", '"x "', "x "),
    ("shop_id", '"\uffff\U0010ffff"', "\uffff\U0010ffff"),
    ("shop_id", json.dumps("😀" * 64), "😀" * 64),
    ("sale_id", json.dumps("😀" * MAX_ID_LENGTH), "😀" * MAX_ID_LENGTH),
    ("sort", '"za\\u017c\\u00f3\\u0142\\u0107"', "zażółć"),
    ("tags", "[]", []),
    ("tags", '["", "é", "zzzzz"]', ["", "é", "zzzzz"]),
    # A time of its own may lie ahead of the event, or long before it.
    ("made", '"1970-01-01T00:00:00Z"', 0),
    ("made", '"2261-12-31T23:59:59.999999Z"', 9_214_646_399_999_999),
]

TIMES: list[tuple[str, int]] = [
    ("1970-01-01T00:00:00Z", 0),
    ("1969-12-31T23:59:00-00:01", 0),
    ("1969-12-31T23:59:59.9999995Z", 0),
    ("2000-02-29T00:00:00Z", 951_782_400_000_000),
    ("2024-02-29T23:59:59.999999Z", 1_709_251_199_999_999),
    ("2024-03-01T00:00:00Z", 1_709_251_200_000_000),
    # Clocks that are put forward: an hour that no clock shows is still an instant.
    ("2026-03-29T02:30:00+02:00", 1_774_744_200_000_000),
    ("2026-03-29T02:30:00+01:00", 1_774_747_800_000_000),
    # Clocks that are put back: the hour that comes twice is two hours.
    ("2026-10-25T02:30:00+02:00", 1_792_888_200_000_000),
    ("2026-10-25T02:30:00+01:00", 1_792_891_800_000_000),
    # Forms.
    ("2026-11-05t12:00:00z", 1_793_880_000_000_000),
    ("2026-11-05 12:00:00Z", 1_793_880_000_000_000),
    ("2026-11-05T12:00:00-00:00", 1_793_880_000_000_000),
    ("2026-11-05T17:30:00+0530", 1_793_880_000_000_000),
    ("2026-11-05T12:00:00.1Z", 1_793_880_000_100_000),
    # Digits past the µs are rounded, halves up.
    ("2026-11-05T12:00:00.1234564999Z", 1_793_880_000_123_456),
    ("2026-11-05T12:00:00.1234565Z", 1_793_880_000_123_457),
    ("2026-11-05T12:00:00.123457499999999999Z", 1_793_880_000_123_457),
    ("2026-11-05T12:00:00.9999999Z", 1_793_880_001_000_000),
    ("2262-01-01T00:00:00+00:01", 9_214_646_340_000_000),
    ("2261-12-31T23:59:59.999999Z", 9_214_646_399_999_999),
]
"""Event times in order."""

REFUSED: list[tuple[str, str, str]] = [
    *((name, text, "not_json") for name in ("heat", "items") for text in ("NaN", "+1", "01")),
    *(("heat", text, "not_json") for text in ("Infinity", "-Infinity", ".5", "1.", "0x10")),
    *(("heat", text, "out_of_range") for text in ("1e999", "-1e309", "1.0000001e300")),
    ("items", "1e999", "out_of_range"),
    ("place", place("1e999", 0), "out_of_range"),
    ("place", place("NaN", 0), "not_json"),
    ("place", place("90.0000001", 0), "out_of_range"),
    ("place", place(0, "-180.1"), "out_of_range"),
    *(("items", text, "wrong_type") for text in ("-0.0", "1.0", "1e3", "1e19", '"5"')),
    *(
        ("items", str(number), "out_of_range")
        for number in (LARGEST + 1, -LARGEST - 1, -LARGEST - 2, 2**64, 10**40)
    ),
    *(("price", price(text), "wrong_type") for text in ("1.5", "1e3", "-0.0", '"5"', "null")),
    *(
        ("price", price(number), "out_of_range")
        for number in (LARGEST_SUMMED + 1, -LARGEST_SUMMED - 1, LARGEST + 1)
    ),
    ("price", '{"minor": 1, "currency": "eur"}', "unknown_currency"),
    ("price", '{"minor": 1, "currency": null}', "wrong_type"),
    ("price", f'{{"minor": 1, "currency": "{"x" * 60_000}"}}', "unknown_currency"),
    ("items", "9" * 4_000, "out_of_range"),
    ("items", "9" * 60_000, "out_of_range"),
    ("at", f'"1969-12-31T23:59:59.{"1" * 60_000}Z"', "out_of_range"),
    ("price", "{}", "missing_field"),
    ("weight", "50.001", "out_of_range"),
    ("online", "TRUE", "not_json"),
    *(("sort", text, "out_of_range") for text in ('""', '"Food"', '"zaz\u0307ółć"')),
    ("tags", '["a", "b", "c", "d"]', "out_of_range"),
    ("tags", '["zzzzzz"]', "out_of_range"),
    ("tags", "[null]", "wrong_type"),
    *((name, '""', "out_of_range") for name in ("sale_id", "who_id", "shop_id")),
    ("who_id", json.dumps("😀" * 65), "out_of_range"),
    ("sale_id", json.dumps("x" * (MAX_ID_LENGTH + 1)), "out_of_range"),
    ("sale_id", json.dumps("x" * 64_000), "out_of_range"),
    ("sale_id", json.dumps("x" * MAX_RECORD_BYTES), "oversize"),
    # Half a surrogate pair is no character, however it is written.
    *(("who_id", f'"{text}"', "not_json") for text in ("\\ud800", "\\udc00\\ud800", "\\ud800x")),
    ("who_id", '"a\nb"', "not_json"),
    ("who_id", '"\\u00"', "not_json"),
    *(
        (name, json.dumps(text), "wrong_type")
        for name in ("at", "made")
        for text in (
            "",
            "now",
            "1767616496",
            "2026-01-05",
            "2026-01-05T12:00Z",
            "2026-01-05T12:00:00",
            "2026-01-05T12:00:00.Z",
            "2026-01-05T12:00:00,5Z",
            "2026-01-05T12:00:00+05",
            "2026-01-05T12:00:00+24:00",
            " 2026-01-05T12:00:00Z",
            "2026-01-05T24:00:00Z",
            "2026-13-05T12:00:00Z",
            "2026-04-31T12:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            # A leap second has no number of its own in µs since 1970.
            "2016-12-31T23:59:60Z",
            "10000-01-01T00:00:00Z",
            "-0001-01-05T12:00:00Z",
            "٢٠٢٦-01-05T12:00:00Z",
        )
    ),
    *(
        (name, json.dumps(text), "out_of_range")
        for name in ("at", "made")
        for text in (
            "1969-12-31T23:59:59.999999Z",
            "1970-01-01T00:00:00+00:01",
            "2262-01-01T00:00:00Z",
            "2261-12-31T23:59:59.9999999Z",
            "2261-12-31T23:59:59-00:01",
            "9999-12-31T23:59:59-23:59",
            "0001-01-01T00:00:00+23:59",
        )
    ),
]

RECORDS: list[tuple[bytes | None, str]] = [
    (None, "empty"),
    (b"", "empty"),
    (b"   ", "not_json"),
    (b"\xef\xbb\xbf" + raw(), "not_json"),
    (raw().decode().encode("utf-16"), "invalid_utf8"),
    (raw().replace(b'"w"', b'"\xc0\xaf"'), "invalid_utf8"),
    (raw().replace(b'"w"', b'"\xed\xa0\xbd\xed\xb8\x80"'), "invalid_utf8"),
    (raw().replace(b'"w"', b'"\xf5\x80\x80\x80"'), "invalid_utf8"),
    (raw().replace(b'"w"', b'"\xe2\x82"'), "invalid_utf8"),
    (b"\xc2\xa0" + raw(), "not_json"),
    (raw() + b"\0", "not_json"),
    (raw() + b"\n" + raw(), "not_json"),
    (raw()[:-1] + b",}", "not_json"),
    (b"/**/" + raw(), "not_json"),
    (raw().replace(b'"', b"'"), "not_json"),
    (b"[" + raw() + b"]", "wrong_type"),
    (json.dumps(raw().decode()).encode(), "wrong_type"),
    *((text, "wrong_type") for text in (b"5", b"null", b"true", b'""')),
    (raw(items="[" * 20_000 + "]" * 20_000), "not_json"),
    (raw(items='{"a":' * 8_000 + "1" + "}" * 8_000), "not_json"),
    (raw()[:-1] + b', "": 1}', "unknown_field"),
    (raw()[:-1] + b', "items\\u0000": 1}', "unknown_field"),
    (raw()[:-1] + ', "ｉtems": 1}'.encode(), "unknown_field"),
    (raw()[:-1] + b', "\\ud800": 1}', "not_json"),
    # Of two members of one name each must keep the contract.
    (b'{"items": null, ' + raw()[1:], "not_json"),
    (raw() + b" " * (MAX_RECORD_BYTES + 1 - len(raw())), "oversize"),
]


def same(found: Any, expected: Any) -> bool:
    """Equal in type and to the last bit."""
    if isinstance(expected, float):
        return type(found) is float and struct.pack("<d", found) == struct.pack("<d", expected)
    return type(found) is type(expected) and found == expected


def short(value: Any) -> str:
    return str(value)[:60]


@pytest.mark.parametrize(("name", "text", "expected"), ACCEPTED, ids=short)
def test_odd_value_is_read_as_stated(name: str, text: str, expected: Any) -> None:
    found = DOOR.read(raw(**{name: text}))[DOOR.names.index(name)]
    assert same(found, expected)


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_time_is_read_as_stated(text: str, expected: int) -> None:
    record = DOOR.read(raw(at=f'"{text}"', made=f'"{text}"'))
    assert [record[DOOR.names.index(name)] for name in ("at", "made")] == [expected] * 2


@pytest.mark.parametrize(("name", "text", "reason"), REFUSED, ids=short)
def test_odd_value_is_refused_as_stated(name: str, text: str, reason: str) -> None:
    with pytest.raises(ContractError) as refused:
        DOOR.read(raw(**{name: text}))
    assert refused.value.reason == reason
    # The message travels as a header of the dead letter: it does not quote the whole of it.
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(("payload", "reason"), RECORDS, ids=short)
def test_odd_record_is_refused_as_stated(payload: bytes | None, reason: str) -> None:
    with pytest.raises(ContractError) as refused:
        DOOR.read(payload)
    assert refused.value.reason == reason


OTHER_TYPES = {
    "null": "null",
    "boolean": "false",
    "number": "1.5",
    "string": '"1"',
    "array": "[1]",
    "object": '{"a": 1}',
}
OWN_TYPE = {
    "heat": "number",
    "weight": "number",
    "online": "boolean",
    "price": "object",
    "place": "object",
    "tags": "array",
    "sort": "string",
    **dict.fromkeys(("sale_id", "who_id", "shop_id", "note"), "string"),
}
"""The other members refuse every one of these."""


@pytest.mark.parametrize("name", GOOD)
def test_null_missing_and_other_types_are_refused(name: str) -> None:
    for kind, text in OTHER_TYPES.items():
        if OWN_TYPE.get(name) != kind:
            with pytest.raises(ContractError, match=name) as refused:
                DOOR.read(raw(**{name: text}))
            assert refused.value.reason == "wrong_type", kind
    with pytest.raises(ContractError, match=name) as refused:
        DOOR.read(raw(without=name))
    assert refused.value.reason == "missing_field"


def test_members_of_one_name_leave_the_last() -> None:
    twice = raw()[:-1] + b', "items": 2, "it\\u0065ms": 3}'
    assert DOOR.read(twice)[DOOR.names.index("items")] == 3


def test_record_may_have_64_kib_to_the_byte() -> None:
    assert DOOR.read(raw() + b" " * (MAX_RECORD_BYTES - len(raw()))) == DOOR.read(raw())


def test_order_and_space_between_members_mean_nothing() -> None:
    turned = json.dumps(dict(reversed(json.loads(raw()).items())), indent=3).encode()
    assert DOOR.read(b" \r\n\t" + turned + b"\n") == DOOR.read(raw())


# What passed the door.


def time_text(offset_s: float) -> str:
    """A time some seconds after noon, as JSON."""
    minute, second = divmod(offset_s, 60)
    return f'"2026-01-05T12:{int(minute):02d}:{second:09.6f}Z"'


def journey() -> list[bytes]:
    """Every accepted value in one log, in such an order that windows hold several of them."""
    log: list[bytes] = [
        raw(sale_id=f'"t{i}"', at=f'"{text}"', made=f'"{text}"')
        for i, (text, at_us) in enumerate(TIMES)
        if at_us < NOON_US
    ]
    for turn in range(2):
        for i, (name, text, _) in enumerate(ACCEPTED):
            if turn and name == "sale_id":
                # It would be a duplicate.
                continue
            own = {"sale_id": f'"v{turn}-{i}"', "at": time_text(turn * 600 + i)}
            log.append(raw(**(own | {name: text})))
    # Ten at one instant, and one that comes after them and lies before.
    log += [
        raw(sale_id=f'"e{i}"', at=time_text(1500), items=str(i), price=price(i)) for i in range(10)
    ]
    log.append(raw(sale_id='"e10"', at=time_text(1499.5)))
    log += [
        raw(sale_id=f'"t{i}"', at=f'"{text}"', made=f'"{text}"')
        for i, (text, at_us) in enumerate(TIMES)
        if at_us >= NOON_US
    ]
    return log


def records(log: list[bytes]) -> list[Record]:
    """As the broker hands them on: none of them lies in the future of its broker time."""
    at = DOOR.names.index("at")
    return [
        Record(PLAN.event_topic, 0, offset, payload, DOOR.read(payload)[at] // 1000)
        for offset, payload in enumerate(log)
    ]


def accepted(log: list[bytes]) -> list[dict[str, Any]]:
    """The rows that ingest makes of a log."""
    made = Stream(PLAN, Tokeniser(b"k" * 16))
    source = made.sources[PLAN.event_topic]
    judged = [row for row, _ in source.judge(records(log))]  # type: ignore[arg-type,misc]
    return source.rows.batch(judged, FOLDED).to_pylist()


def test_reference_kernel_and_stream_agree_on_every_odd_value() -> None:
    rows = accepted(journey())
    assert prove.compare(prove.Case(0, COMPUTED, rows, Counter())) is None
    for row in prove.by_kernel(PLAN, rows):
        if row["verdict"] == FOLDED:
            for name in PLAN.column_names:
                assert math.isfinite(row[name]), name
                assert not same(row[name], -0.0), name


def streamed(folder: Path, monkeypatch: pytest.MonkeyPatch, log: list[bytes]) -> Stream:
    monkeypatch.setattr(settings(), "lake_uri", str(folder / "lake"))
    monkeypatch.setattr(settings(), "snapshot_uri", str(folder / "snapshots"))
    sent = records(log)
    return stream(PLAN, Tokeniser(b"k" * 16), [sent[i : i + 32] for i in range(0, len(sent), 32)])


def test_lake_keeps_every_odd_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = journey()
    streamed(tmp_path, monkeypatch, log)
    rows = accepted(log)
    kept = lake.read("events").sort_by("origin_offset")
    for field in PLAN.fields:
        column = kept[field.name]
        if field.type == "timestamp":
            column = column.cast(pa.int64())
        expected = [row[field.name] for row in rows]
        assert all(map(same, column.to_pylist(), expected)), field.name
    assert kept["event_id"].to_pylist() == [row["event_id"] for row in rows]
    assert kept["event_time"].cast(pa.int64()).to_pylist() == [r["event_time_us"] for r in rows]
    expected = prove.by_reference(PLAN, rows)
    logged = lake.read("features").sort_by("origin_offset").to_pylist()
    assert len(logged) == len(rows)
    for row, fields, columns in zip(logged, rows, expected, strict=True):
        for name in PLAN.column_names:
            assert same(row[name], float((fields | columns)[name])), name


@pytest.mark.slow
def test_backfill_gives_every_odd_value_the_streams_bits(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = journey()
    streamed(tmp_path, monkeypatch, log)
    report = backfill(PLAN, spark=spark)
    assert (report["rows"], report["disagreements"]) == (len(log), 0)
    found = parity.measure(PLAN)
    assert (found["rows"], found["mismatches"]) == (len(log), 0)


def test_texts_of_64_kib_fill_envelopes_that_fit_a_topic() -> None:
    made = Stream(PLAN, Tokeniser(b"k" * 16))
    note = json.dumps("x" * (MAX_RECORD_BYTES - len(raw()) - 100))
    sent = [raw(sale_id=f'"s{i}"', note=note) for i in range(20)]
    made.ingest(records(sent))
    envelopes = [payload for _, payload in made.logs.take(PLAN.stages[0].topic, 0)]
    assert len(envelopes) > 2
    assert all(len(payload) <= MAX_ENVELOPE_BYTES for payload in envelopes)


def test_ten_events_at_one_time_stand_in_order_of_arrival() -> None:
    log = [raw(sale_id=f'"e{i}"', items=str(i), price=price(10 - i)) for i in range(10)]
    log.append(raw(sale_id='"before"', at=time_text(-0.0), items="99"))
    rows = prove.by_kernel(PLAN, accepted(log))
    assert [row["shop_count_1h"] for row in rows] == [float(n) for n in range(1, 12)]
    assert [row["shop_items_last_1h"] for row in rows[:10]] == [float(i) for i in range(10)]
    assert {row["shop_items_first_1h"] for row in rows} == {0.0}
    ends = [name for name in PLAN.column_names if name.startswith("shop_items_last_k")]
    assert [rows[9][name] for name in ends] == [9.0, 8.0, 7.0]
    assert {row["shop_seconds_since_last_1h"] for row in rows[1:]} == {0.0}
    assert {row["shop_place_speed_1h"] for row in rows} == {0.0}


def test_second_event_of_an_id_is_a_duplicate_whatever_it_says() -> None:
    rows = prove.by_kernel(
        PLAN,
        accepted(
            [
                raw(),
                raw(items="7", shop_id='"other"', at=time_text(3000)),
                # Another key, a case of its own, or more than the lateness later: another event.
                raw(who_id='"v"'),
                raw(sale_id='"S"', at=time_text(3001)),
                raw(at='"2026-01-05T13:00:00.000001Z"'),
            ]
        ),
    )
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == [FOLDED, DUPLICATE, FOLDED, FOLDED, FOLDED]
    assert all(rows[1][name] is None for name in PLAN.stages[1].columns)
    # What it said counts nowhere.
    assert rows[3]["shop_items_max_1h"] == 1.0
    assert rows[3]["shop_count_1h"] == 3.0


def test_keys_are_their_bytes() -> None:
    keys = ["w", "W", "w ", "w\0", "\0w", "é", "e\u0301", "ﬁ", "fi", "😀", "\ufeff", "\ufeffw"]
    log = [
        raw(
            sale_id=f'"{turn}-{i}"',
            at=time_text(turn * 20 + i),
            who_id=json.dumps(key),
            shop_id=json.dumps(key),
        )
        for turn in range(3)
        for i, key in enumerate(keys)
    ]
    rows = accepted(log)
    assert [row["who_id"] for row in rows] == keys * 3
    found = [row["shop_count_1h"] for row in prove.by_kernel(PLAN, rows)]
    assert found == [float(turn + 1) for turn in range(3) for _ in keys]
    assert prove.compare(prove.Case(0, COMPUTED, rows, Counter())) is None


def test_clocks_that_change_and_leap_days_are_utc() -> None:
    parts = ("hour_of_day", "minute_of_day", "day_of_week", "is_weekend", "is_night")
    rows = accepted([raw(sale_id=f'"t{i}"', at=f'"{text}"') for i, (text, _) in enumerate(TIMES)])
    found = {
        text: tuple(int(row[part]) for part in parts)
        for (text, _), row in zip(TIMES, prove.by_kernel(PLAN, rows), strict=True)
    }
    assert found["1970-01-01T00:00:00Z"] == (0, 0, 3, 0, 1)
    assert found["2024-02-29T23:59:59.999999Z"] == (23, 1439, 3, 0, 0)
    assert found["2024-03-01T00:00:00Z"] == (0, 0, 4, 0, 1)
    assert found["2026-03-29T02:30:00+02:00"] == (0, 30, 6, 1, 1)
    assert found["2026-03-29T02:30:00+01:00"] == (1, 90, 6, 1, 1)
    assert found["2026-10-25T02:30:00+02:00"] == (0, 30, 6, 1, 1)
    assert found["2026-10-25T02:30:00+01:00"] == (1, 90, 6, 1, 1)
    assert found["2261-12-31T23:59:59.999999Z"] == (23, 1439, 1, 0, 0)


def test_no_result_is_infinite_or_nan() -> None:
    (row,) = prove.by_kernel(PLAN, accepted([raw(heat="1e300", weight="0")]))
    largest = 1.7976931348623157e308
    assert row["heat_squared"] == largest
    # Not infinity less infinity.
    assert row["heat_difference"] == 0.0
    assert row["heat_a_weight"] == 0.0
    (row,) = prove.by_kernel(PLAN, accepted([raw(heat="-1e300")]))
    assert row["heat_a_crumb"] == pytest.approx(1e300)
    assert row["log_heat"] == 0.0
    assert row["heat_difference"] == 0.0


def test_sums_at_the_edge_are_exact() -> None:
    n = 1_000
    log = [raw(sale_id=f'"s{i}"', at=time_text(i), price=price(LARGEST_SUMMED)) for i in range(n)]
    last_row = prove.by_kernel(PLAN, accepted(log))[-1]
    assert last_row["shop_price_sum_1h"] == float(n * LARGEST_SUMMED)
    assert last_row["shop_price_mean_1h"] == float(LARGEST_SUMMED)
    assert last_row["shop_price_std_1h"] == 0.0


NAN, INFINITY = float("nan"), float("inf")
WRONG_TYPES: list[tuple[type, dict[str, Any]]] = [
    (Integer, {"max": 2**63}),
    (Integer, {"min": -(2**63)}),
    (Integer, {"min": 1, "max": 0}),
    (Integer, {"max": 1.5}),
    (Money, {"currency": "EUR", "max": 2**63}),
    (Money, {"currency": "EUR", "max": -1}),
    (Money, {"currency": "EUR", "min": 1.0}),
    (Float, {"max": NAN}),
    (Float, {"min": -INFINITY}),
    (Float, {"max": 1e301}),
    (Float, {"min": 1, "max": 0}),
    # More units than a float64 tells apart; in a row they would be integers past 64 bits.
    (Float, {"decimals": 9, "max": 1e10}),
    (Float, {"decimals": 1.5}),
    (Text, {"max": 0}),
    (Text, {"max": 2.5}),
    (List, {"max": 0}),
    (List, {"max_text": -1}),
]


@pytest.mark.parametrize(("kind", "arguments"), WRONG_TYPES, ids=str)
def test_bounds_that_no_row_could_hold_are_refused(kind: type, arguments: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=r"test_odd_values\.py:\d+: .*; give "):
        kind(**arguments)


def test_edges_of_the_bounds_are_declared_and_read() -> None:
    event = Event(
        "edge.v1",
        id="id",
        time="at",
        key=who,
        fields={
            "who_id": Text(max=1),
            "whole": Integer(min=-LARGEST, max=LARGEST),
            "cost": Money("EUR", max=LARGEST),
            "fine": Float(decimals=9),
        },
    )
    plan = compile_plan(FeatureSet("edge", event=event, features=[max(event.cost, **WHOLE)]))
    record = {"id": "a", "at": "2026-01-05T12:00:00Z", "who_id": "w"}
    for sign in (1, -1):
        numbers = {"whole": sign * LARGEST, "cost": {"minor": sign * LARGEST, "currency": "EUR"}}
        payload = json.dumps(record | numbers | {"fine": sign * 2**53 / 10**9}).encode()
        *_, whole, cost, fine = Contract(plan, plan.event_topic).read(payload)
        assert (whole, cost, fine) == (sign * LARGEST, sign * LARGEST, sign * 2**53)


@pytest.mark.parametrize("most", [LARGEST_SUMMED, LARGEST_SUMMED + 1])
@pytest.mark.parametrize("word", [sum, mean, std, decay, max, last])
def test_sum_that_could_leave_64_bits_is_refused(word: Any, most: int) -> None:
    event = Event(
        "edge.v1",
        id="id",
        time="at",
        key=who,
        fields={"who_id": Text(), "cost": Money("EUR", max=most)},
    )
    more = {"half_life": hours(1)} if word is decay else {}
    wanted = FeatureSet("edge", event=event, features=[word(event.cost, **HOUR_BY_WHO, **more)])
    if most > LARGEST_SUMMED and word in (sum, mean, std):
        with pytest.raises(DefinitionError, match=f"within ±{LARGEST_SUMMED}, so that sums fit"):
            compile_plan(wanted)
    else:
        assert compile_plan(wanted).columns


HOUR_BY_WHO = {"by": who, "over": hours(1)}


@pytest.mark.parametrize("constant", [NAN, INFINITY, -INFINITY, 10**400, True, None])
def test_constants_of_a_definition_are_finite(constant: Any) -> None:
    for write in (
        lambda: sales.heat * constant,
        lambda: constant + sales.price,
        lambda: sales.price > constant,
        lambda: sales.weight > constant,
        lambda: sales.heat > constant,
    ):
        with pytest.raises(DefinitionError, match=r"test_odd_values\.py:\d+: .*; (give|use) "):
            write()


def test_constants_of_integers_have_64_bits() -> None:
    for write in (lambda: sales["items"] > 2**63, lambda: sales["items"].is_in(1, 2**63)):
        with pytest.raises(DefinitionError, match="64 bits"):
            write()


@pytest.mark.parametrize("edges", [[NAN], [0, NAN], [INFINITY], [1, 1], []])
def test_edges_of_a_bucket_are_finite_and_rise(edges: list[float]) -> None:
    with pytest.raises(DefinitionError, match="give rising edges"):
        bucket(sales.heat, edges)


@pytest.mark.parametrize("p", [0.01, 0.07, 0.28, 1.1, 16.9, 33.33, 50, 99.99, 100])
def test_percentile_takes_two_decimals(p: float) -> None:
    found = percentile(sales.price, p=p, **HOUR)
    assert found.parameters == (round(p * 100),)


@pytest.mark.parametrize("p", [None, "5", True, 0, -1, 100.01, NAN, INFINITY])
def test_percentile_of_no_percentage_is_refused(p: Any) -> None:
    with pytest.raises(DefinitionError, match=r"p= is .*; give a percentage above 0, up to 100"):
        percentile(sales.price, p=p, **HOUR)


@pytest.mark.parametrize("p", [0.001, 33.333, 99.999, 1 / 3])
def test_percentile_of_more_decimals_is_refused(p: float) -> None:
    with pytest.raises(DefinitionError, match="give at most two decimals"):
        percentile(sales.price, p=p, **HOUR)

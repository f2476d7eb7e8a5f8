"""Envelopes, positions and dead letters."""

import dataclasses

import pytest

from features.catalog import load_plan
from features.errors import WireError
from features.wire import (
    CUT_FROM,
    DeadLetter,
    Dealt,
    decode,
    encode,
    is_dead_letter,
    own_headers,
    partition_of,
    row_schema,
    seq_of,
    vectors,
)
from tests.features.rows import batch

PLAN = load_plan("card_fraud")
ROW = {"event_id": "t1", "event_time_us": 5, "customer_id": "ü", "terminal_id": "x", "amount": 7}


def test_envelope_returns_the_rows_it_packed() -> None:
    rows = batch(PLAN, [ROW, {"kind": 1, "event_id": "t2", "is_fraud": 1}])
    assert decode(PLAN, encode(PLAN, rows)).equals(rows)


def test_envelope_of_one_row_carries_no_schema() -> None:
    # Arrow's message has some 60 bytes a column, and no names.
    assert len(encode(PLAN, batch(PLAN, [ROW]))) < 70 * len(row_schema(PLAN))
    assert b"customer_count_1d" not in encode(PLAN, batch(PLAN, [ROW]))


def test_envelope_of_another_plan_is_refused_with_both_fingerprints() -> None:
    other = dataclasses.replace(PLAN, fingerprint="00112233aabbccdd")
    with pytest.raises(WireError, match=f"00112233aabbccdd.*{PLAN.fingerprint}"):
        decode(PLAN, encode(other, batch(other, [ROW])))


@pytest.mark.parametrize("payload", [b"", b"{}", b"PSK1", b"PSK1" + bytes(8)])
def test_what_is_no_envelope_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode(PLAN, payload)


def test_damaged_envelope_is_refused() -> None:
    packed = encode(PLAN, batch(PLAN, [ROW]))
    with pytest.raises(WireError, match="damaged"):
        decode(PLAN, packed[:200])


def test_seq_orders_like_offset_then_row() -> None:
    places = [(0, 0), (0, 1), (1, 0), (1, 2**20 - 1), (2, 0), (2**40, 3)]
    assert [seq_of(*p) for p in places] == sorted(seq_of(*p) for p in places)


def test_partition_of_a_key_is_fixed() -> None:
    # CRC-32 of the UTF-8 bytes, so that any language finds the same partition.
    assert [partition_of(key, 4) for key in ("a", "b", "ü", "")] == [3, 1, 1, 0]


def test_vectors_follow_the_plans_column_order() -> None:
    values = {column.name: float(i) for i, column in enumerate(PLAN.columns)}
    rows = batch(PLAN, [ROW | values | {"amount": 0}])
    assert vectors(PLAN, rows).tolist() == [[float(i) for i in range(len(PLAN.columns))]]
    assert set(PLAN.column_names) <= set(row_schema(PLAN).names)


def test_dead_letter_survives_its_headers() -> None:
    letter = DeadLetter("pay.v1", 3, 99, "not_json", "no object at byte 0 – ü", 1234)
    assert DeadLetter.from_headers(letter.headers()) == letter
    with pytest.raises(WireError, match="offset"):
        DeadLetter.from_headers([h for h in letter.headers() if "offset" not in h[0]])


def test_dead_letter_is_told_from_what_the_record_came_with() -> None:
    letter = DeadLetter("pay.v1", 3, 99, "not_json", "no", 1234)
    # The record was a dead letter before, of Kafka Streams or of ours.
    before = DeadLetter("other.v1", 1, 2, "empty", "gone", 5).headers()
    own = [("trace", b"\xff"), ("none", None), *before]
    headers = [*own, *letter.headers()]
    assert DeadLetter.from_headers(headers) == letter
    assert list(own_headers(headers)) == own
    assert list(own_headers([*headers, (CUT_FROM, b"9")])) == own
    assert list(own_headers([*letter.headers()])) == []
    assert is_dead_letter(headers)
    assert not is_dead_letter([("trace", b"1")])


def test_marker_survives_its_headers_and_is_no_letter() -> None:
    marker = Dealt("pay.v1", 3, 99, "dropped")
    assert Dealt.from_headers(marker.headers()) == marker
    letter = DeadLetter("pay.v1", 3, 99, "not_json", "no", 1234)
    assert Dealt.from_headers([*marker.headers(), *letter.headers()]) is None
    assert Dealt.from_headers([]) is None
    with pytest.raises(WireError, match="names no letter"):
        Dealt.from_headers(marker.headers()[:1])

"""Keys of several fields as one text: never the same for different parts."""

import itertools
import random

import pyarrow as pa

from features.coding import composite_key, composite_keys

PIECES = ["", "a", "1", "1:", "1:a", ":", "0:", "2:aa", "ż", "é", "🦀", "a\x00", "11:", "-1"]


def test_key_leads_each_part_but_the_last_by_its_length_in_characters() -> None:
    assert composite_key(["abc", "x"]) == "3:abcx"
    assert composite_key(["żółć", "", "1:a"]) == "4:żółć0:1:a"
    assert composite_key(["alone"]) == "alone"


def test_no_two_keys_are_the_same_text() -> None:
    for width in (2, 3):
        parts = list(itertools.product(PIECES, repeat=width))
        assert len({composite_key(each) for each in parts}) == len(parts)


def test_columns_give_the_same_keys_as_their_rows() -> None:
    chance = random.Random(1)
    rows = [
        ["".join(chance.choices(PIECES, k=chance.randrange(4))) for _ in "123"] for _ in "x" * 500
    ]
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    assert composite_keys(columns).to_pylist() == [composite_key(row) for row in rows]
    # As parts of larger columns, and as none.
    sliced = [column.slice(7, 90) for column in columns]
    assert composite_keys(sliced).to_pylist() == [composite_key(row) for row in rows[7:97]]
    assert composite_keys([pa.array([], pa.string())] * 2).to_pylist() == []


def test_row_that_lacks_a_part_has_no_key() -> None:
    columns = [pa.array(["a", None, "c"]), pa.array(["x", "y", None])]
    assert composite_keys(columns).to_pylist() == ["1:ax", None, None]

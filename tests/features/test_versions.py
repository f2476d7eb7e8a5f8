"""What a stage keeps of a reference: any number of keys and versions, their values as they came."""

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.versions import Versions
from features.wire import NEVER_US

SCHEMA = pa.schema(
    [
        ("m__rate", pa.int64()),
        ("m__heat", pa.float64()),
        ("m__open", pa.bool_()),
        ("m__note", pa.string()),
        ("m__words", pa.list_(pa.string())),
    ]
)
Row = tuple[str, str, int, int]
"""(kind, key, time, number): of a version `v`, an event `e`, or another row `-`."""


def values(number: int) -> dict[str, Any]:
    """What the version of a number says."""
    return {
        "m__rate": 2**60 + number,
        "m__heat": number / 3,
        "m__open": number % 2 == 0,
        "m__note": "zażółć" * (number % 3),
        "m__words": ["a"] * (number % 4),
    }


def fold(versions: Versions, rows: list[Row], settled_us: int = NEVER_US) -> list[dict[str, Any]]:
    told = [values(n) if kind == "v" else dict.fromkeys(SCHEMA.names) for kind, _, _, n in rows]
    found = versions.fold(
        pa.RecordBatch.from_pylist(told, SCHEMA),
        pa.array([key for _, key, _, _ in rows], pa.string()),
        np.array([kind == "v" for kind, *_ in rows]),
        np.array([kind == "e" for kind, *_ in rows]),
        np.array([time for _, _, time, _ in rows], np.int64),
        settled_us,
    )
    batch = pa.RecordBatch.from_pydict(found)
    assert batch.schema == SCHEMA
    return batch.to_pylist()


def plainly(rows: list[Row]) -> list[dict[str, Any]]:
    made, kept = [], list[Row]()
    for row in rows:
        kind, key, time, number = row
        nothing = dict.fromkeys(SCHEMA.names)
        if kind == "v":
            kept.append(row)
            made.append(values(number))
        elif kind == "e":
            seen = [(v[2], at) for at, v in enumerate(kept) if v[1] == key and v[2] <= time]
            made.append(values(kept[max(seen)[1]][3]) if seen else nothing)
        else:
            made.append(nothing)
    return made


def drawn(seed: int, rows: int = 600, keys: int = 40) -> list[Row]:
    chance = random.Random(seed)
    return [
        (chance.choice("vee-"), f"k{chance.randrange(keys)}", chance.randrange(50), number)
        for number in range(rows)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_rows_see_what_a_plain_search_finds_however_they_are_cut(seed: int) -> None:
    rows, chance, versions = drawn(seed), random.Random(seed), Versions(SCHEMA)
    found, at = [], 0
    while at < len(rows):
        size = chance.choice([1, 2, 7, 90])
        found += fold(versions, rows[at : at + size])
        at += size
        if chance.random() < 0.2:
            packed, versions = versions.pack(), Versions(SCHEMA)
            versions.unpack(packed)
    assert found == plainly(rows)


def test_one_batch_may_bring_more_keys_and_versions_than_there_is_room_for() -> None:
    versions = Versions(SCHEMA)
    rows = [("v", f"{'key' * 20}{n % 4000}", n, n) for n in range(9000)]
    fold(versions, rows)
    assert versions.entries == 9000
    packed, versions = versions.pack(), Versions(SCHEMA)
    versions.unpack(packed)
    asked = [("e", key, 9000, 0) for _, key, _, _ in rows[5000:9000]]
    assert fold(versions, asked) == [values(n) for n in range(5000, 9000)]
    assert versions.nbytes > 9000 * (8 + 8 + 8)


def test_memory_follows_what_can_still_be_seen() -> None:
    versions = Versions(SCHEMA)
    most = 0
    for n in range(3000):
        # Two keys change all the time, and events look back no more than ten.
        assert fold(versions, [("v", "ab"[n % 2], n, n)], settled_us=n - 10) == [values(n)]
        most = max(most, versions.entries)
    assert most < 100
    versions.forget(2990)
    # Of each key what held at 2990, and what came after.
    assert versions.entries == 5 + 6
    assert fold(versions, [("e", "a", 2990, 0), ("e", "b", 2990, 0)]) == [
        values(2990),
        values(2989),
    ]
    versions.forget(10_000)
    assert versions.entries == 2
    assert fold(versions, [("e", "a", 9999, 0), ("e", "b", 2998, 0)]) == [
        values(2998),
        dict.fromkeys(SCHEMA.names),
    ]


def test_every_key_but_one_is_forgotten() -> None:
    versions = Versions(SCHEMA)
    fold(versions, [("v", "a", 1, 1), ("v", "b", 2, 2), ("v", "b", 5, 5), ("v", "c", 1, 3)])
    versions.keep_only("b", NEVER_US)
    assert versions.entries == 2
    asked = [("e", key, time, 0) for key, time in (("a", 9), ("b", 3), ("b", 9), ("c", 9))]
    nothing = dict.fromkeys(SCHEMA.names)
    assert fold(versions, asked) == [nothing, values(2), values(5), nothing]
    versions.keep_only("b", 5)
    assert versions.entries == 1
    # Others find their place again.
    fold(versions, [("v", f"k{n}", 1, n) for n in range(500)])
    assert fold(versions, [("e", "k499", 1, 0), ("e", "b", 5, 0)]) == [values(499), values(5)]
    for key in ("nobody", None):
        versions.keep_only(key, NEVER_US)
        assert versions.entries == 0
    assert fold(versions, asked) == [nothing] * 4
    assert fold(Versions(SCHEMA), asked) == [nothing] * 4

"""Chains of versions against a plain search, and what is left of them when written anew."""

import random
from typing import Any

import numpy as np
import pytest

from kernels.asof import NONE, copy, fold_versions

Row = tuple[int, bool, int]
"""(slot, is it a version, time)."""


class Chains:
    """The arrays of a few keys, with room for many versions; what is free holds nonsense."""

    def __init__(self, keys: int = 4, room: int = 400) -> None:
        self.head = np.full(keys, NONE)
        self.following = np.full(room, 77)
        self.valid_from = np.full(room, 55)
        self.used = 0

    def fold(self, rows: list[Row]) -> list[int]:
        slots, is_version, times = (list(part) for part in zip(*rows, strict=True))
        out = np.full(len(rows), 99)
        self.used = fold_versions(
            np.array(slots),
            np.array(is_version),
            np.array(times),
            self.head,
            self.following,
            self.valid_from,
            self.used,
            out,
        )
        return out.tolist()

    def copy(self, keep: list[int], expire_before: int) -> tuple["Chains", list[int]]:
        made = Chains(len(keep), len(self.following))
        made.head[:] = 33
        kept = np.full(len(self.following), 44)
        made.used = copy(
            np.array(keep, np.int64),
            self.head,
            self.following,
            self.valid_from,
            expire_before,
            made.head,
            made.following,
            made.valid_from,
            kept,
        )
        return made, kept[: made.used].tolist()

    def chain(self, slot: int) -> list[int]:
        """The times of a key's versions as they are linked."""
        found, at = [], int(self.head[slot])
        while at >= 0:
            found.append(int(self.valid_from[at]))
            at = int(self.following[at])
        return found


def plainly(rows: list[Row]) -> list[int]:
    """The same by looking at every version that came before."""
    versions: list[tuple[int, int, int]] = []  # (slot, time, number)
    found = []
    for slot, is_version, time in rows:
        if is_version and slot >= 0:
            versions.append((slot, time, len(versions)))
            found.append(len(versions) - 1)
            continue
        seen = [v[1:] for v in versions if v[0] == slot and v[1] <= time]
        found.append(max(seen)[1] if seen else NONE)
    return found


def drawn(seed: int) -> list[Row]:
    chance = random.Random(seed)
    return [
        (chance.randrange(-1, 4), chance.random() < 0.4, chance.randrange(30)) for _ in range(300)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_sees_what_a_plain_search_finds(seed: int) -> None:
    rows = drawn(seed)
    assert Chains().fold(rows) == plainly(rows)
    # Where a call ends means nothing.
    again = Chains()
    assert [entry for row in rows for entry in again.fold([row])] == plainly(rows)


def test_versions_lie_newest_first_and_of_one_instant_only_the_last() -> None:
    chains = Chains()
    arrived = [10, 30, 20, 30, 5, 40, 10]
    assert chains.fold([(1, True, time) for time in arrived]) == list(range(7))
    assert chains.chain(1) == [40, 30, 20, 10, 5]
    assert chains.fold([(1, False, time) for time in (41, 39, 25, 10, 4)]) == [5, 3, 2, 6, NONE]
    assert chains.used == 7
    assert chains.fold([(0, False, 50), (-1, True, 50), (-1, False, 50)]) == [NONE, NONE, NONE]
    assert chains.used == 7


def test_copy_keeps_what_can_still_be_seen() -> None:
    chains = Chains()
    arrived = [(1, 10), (3, 1), (1, 30), (1, 20), (1, 30), (0, 25), (0, 2), (3, 2)]
    chains.fold([(slot, True, time) for slot, time in arrived])
    made, kept = chains.copy([1, 2, 3], expire_before=20)
    # The last version of a key stays, and what no chain holds any more goes.
    assert [made.chain(slot) for slot in range(3)] == [[30, 20], [], [2]]
    assert kept == [4, 3, 7]
    assert made.fold([(0, False, 20), (0, False, 31), (1, False, 9), (2, False, 9)]) == [
        1,
        0,
        -1,
        2,
    ]
    # A version that comes later goes on where the others end.
    assert made.fold([(0, True, 25), (0, False, 26)]) == [3, 3]
    assert made.chain(0) == [30, 25, 20]
    everything, kept = chains.copy([0, 1, 2, 3], expire_before=-(2**63))
    assert [everything.chain(slot) for slot in range(4)] == [[25, 2], [30, 20, 10], [], [2, 1]]
    assert kept == [5, 6, 4, 3, 0, 7, 1]


@pytest.mark.parametrize("seed", range(10))
def test_copy_changes_nothing_that_is_asked_for_later(seed: int) -> None:
    rows = drawn(seed)
    before, after = rows[:150], [row for row in rows[150:] if row[1] or row[2] >= 12]
    chains: Any = Chains()
    chains.fold(before)
    copied, kept = chains.copy([0, 1, 2, 3], expire_before=12)
    expected = [int(chains.valid_from[e]) if e >= 0 else None for e in chains.fold(after)]
    assert [int(copied.valid_from[e]) if e >= 0 else None for e in copied.fold(after)] == expected
    assert len(kept) < len([row for row in before if row[1] and row[0] >= 0])

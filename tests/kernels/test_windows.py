"""The window kernel against brute force, on keys that are interleaved, out of order and growing."""

from typing import Any

import numpy as np
import pytest

from kernels.windows import (
    ARRIVED,
    FIRST_CONDITION,
    KINDS,
    LABEL,
    NONE,
    SQUARE_HIGH,
    Arena,
    Spec,
    compact,
    fold_rows,
    reserve,
)

KEYS = 3
RANGES = [(5, 0), (9, 2), (30, 0), (12, 3), (1, 0)]
MASKS = (ARRIVED, ARRIVED | LABEL, ARRIVED | FIRST_CONDITION)
PRIMITIVES = [(kind, column, mask) for mask in MASKS for kind in range(4) for column in (0, 1)] + [
    (kind, 1, mask) for mask in MASKS for kind in range(4, len(KINDS))
]
# The halves of a square stand side by side.
ADDITIVE = sorted((p for p in PRIMITIVES if p[0] <= SQUARE_HIGH), key=lambda p: (p[2], p[1], p[0]))
ORDERED = [*ADDITIVE, *(p for p in PRIMITIVES if p[0] > SQUARE_HIGH)]
SPEC = Spec(
    over_us=np.array([over for over, _ in RANGES]),
    delay_us=np.array([delay for _, delay in RANGES]),
    first=np.arange(len(RANGES) + 1) * len(ORDERED),
    additive_end=np.arange(len(RANGES)) * len(ORDERED) + len(ADDITIVE),
    kind=np.tile([p[0] for p in ORDERED], len(RANGES)),
    column=np.tile([p[1] for p in ORDERED], len(RANGES)),
    mask=np.tile([p[2] for p in ORDERED], len(RANGES)),
)


class Store:
    """The kernel's state, as small as it can be, so that every segment has to move."""

    def __init__(self) -> None:
        self.used = 0
        count, ranges = len(SPEC.kind), len(RANGES)
        self.arena = Arena(
            *(np.zeros(KEYS, np.int64) for _ in range(4)),
            np.zeros((KEYS, ranges), np.int32),
            np.zeros((KEYS, ranges), np.int32),
            np.zeros((KEYS, count), np.int64),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
            np.zeros(1, np.uint16),
            np.zeros((1, 2), np.int64),
        )

    def reserve(self, slots: list[int], extra: list[int], expire_before_us: int) -> int:
        """Returns how often the arena had to grow."""
        grown = 0
        wanted = np.array(slots), np.array(extra)
        while True:
            self.used, lacking = reserve(*wanted, self.arena, SPEC, self.used, expire_before_us)
            if not lacking:
                return grown
            grown += 1
            more = [
                np.concatenate([array, np.zeros((lacking, *array.shape[1:]), array.dtype)])
                for array in self.arena[7:]
            ]
            self.arena = Arena(*self.arena[:7], *more)

    def compact(self, expire_before_us: int) -> None:
        slots = np.flatnonzero(self.arena.length)
        slots = slots[np.argsort(self.arena.start[slots])]
        self.arena.capacity[:] = 0
        self.used = compact(slots, self.arena, SPEC, expire_before_us)

    def fold(self, part: list[tuple[Any, ...]]) -> np.ndarray:
        out = np.full((len(part), len(SPEC.kind)), -77)
        fold_rows(
            np.array([r[0] for r in part]),
            np.zeros(len(part), np.bool_),
            np.array([r[1] for r in part]),
            np.array([r[2] for r in part]),
            np.array([r[3] for r in part]),
            np.array([r[4] for r in part]),
            np.array([r[5] for r in part], np.int8),
            np.array([r[6] for r in part], np.uint16),
            self.arena,
            SPEC,
            out,
        )
        return out


def primitive(kind: str, entries: list[tuple[int, int, bool]]) -> int:
    """Entries are (time, value, is current), in order of (time, arrival)."""
    values = [value for _, value, _ in entries]
    squares = sum(value * value for value in values)
    earlier = [time for time, _, current in entries if not current]
    found = {
        "one": len(entries),
        "value": sum(values),
        "square_low": squares & (2**64 - 1),
        "square_high": squares >> 64,
        "previous_time": max(earlier, default=NONE),
    }
    if kind in found:
        low_half = found[kind] & (2**64 - 1)
        return low_half - 2**64 if low_half >= 2**63 else low_half
    if not entries:
        return NONE
    return {
        "first_value": values[0],
        "last_value": values[-1],
        "first_time": entries[0][0],
        "last_time": entries[-1][0],
        "smallest": min(values),
        "largest": max(values),
    }[kind]


def brute_force(rows: list[tuple[Any, ...]], i: int) -> list[int]:
    _, slot, t, *_ = rows[i]
    entries = []
    for at, (is_label, s, time, identity, values, _, condition) in enumerate(rows[: i + 1]):
        if is_label or s != slot:
            continue
        verdicts = [r[5] for r in rows[: i + 1] if r[0] and r[1:4] == (s, time, identity)]
        flags = ARRIVED | condition | (LABEL if verdicts and verdicts[-1] else 0)
        entries.append((time, at, values, flags))
    entries.sort(key=lambda entry: entry[:2])
    return [
        primitive(
            KINDS[kind],
            [
                (time, values[column], at == i)
                for time, at, values, flags in entries
                if t - delay - over < time <= t - delay and flags & mask == mask
            ],
        )
        for over, delay in RANGES
        for kind, column, mask in ORDERED
    ]


def random_rows(seed: int, count: int) -> list[tuple[Any, ...]]:
    """(is label, key, time, identity, values, label, conditions), a label sometimes first."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for identity in range(count):
        events = [r for r in rows if not r[0]]
        if events and rng.random() < 0.2:
            about = events[rng.integers(len(events))]
            rows.append((True, *about[1:4], (0, 0), int(rng.random() < 0.6), 0))
        elif rng.random() < 0.05:
            key = (int(rng.integers(KEYS)), identity // 4, identity)
            for verdict in rng.integers(0, 2, rng.integers(1, 3)).tolist():
                rows.append((True, *key, (0, 0), verdict, 0))
            rows.append((False, *key, (int(rng.integers(-99, 99)), 7), 0, FIRST_CONDITION))
        else:
            t = identity // 4 - int(rng.integers(0, 9))
            values = (int(rng.integers(-99, 99)), int(rng.integers(-(10**12), 10**12)))
            condition = int(rng.integers(2)) * FIRST_CONDITION
            rows.append((False, int(rng.integers(KEYS)), t, identity, values, 0, condition))
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_rows", [1, 7, 300])
def test_primitives_equal_brute_force(seed: int, batch_rows: int) -> None:
    rows = random_rows(seed, 300)
    store = Store()
    for begin in range(0, len(rows), batch_rows):
        part = rows[begin : begin + batch_rows]
        wanted, extra = np.unique([r[1] for r in part], return_counts=True)
        # Times fall back by at most 8 and windows reach back 30, so older entries may go.
        newest = max(r[2] for r in rows[: begin + 1])
        store.reserve(wanted.tolist(), extra.tolist(), newest - 60)
        out = store.fold(part)
        for i, row in enumerate(part):
            if not row[0]:
                assert out[i].tolist() == brute_force(rows, begin + i)
        if begin % 3 == 0:
            store.compact(newest - 60)


def test_full_segment_drops_what_expired_before_it_moves() -> None:
    store = Store()
    assert store.reserve([0], [4], 0) > 0
    capacity = int(store.arena.capacity[0])
    store.fold([(False, 0, t, t, (1, 1), 0, 0) for t in range(capacity)])
    assert store.reserve([0], [5], 5) == 0
    arena = store.arena
    assert (arena.capacity[0], arena.length[0]) == (capacity, capacity - 5)
    assert arena.time[arena.start[0]] == 5


def test_compacting_lets_go_of_every_key_and_leaves_its_sums_empty() -> None:
    store = Store()
    store.reserve([0, 1], [4, 4], 0)
    store.fold([(False, key, t, t, (3, 4), 0, 4) for key in (0, 1) for t in range(4)])
    store.compact(2)
    assert (store.used, store.arena.length.tolist()) == (4, [2, 2, 0])
    store.compact(100)
    assert store.used == 0
    assert not store.arena.sums.any()
    assert not store.arena.upper.any()

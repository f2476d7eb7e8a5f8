"""The window kernel against brute force, on keys that are interleaved, out of order and growing."""

import numpy as np
import pytest

from kernels.windows import AGGREGATIONS, COUNT, MEAN, RATE, SUM, fold_rows, reserve


class Arena:
    """The kernel's arrays, as small as they can be, so that every segment has to move."""

    def __init__(self, keys: int, values: int, entries: int = 1) -> None:
        self.start = np.zeros(keys, np.int64)
        self.length = np.zeros(keys, np.int64)
        self.capacity = np.zeros(keys, np.int64)
        self.base = np.zeros((keys, 2 + values), np.int64)
        self.time = np.zeros(entries, np.int64)
        self.identity = np.zeros(entries, np.int64)
        self.present = np.zeros(entries, np.int8)
        self.label = np.zeros(entries, np.int8)
        self.prefix = np.zeros((entries, 2 + values), np.int64)
        self.used = 0

    def segments(self) -> tuple[np.ndarray, ...]:
        return self.time, self.identity, self.present, self.label, self.prefix

    def reserve(self, slots: list[int], extra: list[int], expire_before_us: int) -> int:
        """Returns how often the arena had to grow."""
        grown = 0
        while True:
            self.used, lacking = reserve(
                np.array(slots, np.int64),
                np.array(extra, np.int64),
                self.start,
                self.length,
                self.capacity,
                self.base,
                *self.segments(),
                self.used,
                expire_before_us,
            )
            if not lacking:
                return grown
            grown += 1
            for name in ("time", "identity", "present", "label", "prefix"):
                array = getattr(self, name)
                more = np.zeros((len(array) + lacking, *array.shape[1:]), array.dtype)
                more[: len(array)] = array
                setattr(self, name, more)


WINDOWS = [(COUNT, -1, 5, 0), (SUM, 0, 9, 2), (MEAN, 1, 30, 0), (RATE, -1, 12, 3), (SUM, 1, 1, 0)]


def brute_force(rows: list[tuple], i: int, spec: tuple[int, int, int, int]) -> float:
    kind, value, over, delay = spec
    _, slot, t, *_ = rows[i]
    inside, hits = [], 0
    for label, s, time, identity, values, _ in rows[: i + 1]:
        if label or s != slot or not t - delay - over < time <= t - delay:
            continue
        inside.append(values)
        verdicts = [r[5] for r in rows[: i + 1] if r[0] and r[1:4] == (s, time, identity)]
        hits += verdicts[-1] if verdicts else 0
    if kind == COUNT:
        return float(len(inside))
    if kind == RATE:
        return hits / len(inside) if inside else 0.0
    total = sum(v[value] for v in inside)
    return float(total) if kind == SUM else (float(total) / len(inside) if inside else 0.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batch_rows", [1, 7, 400])
def test_windows_equal_brute_force(seed: int, batch_rows: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    for identity in range(400):
        events = [r for r in rows if not r[0]]
        if events and rng.random() < 0.2:
            about = events[rng.integers(len(events))]
            rows.append((True, *about[1:4], (0, 0), int(rng.random() < 0.6)))
        elif rng.random() < 0.05:
            # A label that comes before its event, which follows with the same identity.
            key = (int(rng.integers(3)), identity // 4, identity)
            rows.append((True, *key, (0, 0), 1))
            rows.append((False, *key, (int(rng.integers(-99, 99)), 7), 0))
        else:
            t = identity // 4 - int(rng.integers(0, 9))
            values = (int(rng.integers(-99, 99)), int(rng.integers(10**15)))
            rows.append((False, int(rng.integers(3)), t, identity, values, 0))
    arena = Arena(3, 2)
    specs = [np.array(column, np.int64) for column in zip(*WINDOWS, strict=True)]
    out = np.full((len(rows), len(WINDOWS)), np.nan)
    for at in range(0, len(rows), batch_rows):
        part = rows[at : at + batch_rows]
        slots = np.array([r[1] for r in part], np.int64)
        wanted, extra = np.unique(slots, return_counts=True)
        # Times fall back by at most 8 and windows reach back 30, so older entries may go.
        newest = max(r[2] for r in rows[: at + 1])
        arena.reserve(wanted.tolist(), extra.tolist(), newest - 60)
        fold_rows(
            np.array([r[0] for r in part]),
            np.zeros(len(part), np.bool_),
            slots,
            np.array([r[2] for r in part], np.int64),
            np.array([r[3] for r in part], np.int64),
            np.array([r[4] for r in part], np.int64),
            np.array([r[5] for r in part], np.int8),
            arena.start,
            arena.length,
            arena.base,
            *arena.segments(),
            *specs,
            out[at : at + len(part)],
        )
    for i, row in enumerate(rows):
        expected = [np.nan if row[0] else brute_force(rows, i, spec) for spec in WINDOWS]
        np.testing.assert_array_equal(out[i], expected)


def test_full_segment_drops_what_expired_before_it_moves() -> None:
    arena = Arena(1, 0)
    assert arena.reserve([0], [4], 0) > 0
    arena.length[0] = int(arena.capacity[0])
    arena.time[: arena.length[0]] = np.arange(arena.length[0])
    arena.prefix[: arena.length[0], 0] = np.arange(1, arena.length[0] + 1)
    capacity, expired = int(arena.capacity[0]), 5
    assert arena.reserve([0], [expired], expired) == 0
    assert arena.capacity[0] == capacity
    assert arena.length[0] == capacity - expired
    assert arena.base[0, 0] == expired
    assert arena.time[arena.start[0]] == expired


def test_names_of_aggregations_match_their_codes() -> None:
    assert AGGREGATIONS == {"count": 0, "sum": 1, "mean": 2, "rate": 3}

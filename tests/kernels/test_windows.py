"""The window kernel against brute force: keys interleaved, out of order, growing and expiring."""

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.layout import Layout
from features.plan import StagePlan, WindowPlan
from kernels.arena import ARRIVED, FIRST_CONDITION, LABEL, NONE, Arena
from kernels.segments import rebuild, reserve
from kernels.windows import KINDS, fold_rows

KEYS = 3
RANGES = [(5, 0, 0), (9, 2, 0), (30, 0, 0), (12, 3, 3), (1, 0, 0), (8, 0, 4)]
AGGREGATIONS = {
    "count": (),
    "std": (),
    "min": (),
    "max": (),
    "first": (),
    "last_k": (3,),
    "seconds_since_last": (),
    "percentile": (9_000,),
    "histogram": (-3, 0, 5),
    "distinct": (2,),
    "seconds_between_std": (),
}
LABELLED = ("rate", "seconds_since_label")


def window(name: str, reach: tuple[int, int, int], where: int, field: str) -> WindowPlan:
    over_us, delay_us, resolution_us = reach
    return WindowPlan(
        columns=(),
        aggregation=name,
        value=field,
        type="integer",
        over_us=over_us,
        delay_us=delay_us,
        resolution_us=resolution_us,
        where=where,
        parameters=AGGREGATIONS.get(name, ()),
    )


def stage(uses_label: bool, conditions: bool) -> StagePlan:
    names = [*AGGREGATIONS, *(LABELLED if uses_label else ())]
    wheres = (-1, 0) if conditions else (-1,)
    windows = [
        window(name, reach, where, field)
        for name in names
        for reach in RANGES
        for where in wheres
        for field in ("a", "b")
    ]
    return stage_of(windows, uses_label, conditions)


def coarse_stage(uses_label: bool, conditions: bool) -> StagePlan:
    """Windows that look far back do so in blocks; those that look at each event do not."""
    wheres = (-1, 0) if conditions else (-1,)
    far = [
        window(name, reach, where, field)
        for name in ("count", "std", *(() if conditions or uses_label else ("min", "max")))
        for reach in [(30, 0, 6), (12, 3, 3), (9, 0, 3)]
        for where in wheres
        for field in ("a", "b")
    ]
    near = [
        window(name, reach, -1, "a") for name in AGGREGATIONS for reach in [(4, 0, 0), (2, 1, 0)]
    ]
    return stage_of([*far, *near], uses_label, conditions)


def stage_of(windows: list[WindowPlan], uses_label: bool, conditions: bool) -> StagePlan:
    return StagePlan(
        index=0,
        name="s",
        key_column="k",
        key_fields=("k",),
        topic="t",
        windows=tuple(windows),
        outputs=(),
        conditions=((),) if conditions else (),
        uses_label=uses_label,
        retention_us=30,
    )


Row = tuple[bool, int, int, int, tuple[int, int], int, int]
"""(is label, key, time, identity, values, label, conditions)."""


class Store:
    """The kernel's state, as small as it can be, so that every segment has to move."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.arena: Arena = layout.arena(KEYS, 1)
        self.rebuilt = 0

    def rebuild(self, asked: int, settled: int) -> None:
        rows = int(self.arena.length.sum() * 1.05) + KEYS + asked
        held = np.zeros((rows, self.layout.columns), np.int64)
        rebuild(self.arena, self.layout.spec, held, KEYS, 20, settled)
        self.arena = self.arena._replace(held=held)

    def fold(self, part: list[Row], settled: int) -> NDArray[np.int64]:
        out = np.full((self.layout.readings, len(part)), -77)
        columns = [np.array(column) for column in zip(*part, strict=True)]
        coded = np.array([part_values(self.layout, row) for row in part]).T.copy()
        labels = columns[5].astype(np.int8)
        skip = np.zeros(len(part), np.bool_)
        wanted = np.zeros(KEYS, np.int32)
        false_label = columns[0] & (labels == 0)
        while asked := reserve(
            columns[1], false_label, wanted, self.arena, self.layout.spec, settled
        ):
            self.rebuilt += 1
            self.rebuild(asked, settled)
        assert not wanted.any()
        fold_rows(
            columns[0],
            skip,
            columns[1],
            columns[2],
            columns[3] << 16,
            coded,
            labels,
            columns[6].astype(np.uint16),
            self.arena,
            self.layout.spec,
            out,
            out.view(np.float64),
        )
        return out


def part_values(layout: Layout, row: Row) -> list[int]:
    values = dict(zip("ab", row[4], strict=True))
    return [
        int(np.searchsorted(coded.edges, values[coded.field], side="right"))
        if coded.coding == "bucket"
        else values[coded.field]
        for coded in layout.values
    ]


def brute_force(layout: Layout, rows: list[Row], i: int) -> list[float]:
    _, slot, t, *_ = rows[i]
    entries = []
    for at, (is_label, s, time, identity, _, _, condition) in enumerate(rows[: i + 1]):
        if is_label or s != slot:
            continue
        verdicts = [r[5] for r in rows[: i + 1] if r[0] and r[1:4] == (s, time, identity)]
        flags = ARRIVED | condition | (LABEL if verdicts and verdicts[-1] else 0)
        entries.append((time, at, part_values(layout, rows[at]), flags))
    entries.sort(key=lambda entry: entry[:2])
    spec, found = layout.spec, []
    for r in range(len(spec.over_us)):
        over, delay, step = (int(a[r]) for a in (spec.over_us, spec.delay_us, spec.resolution_us))
        after, until = t - delay - over, t - delay
        if step:
            after = -(-after // step) * step
            until = -(-until // step) * step if delay else until
        for p in range(spec.first[r], spec.first[r + 1]):
            mask = int(spec.mask[p])
            inside = [e for e in entries if after < e[0] <= until and e[3] & mask == mask]
            found.append(reading(layout, p, inside, i))
    return found


def reading(layout: Layout, p: int, entries: list[Any], i: int) -> int:
    spec = layout.spec
    kind, at, parameter = KINDS[spec.kind[p]], int(spec.at[p]), int(spec.parameter[p])
    if kind == "extreme":
        values = [e[2][value_at(layout, int(spec.extreme_value[at]))] for e in entries]
        sign = int(spec.extreme_sign[at])
        nothing = 2**63 - 1 if sign > 0 else -(2**63)
        return (min if sign > 0 else max)(values, default=nothing)
    if kind == "counter":
        value = value_at(layout, int(spec.counter_value[at]))
        return sum(e[2][value] == parameter for e in entries)
    if kind == "one":
        return len(entries)
    if kind in ("value", "square_low", "square_high"):
        k = int(np.flatnonzero(spec.sum_column == at - (kind == "square_high"))[0])
        values = [e[2][int(spec.sum_value[k])] for e in entries]
        if kind == "value":
            return sum(values)
        total = sum(value * value for value in values)
        return wrapped(total if kind == "square_low" else total >> 64)
    if kind in ("gap_squares", "gap_squares_high"):
        gaps = [b[0] - a[0] for a, b in itertools.pairwise(entries)]
        return sum(gap * gap for gap in gaps) if kind == "gap_squares" else 0
    if kind in ("first", "last", "previous"):
        entries = [e for e in entries if kind != "previous" or e[1] != i]
        n = 0 if kind == "first" else len(entries) - 1 - parameter
        if not 0 <= n < len(entries):
            return NONE
        return entries[n][0] if at == 0 else entries[n][2][value_at(layout, at)]
    values = [e[2][value_at(layout, at)] for e in entries]
    if kind == "quantile":
        rank = -(-parameter * len(values) // 10_000)
        return sorted(values)[rank - 1] if values else NONE
    assert kind == "distinct"
    # HyperLogLog's low range counts as few values as these exactly.
    return len(set(values))


def value_at(layout: Layout, column: int) -> int:
    return int(np.flatnonzero(layout.spec.raw == column)[0])


def wrapped(number: int) -> int:
    low = number & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low


def random_rows(seed: int, count: int, labels: bool) -> list[Row]:
    """A label sometimes comes first."""
    chance = random.Random(seed)
    rows: list[Row] = []
    now = 0
    for i in range(count):
        now += chance.choice([0, 0, 1, 1, 3])
        t = max(0, now - chance.choice([0, 0, 0, 1, 2, 6]))
        values = (chance.randrange(-9, 9), chance.choice([2**40, -(2**40), 3]))
        # One key rests now and then, longer than most windows.
        key = chance.randrange(KEYS if i % 60 < 20 else KEYS - 1)
        event: Row = (False, key, t, i, values, 0, chance.choice([0, 4]))
        if labels and chance.random() < 0.1:
            rows.append((True, *event[1:4], (0, 0), 1, 0))
        rows.append(event)
        if labels and chance.random() < 0.3:
            known = [r for r in rows if not r[0]]
            about = chance.choice(known if chance.random() < 0.3 else known[-12:])
            rows.append((True, *about[1:4], (0, 0), chance.randrange(2), 0))
    return rows


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("uses_label", "conditions"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("declared", [stage, coarse_stage])
def test_every_reading_equals_brute_force(
    seed: int, uses_label: int, conditions: int, declared: Callable[[bool, bool], StagePlan]
) -> None:
    layout = Layout(declared(bool(uses_label), bool(conditions)))
    rows = random_rows(seed, 150, bool(uses_label))
    store, chance, at = Store(layout), random.Random(seed), 0
    while at < len(rows):
        part = rows[at : at + chance.choice([1, 5, 40])]
        # Rows come up to 6 behind the newest.
        newest = max((row[2] for row in rows[:at]), default=0)
        out = store.fold(part, newest - 6)
        for n, row in enumerate(part):
            if not row[0]:
                assert out[:, n].tolist() == brute_force(layout, rows, at + n)
        at += len(part)
    assert store.rebuilt > 1
    newest = max(row[2] for row in rows)
    store.rebuild(0, newest - 6)
    retained = [row for row in rows if not row[0] and row[2] >= newest - 6 - 30]
    assert int(store.arena.length.sum()) <= len(retained) + KEYS


def test_false_label_of_a_key_without_entries_changes_nothing() -> None:
    store = Store(Layout(stage(True, False)))
    event: Row = (False, 0, 5, 1, (3, 3), 0, 0)
    store.fold([event], 0)
    before = store.arena.held.copy()
    store.fold([(True, 1, 4, 9, (0, 0), 0, 0)], 0)
    assert np.array_equal(store.arena.held, before)
    assert store.arena.length.tolist() == [2, 0, 0]


def test_a_hot_key_keeps_one_row_a_block() -> None:
    layout = Layout(coarse_stage(False, False))
    store, at = Store(layout), 0
    # A hundred events at each time, of one key.
    rows: list[Row] = [(False, 0, i // 100, i, (i % 7, 3), 0, 0) for i in range(20_000)]
    most = 0
    while at < len(rows):
        part = rows[at : at + 50]
        store.fold(part, part[0][2] - 6)
        most = max(most, int(store.arena.length.sum()))
        at += len(part)
    # Eleven times as they came (four of the exact window, six of lateness, the newest), ten blocks,
    # and room for a quarter more before they are merged again.
    assert most < (11 * 100 + 10) * 1.5
    assert layout.spec.block_us == 3
    assert layout.spec.exact_us == 4


def test_stage_without_labels_or_conditions_keeps_no_marks() -> None:
    plain = Layout(stage(False, False))
    assert plain.spec.mark == 0
    few = dataclasses.replace(
        stage(False, False),
        windows=tuple(
            dataclasses.replace(window(name, RANGES[0], -1, field), columns=("x",))
            for name in ("count", "mean")
            for field in ("a", "b")
        ),
    )
    # An event time and a running sum of each field.
    assert Layout(few).entry_bytes == 24


def test_flags_lie_beside_the_condition_bits() -> None:
    assert FIRST_CONDITION == 4
    assert (ARRIVED | LABEL) < FIRST_CONDITION

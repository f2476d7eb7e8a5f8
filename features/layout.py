"""How a stage's windows lie in the kernel's matrix: ranges, columns, and what is read of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from features.aggregations import aggregations
from features.aggregations.base import Primitive
from features.coding import Coded
from features.plan import StagePlan, WindowPlan
from kernels.arena import ARRIVED, FIRST_CONDITION, LABEL, ONE, SQUARE, VALUE, Arena, Spec
from kernels.windows import KINDS

_SUMS = {"one": ONE, "value": VALUE, "square_low": SQUARE, "square_high": SQUARE}
_ENTRIES = ("first", "last", "previous")
_EXTREMES = {"smallest": 1, "largest": -1}

PRIMITIVES = (
    *_SUMS,
    *(f"{end}_{what}" for end in _ENTRIES for what in ("value", "time")),
    *_EXTREMES,
    "counter",
    "distinct",
    "quantile",
    "gap_squares",
    "decayed",
    "own",
)
"""Every kind of primitive an aggregation can ask for. `gap_squares` gives two numbers, the low half
of a sum and its high half; each of the others gives one."""

_VALUELESS = {
    "one",
    "first_time",
    "last_time",
    "previous_time",
    "gap_squares",
    "gap_squares_high",
}


@dataclass(frozen=True)
class _Reading:
    """A primitive of one range, with the value it reads (-1: none) and the flags that qualify."""

    kind: str
    value: int
    mask: int
    parameter: int

    @property
    def merges(self) -> bool:
        """Whether it can be read where the entries of a block are kept as one row."""
        if self.kind in _EXTREMES:
            return self.mask == 0
        return self.kind == "own" or (self.kind in _SUMS and not self.mask & LABEL)


_Range = tuple[int, int, int]
"""(over_us, delay_us, resolution_us)"""


class Layout:
    """What one stage keeps.

    Windows of one length, delay and resolution share a range; equal sums are kept once for all
    ranges, equal readings of a range are made once.
    """

    def __init__(self, stage: StagePlan) -> None:
        self._stage = stage
        self.values: list[Coded] = []
        """What the kernel is given of every event, in order."""
        self._owners: list[str] = []
        self._marked = stage.uses_label or bool(stage.conditions)
        ranges: dict[_Range, list[_Reading]] = {}
        wanted: list[tuple[_Range, list[_Reading]]] = []
        for window in stage.windows:
            key = (window.over_us, window.delay_us, window.resolution_us)
            needs = [r for need in primitives_of(window) for r in self._readings(window, need)]
            held = ranges.setdefault(key, [])
            held.extend(need for need in needs if need not in held)
            wanted.append((key, needs))
        place = {
            (key, need): at
            for at, (key, need) in enumerate(
                (key, need) for key, held in ranges.items() for need in held
            )
        }
        self._places = [[place[key, need] for need in needs] for key, needs in wanted]
        self.spec = _Compiler(self.values, self._marked).compile(ranges)

    def _readings(self, window: WindowPlan, need: Primitive) -> list[_Reading]:
        mask = ARRIVED if self._stage.uses_label else 0
        if window.where >= 0:
            mask |= FIRST_CONDITION << window.where
        if need.labelled:
            mask |= LABEL
        value = -1
        if need.kind not in _VALUELESS:
            # In a block of entries each extreme is merged in its own way, in a column of its own.
            coarse = window.resolution_us and need.kind in _EXTREMES and not mask
            value = self._value(_coded(window, need.coding), need.kind if coarse else "")
        reading = _Reading(need.kind, value, mask, need.parameter)
        if need.kind != "gap_squares":
            return [reading]
        # The kernel writes both when it makes the first: they stand next to each other.
        return [reading, replace(reading, kind="gap_squares_high")]

    def _value(self, coded: Coded, owner: str) -> int:
        """The place of a value among those of an event; each owner has its own."""
        known = list(zip(self.values, self._owners, strict=True))
        if (coded, owner) not in known:
            self.values.append(coded)
            self._owners.append(owner)
            return len(known)
        return known.index((coded, owner))

    @property
    def readings(self) -> int:
        """How many numbers the kernel gives for each event."""
        return len(self.spec.kind)

    @property
    def entry_bytes(self) -> int:
        """Memory of one retained event."""
        return 8 * self.columns

    @property
    def columns(self) -> int:
        """Columns of the matrix."""
        spec = self.spec
        ends = [0, spec.mark, *spec.raw, *spec.extreme_column]
        ends += [
            at + (kind == SQUARE) for at, kind in zip(spec.sum_column, spec.sum_kind, strict=True)
        ]
        return int(max(ends)) + 1

    def arena(self, keys: int, rows: int) -> Arena:
        """An empty arena."""
        spec = self.spec
        return Arena(
            start=np.zeros(keys, np.int64),
            length=np.zeros(keys, np.int32),
            capacity=np.zeros(keys, np.int32),
            cursor_us=np.zeros(keys, np.int64),
            cursors=np.zeros((keys, len(spec.over_us), 2), np.int32),
            bounds=np.zeros((keys, len(spec.extreme_sign), 4), np.int32),
            counters=np.zeros((keys, spec.counters), np.int32),
            held=np.zeros((rows, self.columns), np.int64),
            used=np.zeros(1, np.int64),
        )

    def results(
        self, readings: npt.NDArray[np.int64], times_us: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Every window's columns, float64 [n], from int64 [readings, n]."""
        made: dict[str, npt.NDArray[np.float64]] = {}
        for window, places in zip(self._stage.windows, self._places, strict=True):
            found = aggregations()[window.aggregation].result(
                [readings[place] for place in places], times_us, window.terms
            )
            columns = found if isinstance(found, list) else [found]
            made.update(zip(window.columns, columns, strict=True))
        return made


def _coded(window: WindowPlan, coding: str) -> Coded:
    """How a window's field becomes integers."""
    if coding == "hash" and window.type != "text":
        # Other types are integers already.
        coding = "code" if window.categories else "value"
    return Coded(
        window.value,
        coding,
        window.parameters if coding == "bucket" else (),
        window.categories if coding == "code" else (),
    )


def primitives_of(window: WindowPlan) -> tuple[Primitive, ...]:
    """What a window needs of the kernel."""
    return aggregations()[window.aggregation].primitives(window.terms)


class _Compiler:
    """Gives every reading its columns."""

    def __init__(self, values: list[Coded], marked: bool) -> None:
        self._mark = 1 if marked else 0
        self._next = 2 if marked else 1
        self._raw = [-1] * len(values)
        self._sums: dict[tuple[int, int, int], int] = {}
        self._extremes: list[tuple[int, int, int, int]] = []
        self._counters: list[tuple[int, int, int]] = []

    def compile(self, ranges: dict[_Range, list[_Reading]]) -> Spec:
        """The kernel's arrays."""
        coarse = [key[2] > 0 and all(r.merges for r in held) for key, held in ranges.items()]
        made: list[tuple[int, int, int, int, int]] = []
        first, extreme_first, counter_first = [0], [0], [0]
        offset = 0
        for readings, is_coarse in zip(ranges.values(), coarse, strict=True):
            groups: dict[tuple[int, int], int] = {}
            for reading in readings:
                if reading.kind != "counter":
                    made.append(self._columns(reading, is_coarse))
                    continue
                group = (reading.value, reading.mask)
                if group not in groups:
                    groups[group] = len(self._counters)
                    size = sum((r.value, r.mask) == group for r in readings if r.kind == "counter")
                    self._counters.append((self._kept(reading.value), reading.mask, offset))
                    offset += size
                made.append(
                    (KINDS.index("counter"), groups[group], -1, reading.mask, reading.parameter)
                )
            first.append(len(made))
            extreme_first.append(len(self._extremes))
            counter_first.append(len(self._counters))
        sums = [(kind, value, mask, at) for (kind, value, mask), at in self._sums.items()]
        arrays: list[Any] = [
            *_columns_of([*ranges], 3),
            self._mark,
            _ints(self._raw),
            *_columns_of(sums, 4),
            _ints(first),
            *_columns_of(made, 5),
            _ints(extreme_first),
            *_columns_of(self._extremes, 4),
            _ints(counter_first),
            *_columns_of(self._counters, 3),
            offset,
            max((over + delay for over, delay, _ in ranges), default=0),
            math.gcd(*(key[2] for key, is_coarse in zip(ranges, coarse, strict=True) if is_coarse)),
            max(
                (k[0] + k[1] for k, is_coarse in zip(ranges, coarse, strict=True) if not is_coarse),
                default=0,
            ),
            _ints(coarse),
            *_columns_of(self._merged(ranges, coarse), 2),
        ]
        return Spec(*arrays)

    def _merged(
        self, ranges: dict[_Range, list[_Reading]], coarse: list[bool]
    ) -> list[tuple[int, int]]:
        """(sign, column) of the extremes that are read of blocks."""
        found = {
            (_EXTREMES[reading.kind], self._kept(reading.value))
            for readings, is_coarse in zip(ranges.values(), coarse, strict=True)
            for reading in readings
            if is_coarse and reading.kind in _EXTREMES
        }
        return sorted(found)

    def _columns(self, reading: _Reading, is_coarse: bool) -> tuple[int, int, int, int, int]:
        """(kind, at, by, mask, parameter) of a reading."""
        kind, value, mask, parameter = reading.kind, reading.value, reading.mask, reading.parameter
        by = -1
        if kind in _SUMS:
            name = kind
            if kind == "one":
                at = self._sum(ONE, -1, mask) if is_coarse else self._count(mask)
            else:
                at = self._sum(_SUMS[kind], value, mask) + (kind == "square_high")
        elif kind in _EXTREMES:
            name = "extreme"
            at = len(self._extremes)
            self._extremes.append((_EXTREMES[kind], self._kept(value), mask, self._column()))
        elif kind == "own":
            name, at = kind, value
        elif kind.partition("_")[0] in _ENTRIES:
            name, _, what = kind.partition("_")
            at = 0 if what == "time" else self._kept(value)
            by = self._count(mask)
        else:
            name = kind
            at = 0 if kind in _VALUELESS else self._kept(value)
        return KINDS.index(name), at, by, mask, parameter

    def _count(self, mask: int) -> int:
        """The running number of entries that qualify; -1 where every row is one."""
        return self._sum(ONE, -1, mask) if mask else -1

    def _sum(self, kind: int, value: int, mask: int) -> int:
        key = (kind, value, mask)
        if key not in self._sums:
            self._sums[key] = self._column()
            if kind == SQUARE:
                self._column()
        return self._sums[key]

    def _kept(self, value: int) -> int:
        if self._raw[value] < 0:
            self._raw[value] = self._column()
        return self._raw[value]

    def _column(self) -> int:
        self._next += 1
        return self._next - 1


def _ints(values: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def _columns_of(rows: Sequence[Sequence[int]], width: int) -> list[Any]:
    """Rows of numbers as one array for each place in them."""
    return [np.ascontiguousarray(c) for c in np.array(rows, np.int64).reshape(-1, width).T]

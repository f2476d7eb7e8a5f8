"""Sliding minima and maxima against brute force, and the work that one step costs."""

import random
from typing import Any

import numpy as np
import pytest

from kernels import extremes

TIME, VALUE, PARTIAL = 0, 1, 2
PLACE = (0, VALUE, PARTIAL, 0, 0)


class Window:
    """One window over a matrix that begins at row 3, as a segment of the arena does."""

    def __init__(self, size: int, sign: int) -> None:
        self.held = np.zeros((size + 3, 3), np.int64)
        self.bounds = np.ones((1, 1, 4), np.int32)
        self.sign, self.low, self.high = sign, 1, 1

    def _arguments(self) -> tuple[Any, ...]:
        place = (self.bounds, 0, 0, self.low, self.high)
        return (self.held, 3, VALUE, PARTIAL, 0, 0, self.sign, *place)

    def push(self, value: int) -> None:
        self.held[3 + self.high, VALUE] = value
        self.high += 1
        extremes.came(*self._arguments())

    def pop(self) -> None:
        self.low += 1
        extremes.fix(*self._arguments())

    def put_between(self, at: int, value: int) -> None:
        self.held[3 + at + 1 : 3 + self.high + 1] = self.held[3 + at : 3 + self.high].copy()
        self.held[3 + at, VALUE] = value
        self.high += 1
        self.bounds[self.bounds > at] += 1
        extremes.came_between(*self._arguments(), at)

    def value(self) -> int:
        return extremes.extreme(
            self.held, 3, PARTIAL, self.sign, self.bounds, 0, 0, self.low, self.high
        )

    def brute_force(self) -> int:
        values = self.held[3 + self.low : 3 + self.high, VALUE].tolist()
        if not values:
            return extremes.nothing(self.sign)
        return min(values) if self.sign > 0 else max(values)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(30))
def test_extreme_equals_brute_force_whatever_comes_and_goes(seed: int, sign: int) -> None:
    chance = random.Random(seed)
    window = Window(1200, sign)
    for _ in range(1000):
        entries = window.high - window.low
        act = chance.random()
        if act < 0.45 + 0.1 * (seed % 3) or entries == 0:
            window.push(chance.randrange(-50, 50))
        elif act < 0.9:
            window.pop()
        else:
            window.put_between(chance.randrange(window.low, window.high), chance.randrange(-50, 50))
        assert window.value() == window.brute_force()


def combines_of_the_worst_step(entries: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most comparisons of one update (an entry comes, one goes, the extreme is read)."""
    counted = [0]

    def counting(a: int, b: int, sign: int) -> int:
        counted[0] += 1
        return min(a, b) if sign > 0 else max(a, b)

    monkeypatch.setattr(extremes, "combine", counting)
    for name in ("came", "fix", "extreme", "value_of", "nothing"):
        function = getattr(extremes, name)
        monkeypatch.setattr(extremes, name, getattr(function, "py_func", function))
    window = Window(3 * entries, 1)
    chance = random.Random(1)
    worst = 0
    for step in range(3 * entries - 4):
        counted[0] = 0
        window.push(chance.randrange(1000))
        if step >= entries:
            window.pop()
        window.value()
        worst = max(worst, counted[0])
    return worst


def test_the_worst_step_costs_the_same_however_long_the_window_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = combines_of_the_worst_step(10, monkeypatch)
    assert few == combines_of_the_worst_step(2000, monkeypatch)
    assert few <= 8

"""Comparisons that the worst single update of a sliding minimum costs, counted, not timed.

`python -m benchmarks.extremes` slides windows of 100 and of 1,000,000 entries over twice as many
events and counts what `kernels/extremes.py` compares: its own code, run as plain Python, with a
`combine` that counts. Every step is counted, also those in which a front is used up and the back
takes its place. The peer is the way of two stacks, whose worst step goes over the whole window.

An update is: one entry comes, one goes, the extreme is read. After a gap in time more entries go
at once; each of them costs at most what "an entry goes" says. An event out of order costs up to
as many comparisons as the window has entries; it is not measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.report import say
from kernels import extremes

VALUE, PARTIAL = 1, 2
MINIMUM = 1


class Counter:
    """A `combine` that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, a: int, b: int, sign: int) -> int:
        self.count += 1
        return min(a, b) if sign > 0 else max(a, b)


@contextmanager
def counted() -> Iterator[Counter]:
    """The kernel's own functions as plain Python, their `combine` being replaced."""
    names = ("came", "fix", "extreme", "value_of", "nothing", "combine")
    compiled = {name: getattr(extremes, name) for name in names}
    for name, function in compiled.items():
        setattr(extremes, name, getattr(function, "py_func", function))
    extremes.combine = counter = Counter()
    try:
        yield counter
    finally:
        for name, function in compiled.items():
            setattr(extremes, name, function)


def worst_steps(values: Sequence[int], entries: int) -> dict[str, int]:
    """The most comparisons of each act while a window slides over the values.

    The window's minimum is compared with the two stacks' at every step.
    """
    held = np.zeros((len(values) + 1, 3), np.int64)
    held[1:, VALUE] = values
    bounds = np.ones((1, 1, 4), np.int32)
    low = high = 1
    worst = dict.fromkeys(("an entry comes", "an entry goes", "the extreme is read", "update"), 0)
    stacks = TwoStacks()
    worst_of_stacks = 0

    with counted() as counter:

        def act(name: str, function: Any, *arguments: Any) -> Any:
            before = counter.count
            found = function(*arguments)
            worst[name] = max(worst[name], counter.count - before)
            return found

        def place() -> tuple[Any, ...]:
            return held, 0, VALUE, PARTIAL, 0, 0, MINIMUM, bounds, 0, 0, low, high

        for step, value in enumerate(values):
            before = counter.count
            high += 1
            act("an entry comes", extremes.came, *place())
            if step >= entries:
                low += 1
                act("an entry goes", extremes.fix, *place())
            read = (held, 0, PARTIAL, MINIMUM, bounds, 0, 0, low, high)
            found = act("the extreme is read", extremes.extreme, *read)
            worst["update"] = max(worst["update"], counter.count - before)

            before = stacks.count
            stacks.push(value)
            if step >= entries:
                stacks.pop()
            assert found == stacks.smallest()
            worst_of_stacks = max(worst_of_stacks, stacks.count - before)
    return worst | {"two stacks, update": worst_of_stacks}


class TwoStacks:
    """The sliding minimum by two stacks: constant on average, the whole window at worst."""

    def __init__(self) -> None:
        self.count = 0
        self._front: list[int] = []
        self._back: list[int] = []
        self._back_smallest: int | None = None

    def _smaller(self, a: int, b: int) -> int:
        self.count += 1
        return min(a, b)

    def push(self, value: int) -> None:
        self._back.append(value)
        known = self._back_smallest
        self._back_smallest = value if known is None else self._smaller(known, value)

    def pop(self) -> None:
        if not self._front:
            for value in reversed(self._back):
                front = self._front
                front.append(self._smaller(front[-1], value) if front else value)
            self._back, self._back_smallest = [], None
        self._front.pop()

    def smallest(self) -> int | None:
        if self._front and self._back_smallest is not None:
            return self._smaller(self._front[-1], self._back_smallest)
        return self._front[-1] if self._front else self._back_smallest


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, nargs=2, default=[100, 1_000_000])
    given = parser.parse_args(arguments)
    chance = np.random.default_rng(1)
    found = {}
    for entries in given.entries:
        say(f"counting with {entries:,} entries in the window")
        # How much is compared does not depend on the values.
        values = chance.integers(0, 1000, 3 * entries)
        found[entries] = worst_steps(values.tolist(), entries)
    few, many = (found[entries] for entries in given.entries)
    told = {
        "benchmark": "extremes",
        "comparisons_at_worst": {f"{entries} entries": found[entries] for entries in found},
        "same_bound": few["update"] == many["update"],
        "updates_counted": {str(entries): 3 * entries for entries in given.entries},
        "peers": {"two stacks": {"times_more": many["two stacks, update"] / many["update"]}},
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()

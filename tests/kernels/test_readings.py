"""Readings of a window entry by entry: selection, and the error of the sketch."""

import random
import statistics

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.arena import NONE
from kernels.readings import distinct, quantile


def matrix(values: list[int], marks: list[int] | None = None) -> NDArray[np.int64]:
    return np.array([[0] * len(values), marks or [0] * len(values), values]).T.copy()


@pytest.mark.parametrize("seed", range(20))
def test_quantile_is_the_nearest_rank(seed: int) -> None:
    chance = random.Random(seed)
    values = [chance.randrange(-9, 9) for _ in range(chance.randrange(1, 60))]
    held = matrix(values)
    for hundredths in (1, 2_500, 5_000, 9_990, 10_000):
        rank = max(-(-hundredths * len(values) // 10_000), 1)
        assert quantile(held, 2, 1, 0, hundredths, 0, len(values)) == sorted(values)[rank - 1]


def test_only_marked_entries_are_read() -> None:
    held = matrix([5, 9, 7, 1], marks=[4, 0, 5, 1])
    assert quantile(held, 2, 1, 4, 10_000, 0, 4) == 7
    assert quantile(held, 2, 1, 8, 5_000, 0, 4) == NONE
    assert distinct(held, 2, 1, 4, 10, 0, 4) == 2


def test_distinct_is_exact_up_to_its_cap() -> None:
    values = [3, 3, -1, 2**62, -(2**63), 3]
    assert distinct(matrix(values), 2, 1, 0, 4, 0, 6) == 4
    assert distinct(matrix(values), 2, 1, 0, 4, 2, 2) == 0


def test_estimate_past_the_cap_has_the_stated_error() -> None:
    errors = []
    for seed in range(40):
        values = np.random.default_rng(seed).integers(0, 2**62, 30_000)
        true = len(set(values.tolist()))
        estimate = distinct(matrix(values.tolist()), 2, 1, 0, 16, 0, len(values))
        errors.append((estimate - true) / true)
    assert statistics.pstdev(errors) < 0.022  # 1.04 / sqrt(4096) = 0.016, from forty samples
    assert abs(statistics.mean(errors)) < 0.01

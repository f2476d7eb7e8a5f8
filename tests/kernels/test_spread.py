"""The standard deviation's last step against Python's own integers."""

import math

import numpy as np
import pytest

from kernels.spread import spread


@pytest.mark.parametrize("seed", range(20))
def test_spread_is_the_correctly_rounded_root_of_exact_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    largest = 10 ** int(rng.integers(1, 13))
    columns, expected = [], []
    for _ in range(50):
        values = rng.integers(-largest, largest, rng.integers(1, 200)).tolist()
        n, total, squares = len(values), sum(values), sum(v * v for v in values)
        columns.append((n, total, squares & (2**64 - 1), squares >> 64))
        expected.append(math.sqrt(n * squares - total * total) / n)
    arrays = [
        np.array(column, np.uint64).view(np.int64)
        for column in zip(
            *[(n, t & (2**64 - 1), low, high) for n, t, low, high in columns], strict=True
        )
    ]
    out = np.empty(50)
    spread(*arrays, out)
    assert out.tolist() == expected


def test_empty_and_constant_windows_spread_by_nothing() -> None:
    out = np.full(2, np.nan)
    zeros = np.zeros(2, np.int64)
    spread(np.array([0, 5]), np.array([0, 35]), np.array([0, 5 * 49]), zeros, out)
    assert out.tolist() == [0.0, 0.0]

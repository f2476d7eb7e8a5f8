"""Wide products against Python's own integers."""

import numpy as np
import pytest

from kernels.wide import product, square

EDGES = [0, 1, 2**32 - 1, 2**32, 10**12, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("a", EDGES)
@pytest.mark.parametrize("b", EDGES)
def test_product_is_exact(a: int, b: int) -> None:
    high, low = product(np.uint64(a), np.uint64(b))
    assert (int(high) << 64) + int(low) == a * b


@pytest.mark.parametrize("x", [0, 1, -1, 2**32 - 1, -(2**32), 10**12, 2**63 - 1, -(2**63)])
def test_square_is_exact(x: int) -> None:
    high, low = square(np.int64(x))
    assert (int(high) << 64) + int(low) == x * x

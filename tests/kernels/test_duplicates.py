"""The table of what was seen, against a plain dictionary."""

import numpy as np
import pytest

from kernels import duplicates


@pytest.mark.parametrize("seed", range(5))
def test_repeats_are_those_a_dictionary_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, horizon = 500, 10
    # Few keys and identities, so that one comes again within the horizon and past it.
    keys, identities = rng.integers(0, 4, n), rng.integers(0, 20, n)
    times = np.arange(n) - rng.integers(0, 8, n)
    skip = rng.random(n) < 0.1
    known: dict[tuple[int, int], list[int]] = {}
    expected = []
    for key, identity, t, skipped in zip(keys, identities, times, skip, strict=True):
        before = known.setdefault((key, identity), [])
        expected.append(not skipped and any(abs(t - other) <= horizon for other in before))
        if not skipped and not expected[-1]:
            before.append(t)
    held, index = np.zeros((n, 3), np.int64), np.zeros(2048, np.int32)
    got = np.zeros(n, np.bool_)
    entries = duplicates.judge(keys, identities, times, skip, horizon, index, held, 0, got)
    assert got.tolist() == expected
    assert entries == sum(map(len, known.values())) == np.count_nonzero(index)


@pytest.mark.parametrize(
    ("before_us", "only", "times"), [(10, None, [50, 60]), (0, 2, [6, 60]), (10, 1, [50])]
)
def test_closing_up_leaves_out_what_is_old_and_other_keys(
    before_us: int, only: int | None, times: list[int]
) -> None:
    held = np.array([(1, 0, 5), (1, 1, 50), (2, 2, 6), (2, 3, 60)], np.int64)
    kept = duplicates.close_up(held, 4, before_us, only is not None, only or 0)
    assert held[:kept, 2].tolist() == times
    index = np.zeros(16, np.int32)
    for first in range(kept):
        duplicates.fill(index, held, first, first + 1)
    repeated = np.zeros(kept, np.bool_)
    again = held[:kept].copy()
    none = np.zeros(kept, np.bool_)
    assert duplicates.judge(*again.T, none, 0, index, held, kept, repeated) == kept
    assert repeated.all()

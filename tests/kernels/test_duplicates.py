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
    seen = duplicates.empty(1024)
    got = np.zeros(n, np.bool_)
    remembered = duplicates.judge(keys, identities, times, skip, horizon, seen, got)
    assert got.tolist() == expected
    assert remembered == sum(map(len, known.values())) == seen[:, 3].sum()


def test_copy_leaves_out_what_is_old_and_other_keys() -> None:
    seen = duplicates.empty(16)
    keys, times = np.array([1, 1, 2, 2]), np.array([5, 50, 6, 60])
    identities, none = np.arange(4), np.zeros(4, np.bool_)
    duplicates.judge(keys, identities, times, none, 0, seen, np.zeros(4, np.bool_))
    young, of_two = duplicates.empty(16), duplicates.empty(16)
    assert duplicates.staying(seen, 10, False, 0) == 2
    assert duplicates.copy(seen, young, 10, False, 0) == 2
    assert sorted(young[young[:, 3] == 1, 2].tolist()) == [50, 60]
    assert duplicates.staying(seen, 0, True, 2) == 2
    assert duplicates.copy(seen, of_two, 0, True, 2) == 2
    assert set(of_two[of_two[:, 3] == 1, 0].tolist()) == {2}

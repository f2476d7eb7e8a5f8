"""Remembered event ids against a plain dictionary, through growth, forgetting and restart."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.seen import SeenIds

HORIZON = 50
batches = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400), st.integers(0, 60)), max_size=300),
    max_size=6,
)


@settings(deadline=None)  # the first call compiles the kernels
@given(batches, st.integers(0, 3))
def test_a_repeat_within_the_horizon_is_known(
    drawn: list[list[tuple[int, int, int]]], only: int
) -> None:
    seen, expected = SeenIds(), dict[tuple[int, int], list[int]]()
    for number, rows in enumerate(drawn):
        begin = 20 * number
        keys, ids, ages = np.array(rows, np.int64).reshape(-1, 3).T
        times = begin + ages
        wanted = []
        for key, identity, t in zip(keys.tolist(), ids.tolist(), times.tolist(), strict=True):
            before = expected.setdefault((key, identity), [])
            wanted.append(any(abs(t - other) <= HORIZON for other in before))
            if not wanted[-1]:
                before.append(t)
        skip = np.zeros(len(rows), np.bool_)
        # No later row is older than `begin`, so an id from a horizon before cannot come again.
        got = seen.judge(keys, ids, times, skip, HORIZON, begin - HORIZON)
        assert got.tolist() == wanted
        again = SeenIds()
        again.unpack(seen.pack())
        again.forget(begin - HORIZON)
        seen = again
    left = seen.entries
    seen.keep_only(only, 0)
    assert seen.entries <= left
    remembered = [(only, i, t) for (key, i), ts in expected.items() if key == only for t in ts]
    young = [row for row in remembered if row[2] >= 20 * (len(drawn) - 1) - HORIZON]
    if young:
        keys, ids, times = np.array(young, np.int64).T
        assert seen.judge(keys, ids, times, np.zeros(len(young), np.bool_), 0, 0).all()

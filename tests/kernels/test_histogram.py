import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import histogram


def plain(values, edges):
    """Counts bins one value at a time, straight from the definition."""
    counts = [[0] * (len(cuts) + 1) for cuts in edges]
    for row in values:
        for j, v in enumerate(row):
            last = len(edges[j])
            b = last if v != v else sum(1 for cut in edges[j] if cut <= v)
            counts[j][b] += 1
    return counts


def folded(values, edges):
    packed, n_edges = histogram.pad_edges([np.array(cuts, dtype=float) for cuts in edges])
    counts = np.zeros((len(edges), packed.shape[1] + 1), dtype=np.int64)
    histogram.fold(values, packed, n_edges, counts)
    return [counts[j, : len(cuts) + 1].tolist() for j, cuts in enumerate(edges)]


numbers = st.one_of(
    st.integers(-3, 3).map(float), st.floats(allow_nan=True, allow_infinity=True, width=64)
)


@st.composite
def cases(draw):
    k = draw(st.integers(1, 4))
    edges = [
        sorted(draw(st.sets(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3))))
        for _ in range(k)
    ]
    rows = draw(st.lists(st.lists(numbers, min_size=k, max_size=k), max_size=30))
    return np.array(rows, dtype=np.float64).reshape(len(rows), k), edges


@settings(deadline=None)  # the first call compiles the kernel
@given(cases())
def test_counts_equal_the_plain_reference(case):
    values, edges = case
    assert folded(values, edges) == plain(values, edges)


def test_a_value_on_a_cut_point_counts_above_it_and_nan_counts_last():
    values = np.array([[0.0], [1.0], [2.5], [-np.inf], [np.inf], [np.nan]])
    assert folded(values, [[1.0, 2.0]]) == [[2, 1, 3]]


def test_folding_in_parts_equals_folding_at_once():
    values = np.random.default_rng(3).normal(size=(1000, 3))
    edges, n_edges = histogram.pad_edges([np.array([-1.0, 0, 1]), np.array([]), np.array([0.5])])
    whole = np.zeros((3, 4), dtype=np.int64)
    parts = np.zeros((3, 4), dtype=np.int64)
    histogram.fold(values, edges, n_edges, whole)
    for part in np.array_split(values, 7):
        histogram.fold(part, edges, n_edges, parts)
    assert (whole == parts).all()
    assert whole.sum(axis=1).tolist() == [1000, 1000, 1000]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=300), st.integers(2, 12))
def test_quantile_edges_leave_no_bin_empty(sample, bins):
    values = np.array(sample, dtype=np.float64)
    edges = histogram.quantile_edges(values, bins)
    assert len(edges) < bins
    assert min(folded(values[:, None], [edges.tolist()])[0]) > 0


def test_quantile_edges_split_many_values_evenly():
    values = np.random.default_rng(5).lognormal(size=10_000)
    counts = folded(values[:, None], [histogram.quantile_edges(values).tolist()])[0]
    assert len(counts) == 10
    assert max(abs(count - 1000) for count in counts) <= 1


def test_a_column_that_is_nearly_always_zero_keeps_a_bin_for_the_rest():
    values = np.concatenate([np.zeros(970), np.linspace(0.1, 1, 30)])
    edges = histogram.quantile_edges(values)
    assert folded(values[:, None], [edges.tolist()]) == [[970, 30]]


@pytest.mark.parametrize("cuts", [[1.0, 1.0], [2.0, 1.0], [np.nan], [np.inf]])
def test_cut_points_out_of_order_are_refused(cuts):
    with pytest.raises(ValueError, match="column 0"):
        histogram.pad_edges([np.array(cuts)])


def test_shapes_that_disagree_are_refused():
    edges, n_edges = histogram.pad_edges([np.array([1.0]), np.array([2.0])])
    counts = np.zeros((2, 2), dtype=np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        histogram.fold(np.zeros((5, 3)), edges, n_edges, counts)
    with pytest.raises(ValueError, match="counts"):
        histogram.fold(np.zeros((5, 2)), edges, n_edges, counts[:, :1])

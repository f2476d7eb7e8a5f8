"""Histograms of many columns at once, added to in place as rows stream by.

Column `j` has the ascending cut points `edges[j, :n_edges[j]]` (the rest is padding). A value `v`
counts in bin `b`, the number of cut points that are ≤ `v`, so `n` cut points make `n + 1` bins and
the outer two are open. NaN counts in the last bin, where a sort would put it.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@njit(cache=True)
def _fold(values: Floats, edges: Floats, n_edges: Counts, counts: Counts) -> None:
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            v = values[i, j]
            low = 0
            high = n_edges[j]
            while low < high:
                middle = (low + high) >> 1
                if v < edges[j, middle]:
                    high = middle
                else:
                    low = middle + 1
            counts[j, low] += 1


def fold(values: Floats, edges: Floats, n_edges: Counts, counts: Counts) -> None:
    """Adds every row of `values` to `counts`.

    Args:
        values: float64 [n, k].
        edges: float64 [k, m], each row ascending over its first `n_edges[j]` places.
        n_edges: int64 [k].
        counts: int64 [k, m + 1], changed in place.

    Raises:
        ValueError: the shapes disagree.
    """
    k, m = edges.shape
    if values.ndim != 2 or values.shape[1] != k or n_edges.shape != (k,):
        raise ValueError(
            f"values {values.shape} and n_edges {n_edges.shape} do not fit edges {edges.shape}"
        )
    if counts.shape != (k, m + 1):
        raise ValueError(f"counts {counts.shape} must be {(k, m + 1)} for edges {edges.shape}")
    _fold(values, edges, n_edges, counts)


def pad_edges(edges: Sequence[Floats]) -> tuple[Floats, Counts]:
    """Packs one ascending array of cut points per column into (edges [k, m], n_edges [k]).

    Raises:
        ValueError: a column's cut points are not finite and strictly ascending.
    """
    n_edges = np.array([len(column) for column in edges], dtype=np.int64)
    packed = np.full((len(edges), int(n_edges.max(initial=0))), np.inf)
    for j, column in enumerate(edges):
        cuts = np.asarray(column, dtype=np.float64)
        if not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
            raise ValueError(f"cut points of column {j} are not finite and strictly ascending")
        packed[j, : len(cuts)] = cuts
    return packed, n_edges


def quantile_edges(values: Floats, bins: int = 10) -> Floats:
    """Cut points that split `values` [n] into at most `bins` bins of about equal count.

    A column of few distinct values gets one bin per value. Every bin holds at least one value, and
    a constant column has no cut point.

    Raises:
        ValueError: there are no values or fewer than two bins.
    """
    if len(values) == 0 or bins < 2:
        raise ValueError(f"{len(values)} values cannot be split into {bins} bins")
    distinct: Floats = np.unique(values[~np.isnan(values)])
    if len(distinct) <= bins:
        return distinct[1:]
    ranks = np.linspace(0, 1, bins + 1)[1:-1]
    cuts = np.nanquantile(values, ranks, method="higher")
    # Where one value fills the lowest quantiles it gets a bin of its own: a rate that is nearly
    # always 0 would otherwise be one bin, and blind.
    return np.unique(np.maximum(cuts, distinct[1]))

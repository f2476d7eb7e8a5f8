"""Who pays and where: customers and terminals in a plane, and each customer's habits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NEARBY = 30
"""Terminals a customer reaches on average; the radius follows from it and from their density."""

_NEARNESS = 1.5
"""Above 1, nearer terminals are used more often."""


@dataclass(frozen=True, eq=False)
class Population:
    """Fixed habits of C customers and N terminals, the same for a seed and these two counts.

    `nearby` lists, customer after customer, the terminals within the radius, nearest first;
    customer c owns `nearby[nearby_from[c]:nearby_from[c + 1]]`, never empty.
    """

    mean_amount_minor: NDArray[np.float64]  # [C]
    activity: NDArray[np.float64]  # [C] cumulative share of all payments, the last is 1
    nearby: NDArray[np.int32]
    nearby_from: NDArray[np.int64]  # [C + 1]
    ordinary_terminals: NDArray[np.int32]  # those of neither very low nor very high traffic
    terminals: int

    @property
    def customers(self) -> int:
        """How many customers there are."""
        return len(self.mean_amount_minor)

    def customers_for(self, uniforms: NDArray[np.float64]) -> NDArray[np.int32]:
        """Customers drawn by how often each one pays."""
        chosen = np.searchsorted(self.activity, uniforms, side="right")
        return np.minimum(chosen, self.customers - 1).astype(np.int32)

    def terminals_for(
        self, customer: NDArray[np.int32], uniforms: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """For each customer one of the terminals near it, nearer ones more often."""
        first = self.nearby_from[customer]
        count = self.nearby_from[customer + 1] - first
        rank = (count * uniforms**_NEARNESS).astype(np.int64)
        return np.take(self.nearby, first + np.minimum(rank, count - 1))


def populate(seed: int, customers: int, terminals: int) -> Population:
    """Draw the population of a seed."""
    rng = np.random.default_rng([seed, 1])
    homes = rng.random((customers, 2))
    shops = rng.random((terminals, 2))
    mean_amount_minor = np.clip(3800.0 * rng.lognormal(0.0, 0.55, customers), 800, 14_000)
    frequency = rng.gamma(4.0, size=customers) + 0.2
    frequency /= frequency.sum()
    nearby, nearby_from = _reachable(homes, shops)
    counts = np.diff(nearby_from)
    owner = np.repeat(np.arange(customers), counts)
    rank = np.arange(len(nearby)) - nearby_from[owner]
    share = ((rank + 1) / counts[owner]) ** (1 / _NEARNESS) - (rank / counts[owner]) ** (
        1 / _NEARNESS
    )
    traffic = np.bincount(nearby, weights=frequency[owner] * share, minlength=terminals)
    ordinary = np.flatnonzero((traffic > 0.4 / terminals) & (traffic < 2.0 / terminals))
    return Population(
        mean_amount_minor=mean_amount_minor,
        activity=np.cumsum(frequency) / frequency.sum(),
        nearby=nearby,
        nearby_from=nearby_from,
        ordinary_terminals=(ordinary if len(ordinary) else np.arange(terminals)).astype(np.int32),
        terminals=terminals,
    )


def _reachable(
    homes: NDArray[np.float64], shops: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Terminals within the radius of each customer, by cells as wide as the radius."""
    customers, terminals = len(homes), len(shops)
    radius = min(1.0, float(np.sqrt(_NEARBY / (np.pi * terminals))))
    side = max(1, int(1.0 / radius))
    home_cell = np.minimum((homes * side).astype(np.int64), side - 1)
    shop_cell = np.minimum((shops * side).astype(np.int64), side - 1)
    shops_by_cell = _grouped(shop_cell[:, 0] * side + shop_cell[:, 1], side * side)
    homes_by_cell = _grouped(home_cell[:, 0] * side + home_cell[:, 1], side * side)

    lists: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * customers
    for cell, residents in enumerate(homes_by_cell):
        if not len(residents):
            continue
        row, column = divmod(cell, side)
        around = [
            shops_by_cell[r * side + c]
            for r in range(max(0, row - 1), min(side, row + 2))
            for c in range(max(0, column - 1), min(side, column + 2))
        ]
        candidates = np.concatenate(around)
        if not len(candidates):
            candidates = np.arange(terminals)
        distance = np.linalg.norm(homes[residents, None] - shops[None, candidates], axis=2)
        order = np.argsort(distance, axis=1, kind="stable")
        within = (distance <= radius).sum(axis=1)
        for i, customer in enumerate(residents):
            lists[customer] = candidates[order[i, : max(1, within[i])]].astype(np.int32)
    counts = np.fromiter((len(each) for each in lists), np.int64, customers)
    return np.concatenate(lists), np.concatenate([[0], np.cumsum(counts)])


def _grouped(cells: NDArray[np.int64], cell_count: int) -> list[NDArray[np.int64]]:
    """The members of each cell, in order."""
    order = np.argsort(cells, kind="stable")
    edges = np.searchsorted(cells[order], np.arange(1, cell_count))
    return np.split(order, edges)

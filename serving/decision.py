"""From a score to a decision, by the thresholds that travel in the bundle."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from features.errors import BundleError

DEFAULT_DECISION = "approve"
"""The decision for a score below every threshold."""


class Decisions:
    """Thresholds made ready for many scores at once.

    Args:
        thresholds: the lowest score that leads to each decision; the highest one reached counts.

    Raises:
        BundleError: a threshold is not a number between 0 and 1, or two are equal.
    """

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        ordered = sorted(thresholds.items(), key=lambda item: item[1])
        self._edges = np.array([edge for _, edge in ordered], dtype=np.float64)
        self.names = [DEFAULT_DECISION, *(name for name, _ in ordered)]
        inside = (self._edges >= 0) & (self._edges <= 1)
        if not inside.all() or (np.diff(self._edges) <= 0).any():
            raise BundleError(
                f"thresholds {dict(thresholds)} must be different numbers between 0 and 1; "
                "export the model again"
            )

    def of(self, scores: NDArray[np.float64]) -> list[str]:
        """The decision of each score [n]."""
        names = self.names
        return [names[i] for i in np.searchsorted(self._edges, scores, side="right").tolist()]

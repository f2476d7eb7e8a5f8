"""How well scores rank: average precision and ROC AUC, with row weights.

Weights are what the bootstrap needs: drawing a day twice is giving its rows the weight two.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError

Array = npt.NDArray[Any]


def average_precision(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Step-wise area under precision over recall: sum of (R_i − R_{i−1}) P_i over thresholds.

    Args:
        labels: 0 or 1, [n].
        scores: [n]; equal scores share a threshold.
        weights: [n], 1 for every row by default.

    Raises:
        TrainingError: no positive row has weight, so there is no recall.
    """
    hits, misses = _by_threshold(labels, scores, weights)
    if hits.sum() <= 0:
        raise TrainingError("average precision needs at least one positive row; take more days")
    true, seen = np.cumsum(hits), np.cumsum(hits + misses)
    return float(np.sum(hits / true[-1] * np.divide(true, seen, where=seen > 0, out=true * 0)))


def roc_auc(labels: Array, scores: Array) -> float:
    """The chance that a positive row scores above a negative one, ties counting half.

    Raises:
        TrainingError: one of the classes is missing.
    """
    hits, misses = _by_threshold(labels, scores, None)
    if hits.sum() <= 0 or misses.sum() <= 0:
        raise TrainingError("ROC AUC needs rows of both classes; take more days")
    below = misses.sum() - np.cumsum(misses)
    return float(np.sum(hits * (below + misses / 2)) / (hits.sum() * misses.sum()))


def _by_threshold(labels: Array, scores: Array, weights: Array | None) -> tuple[Array, Array]:
    """Weight of positives and of negatives at each distinct score, highest score first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    weight = np.ones(labels.size) if weights is None else weights[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    positive = weight * (labels[order] > 0)
    return np.add.reduceat(positive, starts), np.add.reduceat(weight - positive, starts)

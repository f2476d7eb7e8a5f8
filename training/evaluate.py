"""What a model is worth on the validation days, and where its decisions begin."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.dataset import labels_of
from training.errors import TrainingError
from training.models.recipes import Recipe
from training.ranking import average_precision, roc_auc

Scores = npt.NDArray[np.float32]


def measure(rows: pa.Table, scores: Scores, recipe: Recipe) -> dict[str, float]:
    """The general measures and the recipe's own, on scored validation rows [n]."""
    labels = labels_of(rows)
    measures = {
        "average_precision": average_precision(labels, scores),
        "roc_auc": roc_auc(labels, scores),
        "positive_share": float(labels.mean()),
        "brier": float(np.mean((scores.astype(np.float64) - labels) ** 2)),
    }
    for metric in recipe.metrics:
        measures[metric.name] = metric.measure(rows, scores)
    return measures


def decision_thresholds(scores: Scores, shares: Mapping[str, float]) -> dict[str, float]:
    """The lowest score of each decision, such that about that share of events reaches it.

    Args:
        scores: of the validation rows, [n].
        shares: share of all events by decision, what the people behind it can look at; a smaller
            share gets a higher threshold, also where scores are so alike that the quantiles meet.

    Raises:
        TrainingError: a share is not between 0 and 1, or there are too few different scores.
    """
    for decision, share in shares.items():
        if not 0 < share < 1:
            raise TrainingError(f"the share of {decision!r} is {share}; give one between 0 and 1")
    distinct = np.unique(scores)
    thresholds: dict[str, float] = {}
    floor = -np.inf
    for decision, share in sorted(shares.items(), key=lambda item: -item[1]):
        above = distinct[distinct > floor]
        if above.size == 0:
            raise TrainingError(
                f"{distinct.size} different scores on {scores.size} rows cannot be told apart into "
                f"{len(shares)} decisions; the model has learned nothing, train longer"
            )
        floor = max(np.quantile(scores, 1 - share, method="higher"), above[0])
        thresholds[decision] = float(floor)
    return thresholds


def measure_decisions(
    rows: pa.Table, scores: Scores, thresholds: Mapping[str, float]
) -> dict[str, float]:
    """Precision and recall of all events at or above each threshold."""
    labels = labels_of(rows)
    measures = {}
    for decision, threshold in thresholds.items():
        taken = scores >= threshold
        hits = float(labels[taken].sum())
        measures[f"{decision}_precision"] = hits / max(1.0, float(taken.sum()))
        measures[f"{decision}_recall"] = hits / max(1.0, float(labels.sum()))
    return measures

"""Ranking measures against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from training.errors import TrainingError
from training.ranking import average_precision, roc_auc


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 10))
def test_measures_equal_scikit_learn_with_ties_and_weights(
    seed: int, rows: int, levels: int
) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    labels[:2] = 0, 1
    scores = generator.integers(0, levels, rows) / 7
    weights = generator.integers(0, 4, rows)
    weights[1] = 1
    assert average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )
    assert average_precision(labels, scores, weights) == pytest.approx(
        average_precision_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_one_class_alone_cannot_be_ranked() -> None:
    scores = np.array([0.1, 0.2])
    with pytest.raises(TrainingError, match="positive"):
        average_precision(np.zeros(2), scores)
    with pytest.raises(TrainingError, match="both classes"):
        roc_auc(np.ones(2), scores)

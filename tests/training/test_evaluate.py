"""Measures and thresholds on scored rows."""

import numpy as np
import pyarrow as pa
import pytest

from training.errors import TrainingError
from training.evaluate import decision_thresholds, measure, measure_decisions
from training.models.metrics import card_precision
from training.models.recipes import Recipe, recipe_of

DAY_US = 86_400_000_000


def rows_of(days: list[int], cards: list[str], labels: list[int]) -> pa.Table:
    return pa.table(
        {
            "event_time": pa.array([day * DAY_US for day in days], pa.timestamp("us", "UTC")),
            "customer_id": cards,
            "label": pa.array(labels, pa.int8()),
        }
    )


def test_each_decision_takes_about_its_share_of_events() -> None:
    scores = np.random.default_rng(0).random(10_000).astype(np.float32)
    thresholds = decision_thresholds(scores, {"review": 0.01, "block": 0.002})
    assert (scores >= thresholds["review"]).sum() == pytest.approx(100, abs=1)
    assert (scores >= thresholds["block"]).sum() == pytest.approx(20, abs=1)


def test_the_rarer_decision_has_the_higher_threshold_also_among_equal_scores() -> None:
    scores = np.full(1000, 0.25, np.float32)
    scores[:3] = 0.75
    thresholds = decision_thresholds(scores, {"review": 0.01, "block": 0.005})
    assert thresholds == {"review": 0.25, "block": 0.75}
    with pytest.raises(TrainingError, match="learned nothing"):
        decision_thresholds(np.full(10, 0.5, np.float32), {"review": 0.2, "block": 0.1})


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_outside_zero_and_one_is_refused(share: float) -> None:
    with pytest.raises(TrainingError, match="'review'"):
        decision_thresholds(np.arange(9, dtype=np.float32), {"review": share})


def test_precision_and_recall_count_events_at_or_above_the_threshold() -> None:
    rows = rows_of([0] * 4, ["a"] * 4, [1, 1, 0, 0])
    scores = np.array([0.9, 0.1, 0.5, 0.2], np.float32)
    assert measure_decisions(rows, scores, {"review": 0.5}) == {
        "review_precision": 0.5,
        "review_recall": 0.5,
    }


def test_card_precision_counts_cards_once_and_drops_them_after_they_are_found() -> None:
    # Day 0: a (defrauded, scored high twice) and b are the top two: one hit. Day 1: a is gone, so
    # c (defrauded) and b are the top two: one hit.
    rows = rows_of(
        [0, 0, 0, 0, 1, 1, 1, 1],
        ["a", "a", "b", "c", "a", "b", "c", "d"],
        [1, 1, 0, 0, 1, 0, 1, 0],
    )
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.99, 0.6, 0.5, 0.4])
    assert card_precision(rows, scores, top=2) == 0.5
    assert card_precision(rows, scores, top=1) == 0.5


def test_a_recipe_adds_its_own_measures_to_the_general_ones() -> None:
    rows = rows_of([0, 0, 1, 1], ["a", "b", "c", "d"], [1, 0, 1, 0])
    scores = np.array([0.9, 0.1, 0.8, 0.2], np.float32)
    general = measure(rows, scores, Recipe())
    assert general["average_precision"] == 1
    assert general["positive_share"] == 0.5
    own = measure(rows, scores, recipe_of("card_fraud"))
    assert own == general | {"card_precision_at_100": 0.01}

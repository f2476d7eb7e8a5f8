"""The promotion rule."""

import numpy as np
import pytest

from training.gate import PromotionRule, day_differences, decide
from training.ranking import average_precision

RULE = PromotionRule()
DAYS = np.repeat(np.arange(7), 400)
LABELS = (np.arange(DAYS.size) % 40 == 0).astype(np.int8)
NOISE = np.random.default_rng(0).normal(size=DAYS.size)


def scores_of(strength: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return NOISE + strength * LABELS


def test_a_better_model_is_promoted_with_the_numbers_in_the_reason() -> None:
    verdict = decide(LABELS, DAYS, scores_of(3), scores_of(2), RULE)
    assert verdict.promote
    assert verdict.challenger == average_precision(LABELS, scores_of(3))
    assert verdict.champion == average_precision(LABELS, scores_of(2))
    assert f"{verdict.champion:.4f}" in verdict.reason
    assert "reaches the margin" in verdict.reason


def test_an_equal_model_is_refused() -> None:
    verdict = decide(LABELS, DAYS, scores_of(2), scores_of(2), RULE)
    assert not verdict.promote
    assert verdict.difference == 0
    assert "does not reach the margin" in verdict.reason


def test_a_model_that_is_better_on_one_day_alone_is_refused() -> None:
    challenger, champion = scores_of(2.0), scores_of(2.15)
    lucky = DAYS == 3
    challenger[lucky & (LABELS == 1)] += 8
    verdict = decide(LABELS, DAYS, challenger, champion, RULE)
    assert verdict.difference is not None
    assert verdict.difference > RULE.margin
    assert verdict.lower_end is not None
    assert verdict.lower_end <= -RULE.allowed_loss
    assert not verdict.promote
    assert "not above -0.02" in verdict.reason


def test_days_are_drawn_whole() -> None:
    challenger, champion = scores_of(2.0), scores_of(2.2)
    found = day_differences(LABELS, np.zeros_like(DAYS), challenger, champion, RULE)
    every = average_precision(LABELS, challenger) - average_precision(LABELS, champion)
    assert found == pytest.approx(np.full(RULE.resamples, every))


@pytest.mark.parametrize(("strength", "promoted"), [(3.0, True), (0.0, False)])
def test_without_a_champion_the_share_of_positives_is_the_measure(
    strength: float, promoted: bool
) -> None:
    verdict = decide(LABELS, DAYS, scores_of(strength), None, RULE, "no champion here")
    assert verdict.promote is promoted
    assert verdict.reason.startswith("no champion here")
    assert verdict.champion is None

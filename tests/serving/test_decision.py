import numpy as np
import pytest

from features.errors import BundleError
from serving.decision import Decisions


def test_the_highest_threshold_reached_decides():
    decisions = Decisions({"block": 0.9, "review": 0.5})
    scores = np.array([0.0, 0.4999, 0.5, 0.8999, 0.9, 1.0])
    assert decisions.of(scores) == ["approve", "approve", "review", "review", "block", "block"]
    assert decisions.of(np.empty(0)) == []


@pytest.mark.parametrize(
    "thresholds", [{"review": 0.5, "block": 0.5}, {"review": -0.1}, {"review": float("nan")}]
)
def test_thresholds_that_cannot_decide_are_refused(thresholds):
    with pytest.raises(BundleError, match="between 0 and 1"):
        Decisions(thresholds)

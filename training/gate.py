"""Whether a challenger becomes champion.

Both score the same validation days. The challenger must be better by a margin, and the days must
agree: whole days are drawn with replacement (rows of one day are not independent), and the lower
end of the difference must not fall below a small loss. The champion may have seen some of these
days in its own training, which only makes the gate harder.
"""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from training.ranking import average_precision

Array = npt.NDArray[Any]


class PromotionRule(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of the gate; average precision throughout."""

    margin: float = 0.005
    """The challenger must be better by this much on all validation rows."""
    allowed_loss: float = 0.02
    """The lower end of the difference over resampled days must lie above minus this."""
    lower_quantile: float = 0.05
    resamples: int = 200
    lift_without_champion: float = 5.0
    """Without a champion, average precision must be this many times the share of positives."""
    seed: int = 0


class Decision(msgspec.Struct, frozen=True):
    """The verdict with everything it rests on."""

    promote: bool
    reason: str
    challenger: float
    champion: float | None
    difference: float | None
    lower_end: float | None


def decide(
    labels: Array,
    days: Array,
    challenger: Array,
    champion: Array | None,
    rule: PromotionRule,
    why_no_champion: str = "there is no champion",
) -> Decision:
    """Apply the rule.

    Args:
        labels: 0 or 1, [n].
        days: the day of each row, [n].
        challenger: its scores, [n].
        champion: the champion's scores of the same rows [n], or None.
        rule: the numbers.
        why_no_champion: said in the reason when there is none to compare with.
    """
    own = average_precision(labels, challenger)
    if champion is None:
        share = float(np.mean(labels))
        needed = min(rule.lift_without_champion * share, 1.0)
        promote = own > needed
        sign = "above" if promote else "not above"
        reason = (
            f"{why_no_champion}; average precision {own:.4f} is {sign} {needed:.4f}, "
            f"{rule.lift_without_champion:g} times the share of positives {share:.4f}"
        )
        return Decision(promote, reason, own, None, None, None)
    theirs = average_precision(labels, champion)
    difference = own - theirs
    lower = float(
        np.quantile(day_differences(labels, days, challenger, champion, rule), rule.lower_quantile)
    )
    better, steady = difference >= rule.margin, lower > -rule.allowed_loss
    reason = (
        f"average precision {own:.4f} against the champion's {theirs:.4f}: the difference "
        f"{difference:+.4f} {'reaches' if better else 'does not reach'} the margin {rule.margin:g}"
        f", and its {rule.lower_quantile:.0%} quantile over resampled days {lower:+.4f} is "
        f"{'above' if steady else 'not above'} {-rule.allowed_loss:g}"
    )
    return Decision(better and steady, reason, own, theirs, difference, lower)


def day_differences(
    labels: Array, days: Array, challenger: Array, champion: Array, rule: PromotionRule
) -> Array:
    """Challenger minus champion in average precision, one value per draw of whole days."""
    names, day_of_row = np.unique(days, return_inverse=True)
    positives = np.bincount(day_of_row, weights=labels)
    generator = np.random.default_rng(rule.seed)
    differences: list[float] = []
    while len(differences) < rule.resamples:
        times = np.bincount(generator.integers(names.size, size=names.size), minlength=names.size)
        if not (times * positives).any():
            continue
        weights = times[day_of_row]
        differences.append(
            average_precision(labels, challenger, weights)
            - average_precision(labels, champion, weights)
        )
    return np.asarray(differences)

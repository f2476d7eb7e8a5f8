"""How good the scores were, judged by the labels that came later; all of it read from the lake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import average_precision_score

from features import lake
from features.plan import Plan

RULE_AMOUNT_MINOR = 22_000
"""The plain rule to compare with: everything above 220 is fraud (Fraud Detection Handbook, 3.1)."""


@dataclass(frozen=True)
class Judged:
    """Scored events whose label is final: one entry an event in every array."""

    event_time: npt.NDArray[np.datetime64]
    score: npt.NDArray[np.float64]
    amount_minor: npt.NDArray[np.int64]
    label: npt.NDArray[np.bool_]
    model_version: npt.NDArray[np.str_]

    def average_precision(self, version: str | None = None) -> float:
        """Of the scores, all of them or those of one model version."""
        mask = np.ones(len(self.label), bool) if version is None else self.model_version == version
        if not self.label[mask].any():
            return float("nan")
        return float(average_precision_score(self.label[mask], self.score[mask]))

    @property
    def rule_average_precision(self) -> float:
        """Of the plain rule, on the same events."""
        return float(average_precision_score(self.label, self.amount_minor > RULE_AMOUNT_MINOR))


def judge(plan: Plan) -> Judged:
    """Join scores with the latest label of each event, as far as labels are final.

    An event is final when `known_after` has passed by the newest event time; no label by then
    means false. Scores come from live events, all of them later than the first training.
    """
    if plan.label is None:
        raise ValueError(f"the feature set {plan.name!r} has no label to judge by")
    scores = lake.read("scores", ["event_id", "event_time", "score", "model_version"]).to_pandas()
    events = lake.read("events", ["event_id", "amount", "verdict"]).to_pandas()
    labels = lake.read("labels", ["event_id", "known_time", plan.label.field]).to_pandas()
    amounts = events[events.verdict == "folded"].drop_duplicates("event_id")
    latest = labels.sort_values("known_time").drop_duplicates("event_id", keep="last")
    final = scores.event_time.max() - pd.Timedelta(plan.label.known_after_us, "us")
    joined = (
        scores[scores.event_time <= final]
        .merge(amounts[["event_id", "amount"]], on="event_id")
        .merge(latest[["event_id", plan.label.field]], on="event_id", how="left")
    )
    return Judged(
        event_time=joined.event_time.to_numpy("datetime64[us]"),
        score=joined.score.to_numpy(np.float64),
        amount_minor=joined.amount.to_numpy(np.int64),
        label=(joined[plan.label.field] == True).to_numpy(bool),  # noqa: E712 (missing is false)
        model_version=joined.model_version.to_numpy(str),
    )

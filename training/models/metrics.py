"""Measures that only make sense for one domain, beside the models of that domain."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.dataset import days_of, labels_of


@dataclass(frozen=True)
class DomainMetric:
    """A measure on scored validation rows.

    `fields` are the event fields it reads; `measure(rows, scores)` takes the validation table
    with those fields and float scores [n], and returns one number, higher is better.
    """

    name: str
    fields: tuple[str, ...]
    measure: Callable[[pa.Table, npt.NDArray[np.floating]], float]


def card_precision(rows: pa.Table, scores: npt.NDArray[np.floating], top: int = 100) -> float:
    """Mean over days of the share of truly defrauded cards among the `top` cards of that day.

    A card's score is its highest transaction score of the day; a card found on one day is left out
    of the later ones (Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud
    Detection, chapter 4, Card Precision@k). Days are UTC days.
    """
    cards = np.unique(np.asarray(rows["customer_id"].to_pylist(), dtype=str), return_inverse=True)[
        1
    ]
    days, labels = days_of(rows), labels_of(rows)
    found = np.zeros(int(cards.max()) + 1, dtype=bool)
    precisions = []
    for day in np.unique(days):
        today = (days == day) & ~found[cards]
        highest = np.full(found.size, -np.inf)
        np.maximum.at(highest, cards[today], scores[today])
        defrauded = np.zeros(found.size, dtype=bool)
        defrauded[cards[today & (labels == 1)]] = True
        chosen = np.argsort(-highest, kind="stable")[:top]
        chosen = chosen[np.isfinite(highest[chosen])]
        hits = chosen[defrauded[chosen]]
        found[hits] = True
        precisions.append(hits.size / top)
    return float(np.mean(precisions))

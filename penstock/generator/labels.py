"""When the truth about a payment becomes known: chargebacks, reviews and their corrections.

A fraud is reported after a delay that its pattern sets. Some are first cleared and then reported.
A small share of genuine payments is disputed and the dispute withdrawn, a smaller one is reviewed
and cleared; the rest never get a label. A few reports come after `known_after` of the definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.generator.episodes import Pattern
from penstock.generator.rhythm import DAY_US, HOUR_US

if TYPE_CHECKING:
    from penstock.generator.payments import Payments

_DELAY_HOURS: dict[Pattern, tuple[float, float]] = {
    Pattern.CARD_NOT_PRESENT: (12, 96),
    Pattern.COMPROMISED_TERMINAL: (48, 160),
    Pattern.LEAKED_CARD: (24, 120),
    Pattern.CARD_TESTING: (5, 20),
    Pattern.TAKEOVER: (10, 72),
}
SHORTEST_DELAY_US = 5 * HOUR_US
LONGEST_DELAY_US = 10 * DAY_US

_LATE_SHARE = 0.03  # of reports: known 7.1 to 10 days after the payment
_CLEARED_FIRST_SHARE = 0.10  # of frauds: first false, then true
_DISPUTED_SHARE = 0.010  # of genuine payments: first true, then false
_REVIEWED_SHARE = 0.004  # of genuine payments: false


@dataclass(frozen=True, eq=False)
class Labels:
    """Label messages in the order in which they become known."""

    number: NDArray[np.int64]
    event_time_us: NDArray[np.int64]
    terminal: NDArray[np.int32]
    is_fraud: NDArray[np.bool_]
    known_time_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.number)

    def between(self, known_from_us: int, known_until_us: int) -> Labels:
        """Those that become known in [known_from_us, known_until_us)."""
        low, high = np.searchsorted(self.known_time_us, [known_from_us, known_until_us])
        return self.take(slice(int(low), int(high)))

    def take(self, rows: slice | NDArray[np.int64]) -> Labels:
        """Some of the labels."""
        return Labels(
            self.number[rows],
            self.event_time_us[rows],
            self.terminal[rows],
            self.is_fraud[rows],
            self.known_time_us[rows],
        )

    @classmethod
    def joined(cls, parts: list[Labels]) -> Labels:
        """Several lots in one order; ties by event number."""
        if not parts:
            none = np.empty(0, np.int64)
            return cls(none, none, none.astype(np.int32), none.astype(np.bool_), none)
        whole = cls(
            np.concatenate([part.number for part in parts]),
            np.concatenate([part.event_time_us for part in parts]),
            np.concatenate([part.terminal for part in parts]),
            np.concatenate([part.is_fraud for part in parts]),
            np.concatenate([part.known_time_us for part in parts]),
        )
        return whole.take(np.lexsort((whole.number, whole.known_time_us)))

    def table(self) -> pa.Table:
        """Columns event_id, event_time_us, terminal_id, is_fraud, known_time_us."""
        from penstock.generator.payments import event_ids, terminal_ids

        return pa.table(
            {
                "event_id": event_ids(self.number),
                "event_time_us": self.event_time_us,
                "terminal_id": terminal_ids(self.terminal),
                "is_fraud": self.is_fraud,
                "known_time_us": self.known_time_us,
            }
        )


def labels_of(payments: Payments, rng: np.random.Generator) -> Labels:
    """Every label message about some payments, however late it comes."""
    # One row of draws per payment: more payments behind do not change those before.
    draws = rng.random((len(payments), 4))
    fraud = payments.is_fraud
    shortest = np.zeros(len(Pattern))
    longest = np.zeros(len(Pattern))
    for pattern, (low, high) in _DELAY_HOURS.items():
        shortest[pattern], longest[pattern] = low, high
    low_us = shortest[payments.pattern] * HOUR_US
    high_us = longest[payments.pattern] * HOUR_US
    report_us = low_us + draws[:, 0] * (high_us - low_us)
    late = draws[:, 1] < _LATE_SHARE
    late_us = (7.1 + 2.9 * draws[:, 1] / _LATE_SHARE) * DAY_US
    report_us = np.where(late, late_us, report_us)

    cleared = fraud & (draws[:, 2] < _CLEARED_FIRST_SHARE)
    cleared_us = SHORTEST_DELAY_US + draws[:, 3] * 0.8 * (report_us - SHORTEST_DELAY_US)
    disputed = ~fraud & (draws[:, 2] < _DISPUTED_SHARE)
    dispute_us = SHORTEST_DELAY_US + draws[:, 3] * 2 * DAY_US
    withdrawn_us = np.where(late, late_us, dispute_us + (0.3 + 3.0 * draws[:, 0]) * DAY_US)
    reviewed = ~fraud & ~disputed & (draws[:, 2] < _DISPUTED_SHARE + _REVIEWED_SHARE)
    review_us = SHORTEST_DELAY_US + draws[:, 0] * 6 * DAY_US

    return Labels.joined(
        [
            _messages(payments, fraud, report_us, True),
            _messages(payments, cleared, cleared_us, False),
            _messages(payments, disputed, dispute_us, True),
            _messages(payments, disputed, withdrawn_us, False),
            _messages(payments, reviewed, review_us, False),
        ]
    )


def _messages(
    payments: Payments, which: NDArray[np.bool_], delay_us: NDArray[np.float64], says: bool
) -> Labels:
    rows = np.flatnonzero(which)
    return Labels(
        payments.number[rows],
        payments.event_time_us[rows],
        payments.terminal[rows],
        np.full(len(rows), says),
        payments.event_time_us[rows] + delay_us[rows].astype(np.int64),
    )

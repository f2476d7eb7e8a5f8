"""What happens to cards and terminals for a while: fraud patterns, and honest shopping sprees.

An episode belongs to the day it starts on and is drawn from (seed, pattern, day) alone, so any span
of payments can be made without the spans before it. Drift never changes a draw: it only decides
which episodes take place, so payments before it are the same whether it comes or not.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from penstock.generator.population import Population
from penstock.generator.rhythm import DAY_US, HOUR_US

_DAY_SHIFT = 1_000_000  # seeds are not negative, but days before the world's start are


class Pattern(IntEnum):
    """Why a payment was made."""

    GENUINE = 0
    CARD_NOT_PRESENT = 1  # one large amount from afar
    COMPROMISED_TERMINAL = 2  # most payments at a terminal, amounts as ever
    LEAKED_CARD = 3  # a few inflated amounts a day for one or two weeks
    CARD_TESTING = 4  # many tiny amounts within an hour, at night
    TAKEOVER = 5  # a dozen gift cards within hours, amounts like any other; only after the drift


@dataclass(frozen=True)
class _Burst:
    """Extra payments on one card. Shares are of all payments, `kept` of the drawn episodes."""

    pattern: Pattern
    stream: int
    share: float
    kept_before: float
    kept_after: float
    payments: tuple[int, int]
    start_hour: tuple[float, float]
    span_hours: tuple[float, float]
    nearby: bool = False


_BURSTS = (
    _Burst(Pattern.CARD_NOT_PRESENT, 11, 0.0018, 1.0, 0.1, (1, 1), (0, 24), (0, 0)),
    _Burst(Pattern.LEAKED_CARD, 12, 0.0040, 1.0, 0.1, (6, 14), (0, 24), (72, 264)),
    _Burst(Pattern.CARD_TESTING, 13, 0.0022, 1.0, 0.1, (5, 11), (0.3, 4.5), (0.2, 1.0)),
    _Burst(Pattern.TAKEOVER, 14, 0.0095, 0.0, 1.0, (9, 14), (6, 14), (4, 10)),
    _Burst(Pattern.GENUINE, 15, 0.0080, 1.0, 1.0, (3, 5), (9, 15), (2, 6), nearby=True),
)

_TERMINAL_STREAM = 16
_TERMINAL_SHARE = 0.0042  # of all payments
_TERMINAL_DAYS = (14.0, 28.0)
FRAUD_AT_COMPROMISED = 0.85
"""Share of the payments at a compromised terminal that are fraud."""

EXTRA_SHARE = sum(b.share * b.kept_before for b in _BURSTS)
"""Payments that bursts add before the drift, as a share of all."""

LONGEST_BURST_DAYS = 13
LONGEST_COMPROMISE_DAYS = 29


@dataclass(frozen=True, eq=False)
class ExtraPayments:
    """Payments that bursts add, sorted by time."""

    event_time_us: NDArray[np.int64]
    customer: NDArray[np.int32]
    terminal: NDArray[np.int32]
    amount_minor: NDArray[np.int64]
    pattern: NDArray[np.int8]

    def between(self, from_us: int, until_us: int) -> "ExtraPayments":
        """Those in [from_us, until_us)."""
        low, high = np.searchsorted(self.event_time_us, [from_us, until_us])
        return ExtraPayments(
            self.event_time_us[low:high],
            self.customer[low:high],
            self.terminal[low:high],
            self.amount_minor[low:high],
            self.pattern[low:high],
        )


@dataclass(frozen=True, eq=False)
class Compromises:
    """Terminals in wrong hands and when."""

    terminal: NDArray[np.int32]
    from_us: NDArray[np.int64]
    until_us: NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeSource:
    """Draws the episodes of a day; `day` counts from the world's start and may be negative."""

    seed: int
    start_us: int
    payments_per_day: float
    population: Population
    drift_at_us: int | None
    inflation: float

    def _rng(self, stream: int, day: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, day + _DAY_SHIFT])

    def _kept(
        self,
        from_us: NDArray[np.int64],
        uniforms: NDArray[np.float64],
        before: float,
        after: float,
    ) -> NDArray[np.bool_]:
        if self.drift_at_us is None:
            return uniforms < before
        return uniforms < np.where(from_us >= self.drift_at_us, after, before)

    def extra_payments(self, day: int) -> ExtraPayments:
        """All payments of the bursts that start on a day; they may lie days later."""
        parts = [self._burst(burst, day) for burst in _BURSTS]
        time_us = np.concatenate([part.event_time_us for part in parts])
        order = np.argsort(time_us, kind="stable")
        return ExtraPayments(
            time_us[order],
            np.concatenate([part.customer for part in parts])[order],
            np.concatenate([part.terminal for part in parts])[order],
            np.concatenate([part.amount_minor for part in parts])[order],
            np.concatenate([part.pattern for part in parts])[order],
        )

    def _burst(self, burst: _Burst, day: int) -> ExtraPayments:
        rng = self._rng(burst.stream, day)
        fewest, most = burst.payments
        per_day = burst.share * self.payments_per_day / ((fewest + most) / 2)
        episodes = _scheduled(per_day, day, burst.stream)
        draws = rng.random((episodes, 5))
        if burst.nearby:
            card = self.population.customers_for(draws[:, 0])
        else:
            card = (draws[:, 0] * self.population.customers).astype(np.int32)
        first_hour, last_hour = burst.start_hour
        from_us = (
            self.start_us
            + day * DAY_US
            + ((first_hour + draws[:, 1] * (last_hour - first_hour)) * HOUR_US).astype(np.int64)
        )
        shortest, longest = burst.span_hours
        span_us = (shortest + draws[:, 2] * (longest - shortest)) * HOUR_US
        count = fewest + (draws[:, 3] * (most - fewest + 1)).astype(np.int64)
        kept = self._kept(from_us, draws[:, 4], burst.kept_before, burst.kept_after)

        owner = np.repeat(np.arange(episodes), count)
        each = rng.random((len(owner), 4))
        owner, each = owner[kept[owner]], each[kept[owner]]
        time_us = from_us[owner] + (each[:, 0] * span_us[owner]).astype(np.int64)
        customer = card[owner]
        if burst.nearby:
            terminal = self.population.terminals_for(customer, each[:, 1])
        else:
            terminal = (each[:, 1] * self.population.terminals).astype(np.int32)
        amount = self._amount(burst.pattern, customer, time_us, each[:, 2], each[:, 3])
        return ExtraPayments(
            time_us,
            customer,
            terminal,
            np.maximum(np.rint(amount), 10).astype(np.int64),
            np.full(len(owner), burst.pattern, np.int8),
        )

    def _amount(
        self,
        pattern: Pattern,
        customer: NDArray[np.int32],
        time_us: NDArray[np.int64],
        u: NDArray[np.float64],
        v: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        if pattern is Pattern.CARD_NOT_PRESENT:
            return 16_000.0 * (95_000.0 / 16_000.0) ** u
        if pattern is Pattern.CARD_TESTING:
            return 50.0 + 350.0 * u
        if pattern is Pattern.TAKEOVER:
            return 8_000.0 + 3_000.0 * u
        usual = self.population.mean_amount_minor[customer]
        if pattern is Pattern.LEAKED_CARD:
            return usual * (2.0 + 3.5 * u)
        ordinary = usual * -0.5 * (np.log1p(-u) + np.log1p(-v))  # gamma of shape 2, mean 1
        return np.multiply(ordinary, self.level(time_us))

    def level(self, time_us: NDArray[np.int64]) -> NDArray[np.float64]:
        """The spending level: 1 before the drift, the inflation from then on."""
        if self.drift_at_us is None:
            return np.ones(len(time_us))
        return np.where(time_us >= self.drift_at_us, self.inflation, 1.0)

    def compromises(self, day: int) -> Compromises:
        """The terminals that fall into wrong hands on a day."""
        rng = self._rng(_TERMINAL_STREAM, day)
        mean_days = sum(_TERMINAL_DAYS) / 2
        per_day = _TERMINAL_SHARE * self.population.terminals / (FRAUD_AT_COMPROMISED * mean_days)
        draws = rng.random((_scheduled(per_day, day, _TERMINAL_STREAM), 3))
        ordinary = self.population.ordinary_terminals
        from_us = self.start_us + day * DAY_US + (draws[:, 1] * DAY_US).astype(np.int64)
        shortest, longest = _TERMINAL_DAYS
        span_us = ((shortest + draws[:, 2] * (longest - shortest)) * DAY_US).astype(np.int64)
        terminal = ordinary[(draws[:, 0] * len(ordinary)).astype(np.int64)]
        return Compromises(terminal, from_us, from_us + span_us)


def _scheduled(per_day: float, day: int, stream: int) -> int:
    """How many episodes start on a day: evenly spread, so the share of fraud stays level."""
    phase = (stream * 0.618) % 1.0
    return int(np.floor(per_day * (day + 1) + phase) - np.floor(per_day * day + phase))

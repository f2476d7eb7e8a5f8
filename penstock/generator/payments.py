"""A world of payments: the same seed gives the same payments, whichever span is asked for.

Event time is cut into blocks; a block's payments are drawn from (seed, block) and the episodes
that reach into it, sorted by time and numbered. Drift changes amounts and episodes from its time
on and nothing before.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.generator.episodes import (
    EXTRA_SHARE,
    FRAUD_AT_COMPROMISED,
    LONGEST_BURST_DAYS,
    LONGEST_COMPROMISE_DAYS,
    Compromises,
    EpisodeSource,
    ExtraPayments,
    Pattern,
)
from penstock.generator.labels import LONGEST_DELAY_US, Labels, labels_of
from penstock.generator.population import Population, populate
from penstock.generator.rhythm import DAY_US, average_days, times_between

_BLOCK_PAYMENTS = 20_000
"""Payments of a block on average: large enough for numpy, small enough not to stall a live run."""

_MOST_BLOCKS_A_DAY = 8192  # the largest power of two that divides a day of microseconds
_NUMBERS_PER_BLOCK = 1_000_000

_LARGE_PURCHASES = 0.012
"""Share of genuine payments that are several times the customer's usual amount."""

INFLATION = 1.6
"""Spending level after the drift."""


def to_us(at: datetime) -> int:
    """Microseconds since the epoch of an aware time."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@dataclass(frozen=True, eq=False)
class Payments:
    """Payments in order of time; every array has one entry per payment."""

    number: NDArray[np.int64]
    event_time_us: NDArray[np.int64]
    customer: NDArray[np.int32]
    terminal: NDArray[np.int32]
    amount_minor: NDArray[np.int64]
    pattern: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.number)

    @property
    def is_fraud(self) -> NDArray[np.bool_]:
        """Whether each payment is fraud."""
        return np.not_equal(self.pattern, Pattern.GENUINE)

    def take(self, rows: slice | NDArray[np.int64]) -> "Payments":
        """Some of the payments."""
        return Payments(
            self.number[rows],
            self.event_time_us[rows],
            self.customer[rows],
            self.terminal[rows],
            self.amount_minor[rows],
            self.pattern[rows],
        )

    def table(self) -> pa.Table:
        """The payments with ids as text; money in minor units, times in µs since the epoch."""
        return pa.table(
            {
                "event_id": event_ids(self.number),
                "event_time_us": self.event_time_us,
                "customer_id": customer_ids(self.customer),
                "terminal_id": terminal_ids(self.terminal),
                "amount_minor": self.amount_minor,
                "is_fraud": self.is_fraud,
                "pattern": self.pattern,
            }
        )


def event_ids(number: NDArray[np.int64]) -> pa.Array:
    """Event ids as text, in the order of the numbers."""
    return _ids("p", number, 16)


def customer_ids(customer: NDArray[np.int32]) -> pa.Array:
    """Customer ids as text."""
    return _ids("c", customer, 8)


def terminal_ids(terminal: NDArray[np.int32]) -> pa.Array:
    """Terminal ids as text."""
    return _ids("t", terminal, 8)


def _ids(prefix: str, number: NDArray[np.int64] | NDArray[np.int32], width: int) -> pa.Array:
    digits = pc.utf8_lpad(pc.cast(pa.array(number), pa.string()), width, padding="0")
    return pc.binary_join_element_wise(pa.scalar(prefix), digits, "")


class PaymentWorld:
    """Customers and terminals of a seed and everything they will ever pay.

    Args:
        seed: the whole of the chance in it.
        customers: how many cards.
        terminals: how many shops; half as many as customers where None.
        payments_per_day: average of event time, fraud included.
        start: the first instant, aware; nothing is paid before.
        drift_at: from when on spending inflates and fraud changes its ways; None for never.
    """

    def __init__(
        self,
        seed: int,
        customers: int,
        terminals: int | None,
        payments_per_day: float,
        start: datetime,
        drift_at: datetime | None = None,
        *,
        population: Population | None = None,
    ) -> None:
        self.seed = seed
        self.customers = customers
        self.terminals = terminals or max(1, customers // 2)
        self.payments_per_day = payments_per_day
        self.start = start
        self.start_us = to_us(start)
        self.drift_at = drift_at
        self.population = population or populate(seed, customers, self.terminals)
        self._episodes = EpisodeSource(
            seed,
            self.start_us,
            payments_per_day,
            self.population,
            to_us(drift_at) if drift_at else None,
            INFLATION,
        )
        blocks_a_day = 2 ** int(np.ceil(np.log2(max(1.0, payments_per_day / _BLOCK_PAYMENTS))))
        self._block_us = DAY_US // min(blocks_a_day, _MOST_BLOCKS_A_DAY)
        self._blocks: dict[int, Payments] = {}
        self._labels: dict[int, Labels] = {}
        self._extra: dict[int, ExtraPayments] = {}
        self._compromises: dict[int, Compromises] = {}

    def with_drift(self, drift_at: datetime | None) -> "PaymentWorld":
        """The same world with its drift at another time; payments before it stay the same."""
        world = PaymentWorld(
            self.seed,
            self.customers,
            self.terminals,
            self.payments_per_day,
            self.start,
            drift_at,
            population=self.population,
        )
        if self.drift_at is None and drift_at is not None:
            # A live run that drifts must not stop to draw ten days of labels again.
            settled = (to_us(drift_at) - self.start_us) // self._block_us
            world._blocks = {i: each for i, each in self._blocks.items() if i < settled}
            world._labels = {i: each for i, each in self._labels.items() if i < settled}
        return world

    def payments(self, from_us: int, until_us: int) -> Payments:
        """Payments with event time in [from_us, until_us), in order of time."""
        first, last = self._block_span(from_us, until_us)
        blocks = [self._block(index) for index in range(first, last)]
        if not blocks:
            return _empty()
        low = int(np.searchsorted(blocks[0].event_time_us, from_us))
        blocks[0] = blocks[0].take(slice(low, None))
        high = int(np.searchsorted(blocks[-1].event_time_us, until_us))
        blocks[-1] = blocks[-1].take(slice(None, high))
        return _joined(blocks)

    def labels(self, known_from_us: int, known_until_us: int) -> Labels:
        """Label messages that become known in [known_from_us, known_until_us), in that order.

        They include those of payments before `known_from_us`, never of any before the start.
        """
        first, last = self._block_span(known_from_us - LONGEST_DELAY_US, known_until_us)
        found = [
            self._block_labels(index).between(known_from_us, known_until_us)
            for index in range(first, last)
        ]
        for index in [each for each in self._labels if each < first]:
            del self._labels[index]
        return Labels.joined(found)

    def _block_span(self, from_us: int, until_us: int) -> tuple[int, int]:
        first = max(0, (from_us - self.start_us) // self._block_us)
        last = max(0, -((self.start_us - until_us) // self._block_us))
        return first, last

    def _block(self, index: int) -> Payments:
        if index not in self._blocks:
            while len(self._blocks) >= 4:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[index] = self._drawn(index)
        return self._blocks[index]

    def _block_labels(self, index: int) -> Labels:
        if index not in self._labels:
            block = self._block(index)
            rng = np.random.default_rng([self.seed, 3, index])
            self._labels[index] = labels_of(block, rng)
        return self._labels[index]

    def _drawn(self, index: int) -> Payments:
        from_us = self.start_us + index * self._block_us
        until_us = from_us + self._block_us
        rng = np.random.default_rng([self.seed, 2, index])
        expected = (
            self.payments_per_day
            * (1.0 - EXTRA_SHARE)
            * (average_days(until_us) - average_days(from_us))
        )
        count = int(rng.poisson(expected))
        time_us = times_between(rng.random(count), from_us, until_us)
        customer = self.population.customers_for(rng.random(count))
        terminal = self.population.terminals_for(customer, rng.random(count))
        amount = self.population.mean_amount_minor[customer] * rng.gamma(2.0, 0.5, count)
        large = rng.random(count)
        amount *= np.where(large < _LARGE_PURCHASES, 2.5 + 300.0 * large, 1.0)
        amount *= self._episodes.level(time_us)
        compromised = self._compromised(terminal, time_us, from_us, until_us)
        stolen = compromised & (rng.random(count) < FRAUD_AT_COMPROMISED)
        pattern = np.where(stolen, Pattern.COMPROMISED_TERMINAL, Pattern.GENUINE).astype(np.int8)

        extra = self._extra_between(from_us, until_us)
        time_us = np.concatenate([time_us, *(part.event_time_us for part in extra)])
        order = np.argsort(time_us, kind="stable")
        amount_minor = np.maximum(np.rint(amount), 10).astype(np.int64)
        return Payments(
            number=index * _NUMBERS_PER_BLOCK + np.arange(len(time_us), dtype=np.int64),
            event_time_us=time_us[order],
            customer=np.concatenate([customer, *(part.customer for part in extra)])[order],
            terminal=np.concatenate([terminal, *(part.terminal for part in extra)])[order],
            amount_minor=np.concatenate([amount_minor, *(p.amount_minor for p in extra)])[order],
            pattern=np.concatenate([pattern, *(part.pattern for part in extra)])[order],
        )

    def _days(self, from_us: int, until_us: int, longest_days: int) -> range:
        """Days whose episodes may reach into a span."""
        return range(
            (from_us - self.start_us) // DAY_US - longest_days,
            (until_us - 1 - self.start_us) // DAY_US + 1,
        )

    def _extra_between(self, from_us: int, until_us: int) -> list[ExtraPayments]:
        days = self._days(from_us, until_us, LONGEST_BURST_DAYS)
        for day in [each for each in self._extra if each not in days]:
            del self._extra[day]
        for day in days:
            if day not in self._extra:
                self._extra[day] = self._episodes.extra_payments(day)
        return [self._extra[day].between(from_us, until_us) for day in days]

    def _compromised(
        self, terminal: NDArray[np.int32], time_us: NDArray[np.int64], from_us: int, until_us: int
    ) -> NDArray[np.bool_]:
        """Whether each payment is made at a terminal while it is in wrong hands."""
        days = self._days(from_us, until_us, LONGEST_COMPROMISE_DAYS)
        for day in [each for each in self._compromises if each not in days]:
            del self._compromises[day]
        for day in days:
            if day not in self._compromises:
                self._compromises[day] = self._episodes.compromises(day)
        found = [self._compromises[day] for day in days]
        begins_us = np.concatenate([each.from_us for each in found])
        ends_us = np.concatenate([each.until_us for each in found])
        terminals = np.concatenate([each.terminal for each in found])
        active = np.flatnonzero((ends_us > from_us) & (begins_us < until_us))
        # A terminal taken twice counts from its earlier hour, so a later drift cannot undo it.
        active = active[np.argsort(begins_us[active], kind="stable")]
        unique, first = np.unique(terminals[active], return_index=True)
        if not len(unique):
            return np.zeros(len(terminal), np.bool_)
        active = active[first]
        slot = np.minimum(np.searchsorted(unique, terminal), len(unique) - 1)
        begun = time_us >= begins_us[active][slot]
        return np.logical_and(begun & (time_us < ends_us[active][slot]), unique[slot] == terminal)


def _joined(parts: list[Payments]) -> Payments:
    if len(parts) == 1:
        return parts[0]
    return Payments(
        np.concatenate([part.number for part in parts]),
        np.concatenate([part.event_time_us for part in parts]),
        np.concatenate([part.customer for part in parts]),
        np.concatenate([part.terminal for part in parts]),
        np.concatenate([part.amount_minor for part in parts]),
        np.concatenate([part.pattern for part in parts]),
    )


def _empty() -> Payments:
    return Payments(
        np.empty(0, np.int64),
        np.empty(0, np.int64),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.empty(0, np.int64),
        np.empty(0, np.int8),
    )

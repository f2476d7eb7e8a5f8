"""The world of payments: determinism, rhythm, fraud patterns, labels and drift."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from penstock.generator.episodes import Pattern
from penstock.generator.labels import LONGEST_DELAY_US, SHORTEST_DELAY_US, Labels
from penstock.generator.payments import Payments, PaymentWorld, to_us
from penstock.generator.rhythm import DAY_US, HOUR_US, WEEK_US, average_days, times_between

START = datetime(2026, 1, 5, tzinfo=UTC)
START_US = to_us(START)
DAYS = 56
DRIFT_DAY = 28


def world(seed: int = 1, drift_day: float | None = None, per_day: float = 6000.0) -> PaymentWorld:
    drift_at = None if drift_day is None else START + timedelta(days=drift_day)
    return PaymentWorld(seed, 3000, None, per_day, START, drift_at)


def days(count: float) -> int:
    return START_US + int(count * DAY_US)


@pytest.fixture(scope="module")
def calm() -> Payments:
    return world().payments(START_US, days(DAYS))


@pytest.fixture(scope="module")
def drifted() -> Payments:
    return world(drift_day=DRIFT_DAY).payments(START_US, days(DAYS))


@pytest.fixture(scope="module")
def labels() -> Labels:
    """Every label about the first six weeks, and some about later ones."""
    return world().labels(START_US, days(DAYS))


def test_same_seed_gives_the_same_payments_and_another_seed_others(calm: Payments) -> None:
    again = world().payments(START_US, days(DAYS))
    assert again.table().equals(calm.table())
    other = world(seed=2).payments(START_US, days(DAYS))
    assert not np.array_equal(other.amount_minor[:1000], calm.amount_minor[:1000])


@pytest.mark.parametrize("per_day", [700.0, 50_000.0])
def test_payments_do_not_depend_on_the_spans_they_are_asked_for(per_day: float) -> None:
    whole = world(per_day=per_day).payments(days(3.2), days(6.9)).table().to_pylist()
    pieces = []
    source = world(per_day=per_day)
    for from_us in range(days(3.2), days(6.9), 7 * HOUR_US):
        upto_us = min(from_us + 7 * HOUR_US, days(6.9))
        pieces += source.payments(from_us, upto_us).table().to_pylist()
    assert len(whole) > 1000
    assert pieces == whole


def test_labels_do_not_depend_on_the_spans_they_are_asked_for(labels: Labels) -> None:
    source = world()
    pieces = [
        source.labels(from_us, from_us + 11 * HOUR_US)
        for from_us in range(days(20), days(20) + 88 * HOUR_US, 11 * HOUR_US)
    ]
    expected = labels.between(days(20), days(20) + 88 * HOUR_US)
    assert len(expected) > 100
    assert Labels.joined(pieces).table().equals(expected.table())


def test_payments_come_in_order_of_time_and_of_their_ids(calm: Payments) -> None:
    table = calm.table()
    ids = table["event_id"].to_pylist()
    assert (np.diff(calm.event_time_us) >= 0).all()
    assert ids == sorted(set(ids))
    assert calm.event_time_us[0] >= START_US
    assert calm.event_time_us[-1] < days(DAYS)


def test_money_is_a_positive_integer_of_minor_units(calm: Payments, drifted: Payments) -> None:
    for payments in (calm, drifted):
        assert payments.amount_minor.dtype == np.int64
        assert payments.amount_minor.min() > 0
        assert 2000 < np.median(payments.amount_minor) < 8000


def test_rate_and_share_of_fraud_are_as_asked(calm: Payments) -> None:
    assert len(calm) / DAYS == pytest.approx(6000, rel=0.02)
    assert 0.010 < calm.is_fraud.mean() < 0.015


def test_nights_are_quieter_than_evenings_and_sundays_than_saturdays(calm: Payments) -> None:
    genuine = calm.event_time_us[~calm.is_fraud] - START_US
    by_hour = np.bincount(genuine % DAY_US // HOUR_US, minlength=24)
    by_weekday = np.bincount(genuine // DAY_US % 7, minlength=7)
    assert by_hour[3] * 8 < by_hour[18]
    assert by_hour[:7].sum() < 0.1 * len(genuine)
    assert by_weekday[6] * 1.3 < by_weekday[5]


def test_times_follow_the_weekly_curve_exactly() -> None:
    assert average_days(WEEK_US * 10) - average_days(WEEK_US * 3) == pytest.approx(49)
    at = times_between(np.linspace(0, 1, 10_000, endpoint=False), START_US, START_US + WEEK_US)
    middle = START_US + int(2.3 * DAY_US)
    expected = (average_days(middle) - average_days(START_US)) / 7
    assert (at < middle).mean() == pytest.approx(expected, abs=2e-4)


def test_customers_keep_to_terminals_near_them_and_to_their_own_amounts(calm: Payments) -> None:
    genuine = calm.take(np.flatnonzero(~calm.is_fraud))
    pairs = np.unique(np.stack([genuine.customer, genuine.terminal]), axis=1)
    terminals_each = np.bincount(pairs[0])
    assert np.median(terminals_each) < 40  # of 1500
    usual = world().population.mean_amount_minor
    paid = np.bincount(genuine.customer, genuine.amount_minor) / np.bincount(genuine.customer)
    assert np.corrcoef(paid, usual[: len(paid)])[0, 1] > 0.85


def test_each_fraud_pattern_has_its_signature(drifted: Payments) -> None:
    of = {p: drifted.take(np.flatnonzero(drifted.pattern == p)) for p in Pattern}
    assert min(len(each) for each in of.values()) > 50
    assert np.median(of[Pattern.CARD_NOT_PRESENT].amount_minor) > 22_000
    assert of[Pattern.CARD_TESTING].amount_minor.max() <= 400
    assert ((of[Pattern.CARD_TESTING].event_time_us % DAY_US) < 6 * HOUR_US).all()
    usual = world().population.mean_amount_minor
    leaked = of[Pattern.LEAKED_CARD]
    assert (leaked.amount_minor > 1.9 * usual[leaked.customer]).all()
    # A compromised terminal: nearly all that is paid there for two weeks or more.
    taken = of[Pattern.COMPROMISED_TERMINAL]
    worst = np.bincount(taken.terminal).argmax()
    spell = taken.event_time_us[taken.terminal == worst]
    assert spell[-1] - spell[0] > 10 * DAY_US
    there = (drifted.terminal == worst) & (drifted.event_time_us >= spell[0])
    there &= drifted.event_time_us <= spell[-1]
    assert drifted.is_fraud[there].mean() > 0.5
    takeover = of[Pattern.TAKEOVER]
    assert np.bincount(takeover.customer).max() >= 10
    assert takeover.event_time_us[0] >= days(DRIFT_DAY)


def test_drift_changes_nothing_before_it(calm: Payments, drifted: Payments) -> None:
    before = int(np.searchsorted(calm.event_time_us, days(DRIFT_DAY)))
    assert before > 100_000
    head = slice(None, before)
    assert drifted.take(head).table().equals(calm.take(head).table())


def test_drift_in_the_middle_of_a_run_keeps_numbers_and_labels_of_what_was_paid() -> None:
    at_us = days(4.37)
    source = world()
    source.labels(START_US, at_us)
    changed = source.with_drift(START + timedelta(microseconds=at_us - START_US))
    fresh = world(drift_day=4.37)
    assert (
        changed.payments(START_US, days(8))
        .table()
        .equals(fresh.payments(START_US, days(8)).table())
    )
    found = changed.labels(START_US, days(8))
    assert found.table().equals(fresh.labels(START_US, days(8)).table())
    calm_labels = world().labels(START_US, days(8))
    known = found.event_time_us < at_us
    expected = calm_labels.event_time_us < at_us
    assert known.sum() > 200
    assert (
        found.take(np.flatnonzero(known))
        .table()
        .equals(calm_labels.take(np.flatnonzero(expected)).table())
    )


def test_drift_inflates_spending_and_turns_fraud_to_ordinary_amounts(
    calm: Payments, drifted: Payments
) -> None:
    after = drifted.take(np.flatnonzero(drifted.event_time_us >= days(DRIFT_DAY + 14)))
    same_days = calm.take(np.flatnonzero(calm.event_time_us >= days(DRIFT_DAY + 14)))
    genuine = np.median(after.amount_minor[~after.is_fraud])
    assert genuine / np.median(same_days.amount_minor[~same_days.is_fraud]) > 1.4
    assert 0.010 < after.is_fraud.mean() < 0.017
    takeovers = (after.pattern == Pattern.TAKEOVER).sum()
    assert takeovers > 0.4 * after.is_fraud.sum()
    large = (same_days.amount_minor > 22_000)[same_days.is_fraud].mean()
    assert (after.amount_minor > 22_000)[after.is_fraud].mean() < large / 3


def test_every_fraud_gets_a_label_and_most_genuine_payments_none(
    calm: Payments, labels: Labels
) -> None:
    known = calm.event_time_us < days(DAYS) - LONGEST_DELAY_US
    frauds = set(calm.number[known & calm.is_fraud].tolist())
    assert frauds <= set(labels.number[labels.is_fraud].tolist())
    honest = set(calm.number[known & ~calm.is_fraud].tolist())
    labelled = honest & set(labels.number.tolist())
    assert 0.005 < len(labelled) / len(honest) < 0.03


def test_label_delays_differ_by_pattern_and_few_exceed_a_week(
    calm: Payments, labels: Labels
) -> None:
    delay_us = labels.known_time_us - labels.event_time_us
    assert delay_us.min() >= SHORTEST_DELAY_US
    assert delay_us.max() <= LONGEST_DELAY_US
    assert 0.005 < (delay_us > 7 * DAY_US).mean() < 0.06
    pattern = dict(zip(calm.number.tolist(), calm.pattern.tolist(), strict=True))
    median_days = {}
    for each in (Pattern.CARD_TESTING, Pattern.CARD_NOT_PRESENT, Pattern.COMPROMISED_TERMINAL):
        mine = np.array([pattern[n] == each for n in labels.number.tolist()]) & labels.is_fraud
        median_days[each] = np.median(delay_us[mine]) / DAY_US
    assert median_days[Pattern.CARD_TESTING] < 1
    assert 1 < median_days[Pattern.CARD_NOT_PRESENT] < median_days[Pattern.COMPROMISED_TERMINAL]
    assert median_days[Pattern.COMPROMISED_TERMINAL] < 7


def test_some_labels_are_corrected_in_both_directions_and_end_as_the_truth(
    calm: Payments, labels: Labels
) -> None:
    verdicts: dict[int, list[bool]] = {}
    for number, says in zip(labels.number.tolist(), labels.is_fraud.tolist(), strict=True):
        verdicts.setdefault(number, []).append(says)
    changed = {n: says for n, says in verdicts.items() if len(set(says)) > 1}
    assert len(changed) > 0.01 * len(calm) * 0.8  # the last days' are not all known yet
    assert sum(says == [True, False] for says in changed.values()) > 100
    assert sum(says == [False, True] for says in changed.values()) > 100
    truth = dict(zip(calm.number.tolist(), calm.is_fraud.tolist(), strict=True))
    old = set(calm.number[calm.event_time_us < days(DAYS) - LONGEST_DELAY_US].tolist())
    assert all(says[-1] == truth[n] for n, says in verdicts.items() if n in old)


def test_labels_come_in_the_order_they_become_known_and_reach_back(labels: Labels) -> None:
    assert (np.diff(labels.known_time_us) >= 0).all()
    part = world().labels(days(30), days(31))
    assert (part.event_time_us < days(30)).sum() > 50
    assert part.known_time_us.min() >= days(30)
    assert part.known_time_us.max() < days(31)


def test_nothing_is_paid_before_the_start() -> None:
    assert len(world().payments(days(-20), days(-1))) == 0
    assert len(world().labels(days(-20), START_US)) == 0
    assert world().labels(START_US, days(2)).event_time_us.min() >= START_US


def test_a_single_customer_and_terminal_still_pay() -> None:
    lonely = PaymentWorld(1, 1, 1, 50.0, START).payments(START_US, days(20))
    assert len(lonely) > 500
    assert set(lonely.customer.tolist()) == {0}
    assert set(lonely.terminal.tolist()) == {0}

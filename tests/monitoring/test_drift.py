import numpy as np
import pytest

from features.errors import BundleError
from kernels import histogram
from monitoring.drift import ColumnReference, DriftWatch, Reference, Watched, beyond_chance, psi

DAY_US = 86_400_000_000
ROWS_A_DAY = 2000
MONDAY_US = 1_600_041_600_000_000  # 2020-09-14T00:00Z
WATCHED = Watched("things", "00ff", "3")
COLUMNS = ["amount", "is_weekend", "is_night", "count"]


def live(day, rng, amount_factor=1.0):
    """A day of rows with a daily and a weekly rhythm: vectors [n, 4], scores [n], times [n]."""
    weekend = day % 7 >= 5
    rows = ROWS_A_DAY // 2 if weekend else ROWS_A_DAY
    hour = np.clip(rng.normal(14, 5, rows), 0, 23.99)
    times = np.sort(MONDAY_US + day * DAY_US + (hour * 3.6e9).astype(np.int64))
    night = (times % DAY_US) < 7 * 3_600_000_000
    amount = rng.lognormal(3, 1, rows) * amount_factor * (2 if weekend else 1)
    vectors = np.column_stack(
        [amount, np.full(rows, float(weekend)), night, rng.poisson(1 if weekend else 2, rows) + 1.0]
    )
    return vectors, 1 / (1 + np.exp(-(amount / 50 - 3))), times


def reference_of(days, rng):
    parts = [live(day, rng) for day in days]
    values = np.column_stack(
        [np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])]
    )
    edges = [histogram.quantile_edges(values[:, j]) for j in range(values.shape[1])]
    packed, n_edges = histogram.pad_edges(edges)
    counts = np.zeros((len(edges), packed.shape[1] + 1), dtype=np.int64)
    histogram.fold(values, packed, n_edges, counts)
    return Reference(
        rows=len(values),
        columns={
            name: ColumnReference(edges[j].tolist(), counts[j, : n_edges[j] + 1].tolist())
            for j, name in enumerate([*COLUMNS, "score"])
        },
    )


@pytest.fixture(scope="module")
def reference():
    return reference_of(range(28), np.random.default_rng(1))


def run(watch, days, rng, **changes):
    """Feeds days in batches of 50 rows; the first event time of an alarm, or None."""
    for day in days:
        vectors, scores, times = live(day, rng, **changes)
        for i in range(0, len(scores), 50):
            part = slice(i, i + 50)
            watch.fold(vectors[part], scores[part], times[part])
            if i % 500 == 0 and watch.event(watch.measure()):
                return times[i]
    return None


@pytest.mark.parametrize("start", range(7))
def test_an_unchanged_stream_raises_no_alarm_whatever_weekday_it_starts_on(reference, start):
    watch = DriftWatch(reference, COLUMNS, WATCHED)
    rng = np.random.default_rng(start)
    assert run(watch, range(28 + start, 56 + start), rng) is None
    assert watch.measure()
    assert max(found.psi for found in watch.measure()) < watch.threshold / 4


@pytest.mark.parametrize("switch", range(35, 42))
def test_a_true_drift_is_found_within_days(reference, switch):
    watch = DriftWatch(reference, COLUMNS, WATCHED)
    rng = np.random.default_rng(switch)
    assert run(watch, range(28, switch), rng) is None
    found_us = run(watch, range(switch, switch + 14), rng, amount_factor=3.0)
    assert found_us is not None
    assert found_us - (MONDAY_US + switch * DAY_US) < 5 * DAY_US
    event = watch.event(watch.measure())
    assert {"amount", "score"} <= {column["name"] for column in event["columns"]}
    assert "is_weekend" not in {column["name"] for column in event["columns"]}
    assert event["model_version"] == "3"
    assert event["first_seen"]["event_time"].startswith("2020-10-")


def test_a_drift_is_announced_once_until_the_cool_down_ends(reference):
    rng = np.random.default_rng(9)
    watch = DriftWatch(reference, COLUMNS, WATCHED)
    assert run(watch, range(28, 40), rng, amount_factor=4.0)
    watch.announced()
    assert run(watch, range(40, 50), rng, amount_factor=4.0) is None
    impatient = DriftWatch(reference, COLUMNS, WATCHED, cooldown_s=0)
    assert run(impatient, range(28, 40), rng, amount_factor=4.0)
    impatient.announced()
    assert run(impatient, range(40, 42), rng, amount_factor=4.0)


def test_nothing_is_measured_before_a_week_or_with_few_rows(reference):
    rng = np.random.default_rng(4)
    watch = DriftWatch(reference, COLUMNS, WATCHED)
    for day in range(28, 34):
        watch.fold(*live(day, rng, amount_factor=10.0))
        assert watch.measure() == []
    demanding = DriftWatch(reference, COLUMNS, WATCHED, minimum_rows=100_000)
    assert run(demanding, range(28, 50), rng, amount_factor=10.0) is None


def test_the_window_forgets_what_is_older_than_a_week(reference):
    rng = np.random.default_rng(6)
    watch = DriftWatch(reference, COLUMNS, WATCHED)
    for day in range(28, 42):
        watch.fold(*live(day, rng, amount_factor=10.0))
    assert watch.rows <= 6 * ROWS_A_DAY
    for day in range(42, 50):
        watch.fold(*live(day, rng))
    assert max(found.psi for found in watch.measure()) < watch.threshold / 4


def test_rows_out_of_order_count_in_their_own_hour(reference):
    rng = np.random.default_rng(8)
    days = [live(day, rng) for day in range(28, 37)]
    ordered, shuffled = (DriftWatch(reference, COLUMNS, WATCHED) for _ in range(2))
    for vectors, scores, times in days:
        ordered.fold(vectors, scores, times)
        order = rng.permutation(len(scores))
        shuffled.fold(vectors[order], scores[order], times[order])
    assert ordered.measure() == shuffled.measure()


def test_rows_that_arrive_at_once_count_as_if_they_came_in_time(reference):
    rng = np.random.default_rng(8)
    days = [live(day, rng) for day in range(28, 48)]
    in_time, at_once = (DriftWatch(reference, COLUMNS, WATCHED) for _ in range(2))
    for day in days:
        in_time.fold(*day)
    at_once.fold(*(np.concatenate(parts) for parts in zip(*days, strict=True)))
    assert in_time.measure() == at_once.measure() != []


def test_a_gap_longer_than_the_window_starts_it_anew(reference):
    rng = np.random.default_rng(8)
    watch = DriftWatch(reference, COLUMNS, WATCHED)
    for day in (*range(28, 38), 60):
        watch.fold(*live(day, rng))
    assert watch.rows <= ROWS_A_DAY
    assert watch.measure() == []


def test_psi_equals_the_hand_computed_value_and_chance_is_taken_off():
    equal = np.array([500, 300, 200])
    shifted = np.array([300, 300, 400])
    by_hand = (0.3 - 0.5) * np.log(0.3 / 0.5) + (0.4 - 0.2) * np.log(0.4 / 0.2)
    assert psi(equal, equal) == 0
    assert psi(shifted, equal) == pytest.approx(by_hand, rel=0.01)
    assert beyond_chance(equal, equal) == 0
    assert 0 < beyond_chance(shifted, equal) < psi(shifted, equal)
    assert beyond_chance(np.array([10]), np.array([20])) == 0


def test_samples_of_one_distribution_stay_at_zero():
    rng = np.random.default_rng(0)
    shares = np.full(10, 0.1)
    found = [
        beyond_chance(rng.multinomial(1000, shares), rng.multinomial(5000, shares))
        for _ in range(2000)
    ]
    assert max(found) < 0.005


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda columns: columns.pop("count"), "no column 'count'"),
        (lambda columns: columns["amount"].counts.pop(), "9 cut points and 9 counts"),
        (lambda columns: columns["amount"].edges.reverse(), "strictly ascending"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(break_it, said):
    reference = reference_of(range(2), np.random.default_rng(1))
    break_it(reference.columns)
    with pytest.raises(BundleError, match=said):
        DriftWatch(reference, COLUMNS, WATCHED)

"""The point-in-time training set."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features import lake
from features.plan import Plan
from tests.training.history import KNOWN_AFTER, START, append
from training.dataset import (
    Dataset,
    build,
    days_of,
    labels_of,
    lake_rows,
    latest_event_time,
    matrix,
    read_part,
)
from training.errors import TrainingError

DAY = timedelta(days=1)
END = START + 35 * DAY


def build_here(plan: Plan, folder: Path, **changes: object) -> Dataset:
    options = {"as_of": END, "train_days": 7, "validation_days": 7} | changes
    return build(plan, folder, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("history")
def test_parts_lie_before_the_label_horizon_with_a_gap_between_them(
    plan: Plan, tmp_path: Path
) -> None:
    built = build_here(plan, tmp_path)
    train, validation = (days_of(read_part(tmp_path, part)) for part in ("train", "validation"))
    first_day = int(START.timestamp()) // 86_400
    assert set(train - first_day) == set(range(7, 14))
    assert set(validation - first_day) == set(range(21, 28))
    assert built.split.horizon == END - KNOWN_AFTER
    assert built.rows == {"train": train.size, "validation": validation.size}


@pytest.mark.usefixtures("history")
def test_rows_are_the_feature_table_rows_with_their_own_labels(plan: Plan, tmp_path: Path) -> None:
    build_here(plan, tmp_path)
    part = read_part(tmp_path, "validation")
    table = lake.read("feature_backfill").to_pandas().set_index("event_id")
    expected = table.loc[part["event_id"].to_pylist(), plan.column_names].to_numpy(np.float32)
    assert np.array_equal(matrix(part, plan.column_names), expected)
    positive_ids = set(lake.read("labels")["event_id"].to_pylist())
    expected_labels = [event_id in positive_ids for event_id in part["event_id"].to_pylist()]
    assert labels_of(part).tolist() == expected_labels
    assert 0 < sum(expected_labels) < len(expected_labels)


@pytest.mark.usefixtures("own_history")
def test_only_labels_known_at_as_of_count_and_the_latest_one_wins(
    plan: Plan, tmp_path: Path
) -> None:
    build_here(plan, tmp_path / "before")
    part = read_part(tmp_path / "before", "validation")
    label_of = dict(zip(part["event_id"].to_pylist(), labels_of(part).tolist(), strict=True))
    overturned = next(name for name, label in label_of.items() if label == 1)
    confirmed_late = next(name for name, label in label_of.items() if label == 0)
    times = dict(
        zip(
            part["event_id"].to_pylist(),
            part["event_time"].cast(pa.int64()).to_pylist(),
            strict=True,
        )
    )
    assert plan.label is not None
    late_us = int((END + timedelta(hours=1)).timestamp()) * 1_000_000
    append(
        plan,
        "labels",
        2,
        {
            "event_id": [overturned, confirmed_late],
            "event_time": [times[overturned], times[confirmed_late]],
            "known_time": [int((END - timedelta(hours=1)).timestamp()) * 1_000_000, late_us],
            "origin_offset": [10**6, 10**6 + 1],
            plan.label.field: [False, True],
            "event_date": pa.array([times[overturned] // 86_400_000_000] * 2, pa.int32()).cast(
                pa.date32()
            ),
        },
    )
    build_here(plan, tmp_path / "after")
    part = read_part(tmp_path / "after", "validation")
    after = dict(zip(part["event_id"].to_pylist(), labels_of(part).tolist(), strict=True))
    assert after == label_of | {overturned: 0}
    # Now is later than any label of the lake, whatever the broker's clock said.
    build_here(plan, tmp_path / "now", every_label=True)
    part = read_part(tmp_path / "now", "validation")
    now = dict(zip(part["event_id"].to_pylist(), labels_of(part).tolist(), strict=True))
    assert now == label_of | {overturned: 0, confirmed_late: 1}


@pytest.mark.usefixtures("history")
def test_fingerprint_is_the_same_for_the_same_set_and_another_for_another(
    plan: Plan, tmp_path: Path
) -> None:
    first = build_here(plan, tmp_path / "a").dataset_fingerprint
    assert build_here(plan, tmp_path / "b").dataset_fingerprint == first
    assert build_here(plan, tmp_path / "c", train_days=6).dataset_fingerprint != first

    def changed(plan: Plan, after: object, until: object) -> pa.Table:
        rows = lake_rows()(plan, after, until)  # type: ignore[arg-type]
        place = rows.schema.get_field_index(plan.column_names[3])
        values = rows[place].to_numpy().copy()
        values[values.size // 2 :] += 1e-9
        return rows.set_column(place, plan.column_names[3], pa.array(values))

    assert build_here(plan, tmp_path / "d", source=changed).dataset_fingerprint != first


@pytest.mark.usefixtures("history")
def test_validation_rows_carry_the_fields_a_measure_asks_for(plan: Plan, tmp_path: Path) -> None:
    build_here(plan, tmp_path, carry=("customer_id",))
    part = read_part(tmp_path, "validation")
    events = lake.read("events", columns=["event_id", "customer_id"]).to_pandas()
    owner = events.set_index("event_id")["customer_id"]
    assert part["customer_id"].to_pylist() == owner.loc[part["event_id"].to_pylist()].tolist()


@pytest.mark.usefixtures("history")
def test_latest_event_time_is_that_of_the_feature_table(plan: Plan) -> None:
    newest = max(lake.read("feature_backfill", columns=["event_time"])["event_time"].to_pylist())
    assert latest_event_time(plan) == newest


@pytest.mark.usefixtures("history")
def test_a_part_without_rows_names_its_edges(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train part .* 2024-12-.* has no rows"):
        build_here(plan, tmp_path, as_of=START + 21 * DAY)


@pytest.mark.usefixtures("history")
def test_a_value_that_is_not_a_number_names_its_column(plan: Plan, tmp_path: Path) -> None:
    broken = plan.column_names[2]

    def rows(plan: Plan, after: object, until: object) -> pa.Table:
        found = lake_rows()(plan, after, until)  # type: ignore[arg-type]
        place = found.schema.get_field_index(broken)
        return found.set_column(place, broken, pa.nulls(found.num_rows, pa.float64()))

    with pytest.raises(TrainingError, match=f"column '{broken}'"):
        build_here(plan, tmp_path, source=rows)

"""A live stream after bootstrap gives what it would give had it folded the history itself."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features import lake
from features.errors import PenstockError
from features.fold import Fold
from features.plan import Plan
from features.settings import settings
from features.wire import DUPLICATE, partition_of
from streaming.bootstrap import bootstrap
from streaming.snapshots import SnapshotStore
from tests.features.rows import batch
from tests.streaming.chain import plan_of

START_US = 1767571200000000
HOUR_US = 3_600_000_000


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PENSTOCK_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("PENSTOCK_SNAPSHOT_URI", str(tmp_path / "snapshots"))
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def made_sales(rng: random.Random, first: int, last: int) -> list[dict[str, Any]]:
    """Sales ten minutes apart over several dates; every ninth comes a second time."""
    sales = []
    for n in range(first, last):
        sale = {
            "event_id": f"s{n:04}",
            "event_time_us": START_US + n * HOUR_US // 6 + rng.randrange(1_000_000),
            "person_id": f"p{n % 5}",
            "shop_id": f"shop{n % 3}",
            "price": rng.randrange(10_000),
        }
        sales += [sale, dict(sale)] if n % 9 == 0 else [sale]
    return sales


def append(plan: Plan, table: str, rows: list[dict[str, Any]]) -> None:
    """Imported history, in no order at all."""
    random.Random(5).shuffle(rows)
    schema = lake.schema(table, plan)
    times = {"event_time", "known_time", "valid_from"}
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in schema.names}
    for name in times & columns.keys():
        columns[name] = np.array(columns[name], np.int64).astype("datetime64[us]")
    if "event_date" in columns:
        columns["event_date"] = columns["event_time"].astype("datetime64[D]")
    arrays = [
        pa.array(columns[f.name]).cast(f.type)
        if f.name in times
        else pa.array(columns[f.name], f.type)
        for f in schema
    ]
    lake.append(table, pa.Table.from_arrays(arrays, schema=schema))


def write_history(plan: Plan, sales: list[dict[str, Any]], labels: list[dict[str, Any]]) -> None:
    events = [
        sale
        | {"origin_partition": -1, "origin_offset": i, "verdict": "folded"}
        | {"event_time": sale["event_time_us"]}
        for i, sale in enumerate(sales)
    ]
    known = [
        label
        | {"origin_partition": -1, "origin_offset": i, "event_time": label["event_time_us"]}
        | {"refunded": bool(label["refunded"])}
        for i, label in enumerate(labels)
    ]
    append(plan, "events", events)
    append(plan, "labels", known)


def in_arrival_order(
    sales: list[dict[str, Any]], labels: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    rows = [(sale["event_time_us"], 1, sale["event_id"], sale) for sale in sales]
    rows += [(label["known_time"], 0, label["event_id"], label) for label in labels]
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:3])]


def through(plan: Plan, rows: list[dict[str, Any]], folds: list[Fold]) -> list[dict[str, Any]]:
    """Rows through both stages' folds of one partition; labels enter the second log."""
    first, second = folds
    in_first = [row for row in rows if not row.get("kind")]
    passed = iter(first.fold_history(batch(plan, in_first)).to_pylist())
    in_second = [row if row.get("kind") else next(passed) for row in rows]
    return second.fold_history(batch(plan, in_second)).to_pylist()


def test_live_after_bootstrap_equals_all_live() -> None:
    plan = plan_of("t_bootstrap")
    rng = random.Random(3)
    sales = made_sales(rng, 0, 400)
    labels = [
        {"event_id": s["event_id"], "event_time_us": s["event_time_us"], "shop_id": s["shop_id"]}
        | {"kind": 1, "refunded": 1, "known_time": s["event_time_us"] + rng.randrange(HOUR_US)}
        for s in sales[::3]
    ]
    write_history(plan, sales, labels)
    result = bootstrap(plan)
    assert (result["events"], result["labels"]) == (len(sales), len(labels))
    assert result["keys"] == {"person": 5, "shop": 3}
    # The first live sale repeats the last one of history.
    live = [sales[-1], *made_sales(rng, 400, 440)]
    expected_folds = [Fold(plan, 0), Fold(plan, 1)]
    through(plan, in_arrival_order(sales, labels), expected_folds)
    expected = through(plan, live, expected_folds)
    assert expected[0]["verdict"] == DUPLICATE
    got = through_snapshots(plan, live)
    columns = [c for stage in plan.stages for c in stage.columns]
    for one, other in zip(got, expected, strict=True):
        assert one["verdict"] == other["verdict"]
        assert [one[c] for c in columns] == [other[c] for c in columns]
    assert any(one["shop_refunded_rate_2h"] for one in got)


def through_snapshots(plan: Plan, live: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Live rows through the folds that bootstrap left for each partition of each stage."""
    out = live
    for stage in plan.stages:
        folds = []
        for partition in range(plan.partitions):
            fold = Fold(plan, stage.index)
            store = SnapshotStore(plan, stage.index, partition)
            store.restore(fold)
            assert store.newest == -1
            folds.append(fold)
        passed = []
        for offset, row in enumerate(out):
            partition = partition_of(row[stage.key_column], plan.partitions)
            placed = row | {"position_seq": offset << 20}
            folded = folds[partition].fold(batch(plan, [placed]), partition, offset)
            passed += folded.to_pylist()
        out = passed
    return out


def test_versions_are_folded_when_they_hold_and_outlive_any_history() -> None:
    plan = plan_of("t_bootstrap_looks_up")
    sales = made_sales(random.Random(2), 0, 300)
    hours = [0, 7, 7, 49, 50.5, 10_000]
    leases = [
        {"valid_from": START_US + round(hour * HOUR_US), "shop_id": shop, "rate": n, "owner": "o"}
        for n, (hour, shop) in enumerate(
            [(hour, f"shop{s}") for hour in hours for s in range(4)], start=1
        )
    ]
    accounts = [
        {"valid_from": s["event_time_us"], "person_id": s["person_id"], "limit": n, "tier": "high"}
        for n, s in enumerate(sales[::40], start=1)
    ]
    write_history(plan, sales, [])
    for each, versions in zip(plan.references, (accounts, leases), strict=True):
        rows = [v | {"origin_partition": -1, "origin_offset": i} for i, v in enumerate(versions)]
        # What came from the topic is not history.
        rows.append(rows[0] | {"origin_partition": 2, "limit": 777, "rate": 777})
        append(plan, each.table, rows)
    result = bootstrap(plan)
    assert (result["events"], result["versions"]) == (len(sales), len(accounts) + len(leases))
    assert result["keys"] == {"person": 5, "shop": 3}
    # An id of history is still known, though a version holds only long after.
    live = [sales[-1], *made_sales(random.Random(2), 300, 330)]
    live.append(live[-1] | {"event_id": "s9", "event_time_us": START_US + 10_000 * HOUR_US})
    got = through_snapshots(plan, live)
    assert [row["verdict"] for row in got[:2]] == [DUPLICATE, 0]
    seen = [row for row in got if row["verdict"] != DUPLICATE]
    for row in seen:
        shop = int(row["shop_id"][-1])
        # Of two that hold from one hour on, the one that comes last.
        newest_at = max(
            n for n, hour in enumerate(hours) if START_US + hour * HOUR_US <= row["event_time_us"]
        )
        assert row["lease__rate"] == 4 * newest_at + shop + 1
        newest = [a for a in accounts if a["person_id"] == row["person_id"]]
        assert row["account__limit"] == (newest[-1]["limit"] if newest else None)
        assert row["account__tier"] == ("high" if newest else None)
    assert {row["lease__rate"] // 4 for row in seen} == {3, 4, 5}
    # A late look back sees what held then.
    [then] = through_snapshots(plan, [live[-1] | {"event_time_us": START_US + 8 * HOUR_US}])
    assert then["lease__rate"] == 4 * 2 + int(then["shop_id"][-1]) + 1


def test_versions_alone_are_folded() -> None:
    plan = plan_of("t_bootstrap_alone_looks_up")
    rows = [
        {"valid_from": START_US, "shop_id": f"shop{n}", "rate": n, "owner": "o"}
        | {"origin_partition": -1, "origin_offset": n}
        for n in range(5)
    ]
    append(plan, plan.references[1].table, rows)
    assert bootstrap(plan)["versions"] == 5


def test_bootstrap_can_be_repeated_until_the_stages_run() -> None:
    plan = plan_of("t_bootstrap_twice")
    sales = made_sales(random.Random(1), 0, 20)
    write_history(plan, sales, [])
    bootstrap(plan)
    assert bootstrap(plan)["events"] == len(sales)
    live, store = Fold(plan, 1), SnapshotStore(plan, 1, 2)
    live.offset = 7
    store.write(store.take(live))
    with pytest.raises(PenstockError, match="live stream"):
        bootstrap(plan)

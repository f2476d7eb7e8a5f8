"""The backfill looks references up as the stream did, in history and in the log."""

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from features import lake, quality
from features.backfill import backfill, fold_partition
from features.fold import Fold
from features.wire import KIND_EVENT, KIND_REFERENCE, row_schema
from streaming import lake_rows
from tests.features.chain import DAY_US, START_US, day_of
from tests.features.rows import batch
from tests.features.test_references import CLIENT, KIND, MERCHANT, PLAN, payment, version

pytestmark = pytest.mark.slow

Row = dict[str, Any]


def moved(row: Row, time_us: int) -> Row:
    return row | {"event_time_us": time_us, "watermark_us": None}


def drawn(seed: int) -> tuple[list[Row], list[Row]]:
    """History, and a log that goes on where it ends. No version of `kind` is ever sent."""
    draw = random.Random(seed)

    def event(number: int, time_us: int) -> Row:
        at = {"terminal_id": f"m{draw.randrange(4)}", "customer_id": f"c{draw.randrange(5)}"}
        return moved(payment(number, 0), time_us) | at | {"amount": draw.randrange(1000)}

    def change(number: int, time_us: int) -> Row:
        index, letter = draw.choice([(MERCHANT, "m"), (CLIENT, "c")])
        values = {"since": draw.randrange(START_US), "tags": ["t"] * draw.randrange(3)}
        values |= {"category": draw.choice(["food", "travel"]), "heat": draw.random()}
        key = f"{letter}{draw.randrange(6)}"
        return moved(version(index, number, 0, key, **values), time_us)

    # Few instants: events and versions of one key meet.
    instants = [START_US + draw.randrange(60) * DAY_US // 4 for _ in range(450)]
    past = [
        (change if draw.random() < 0.25 else event)(number, time_us)
        for number, time_us in enumerate(instants)
    ]
    past = [row | {"origin_partition": -1, "origin_offset": at} for at, row in enumerate(past)]
    past += [past[at] | {"origin_offset": 1000 + at} for at in (5, 50, 95)]
    live: list[Row] = []
    newest_us = now_us = START_US + 20 * DAY_US
    for number in range(1000, 1600):
        now_us += draw.choice([0, DAY_US // 96])
        if draw.random() < 0.25:
            # Of long ago, of now, or of a day to come.
            live.append(change(number, now_us + draw.choice([-30, -1, 0, 0, 1, 3]) * DAY_US))
            continue
        made = event(number, now_us - draw.choice([0, 0, DAY_US // 30]))
        newest_us = max(newest_us, made["event_time_us"])
        live += [made | {"watermark_us": newest_us}] * (1 + (draw.random() < 0.1))
    return past, live


def streamed(past: list[Row], live: list[Row]) -> list[Row]:
    """Every row through every stage whose log it is in, one by one."""
    folds = [Fold(PLAN, stage.index) for stage in PLAN.stages]
    past = sorted(
        past,
        key=lambda r: (
            (r["event_time_us"], -r["kind"], r["event_id"], r["origin_offset"])
            if "kind" in r
            else (r["event_time_us"], 0, r["event_id"], r["origin_offset"])
        ),
    )
    offsets: dict[int, int] = {}
    out = []
    for row in [*past, *live]:
        is_live = "origin_partition" not in row
        log = row.get("origin_log", 0)
        if is_live:
            at = offsets[log] = offsets.get(log, -1) + 1
            row = row | {"origin_offset": at, "position_seq": at << 20}
        start = 0 if log == 0 else PLAN.references[log - 64].stage
        rows = batch(PLAN, [row])
        for fold in folds[start:] if is_live or log == 0 else folds[start : start + 1]:
            rows = fold.fold(rows, 0, fold.offset + 1) if is_live else fold.fold_history(rows)
        out += rows.to_pylist()
    return out


@pytest.fixture(scope="module")
def rows(own_lake: Path) -> list[Row]:
    """What the stream made of all of it; the lake holds it."""
    made = streamed(*drawn(3))
    table = pa.Table.from_pylist(made, row_schema(PLAN))
    lake.append("events", lake_rows.events(PLAN, table))
    for index in (MERCHANT, CLIENT):
        lake.append(PLAN.references[index].table, lake_rows.versions(index, PLAN, table))
    assert lake_rows.versions(KIND, PLAN, table).num_rows == 0
    assert lake_rows.labels(PLAN, table).num_rows == 0
    lake.append("features", lake_rows.features(PLAN, table))
    return made


def values(table: pa.Table) -> list[Row]:
    keys = [("origin_partition", "ascending"), ("origin_offset", "ascending")]
    return table.drop_columns("event_date").sort_by(keys).to_pylist()


def test_backfill_equals_the_stream(rows: list[Row], spark: SparkSession) -> None:
    report = backfill(PLAN, spark=spark)
    made, logged = values(lake.read("feature_candidate")), values(lake.read("features"))
    assert len(made) == len(logged) == report["rows"] > 700
    assert made == logged
    assert report["disagreements"] == 0
    assert report["duplicates"] > 20
    assert len({row["merchant_rate"] for row in made}) > 40
    assert {row["known"] for row in made} == {0.0, 2.0}
    assert {row["merchant_is_known"] for row in made} == {0.0, 1.0}
    assert {row["merchant_category_code"] for row in made} == {-1.0, 0.0, 1.0}
    assert quality.check(PLAN)["rows"] == len(made)


def test_range_of_dates_still_sees_versions_of_long_ago(
    rows: list[Row], spark: SparkSession
) -> None:
    everything = lake.read("features")
    first: date = day_of(START_US + 19 * DAY_US)
    backfill(PLAN, first, first + timedelta(days=4), spark=spark)
    dates = everything["event_date"]
    expected = everything.filter(
        pc.and_(
            pc.greater_equal(dates, pa.scalar(first)),
            pc.less(dates, pa.scalar(first + timedelta(days=4))),
        )
    )
    assert expected.num_rows > 100
    assert values(lake.read("feature_candidate")) == values(expected)


@pytest.mark.parametrize("logged", [False, True])
def test_a_key_of_many_versions_streams_through(
    logged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    keep = Fold.keep_only

    def watched(self: Fold, key: str | None, settled_us: int) -> None:
        nonlocal most
        keep(self, key, settled_us)
        most = max(most, self.versions)

    monkeypatch.setattr(Fold, "keep_only", watched)
    times = START_US + np.arange(6000) * 60_000_000
    told = [
        moved(version(MERCHANT, n, 0, "m"), int(t)) if n % 2 else moved(payment(n, 0), int(t))
        for n, t in enumerate(times)
    ]
    table = pa.Table.from_batches([batch(PLAN, told)])
    seq = pa.array(range(6000), pa.int64()) if logged else pa.nulls(6000, pa.int64())
    columns = {name: table[name] for name in table.schema.names} | {"terminal_seq": seq}
    is_event = pc.equal(table["kind"], KIND_EVENT)
    columns["watermark_us"] = pc.if_else(is_event, table["event_time_us"], None)
    columns["arrival_us"] = table["event_time_us"]
    batches = pa.table(columns).to_batches(max_chunksize=300)
    first_logged_us = START_US if logged else 2**63 - 1
    found = pa.Table.from_batches(fold_partition(PLAN, 2, first_logged_us)(batches))
    seen = found.filter(pc.equal(found["kind"], KIND_EVENT))["merchant__rate"].to_pylist()
    assert seen == [None, *range(10_001, 15_999, 2)]
    own = found.filter(pc.equal(found["kind"], KIND_REFERENCE))["merchant__rate"].to_pylist()
    assert own == list(range(10_001, 16_000, 2))
    # Those of the last hour, which a late event might still see, are kept in the log.
    assert most == (32 if logged else 1)

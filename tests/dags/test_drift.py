"""Which drift a retraining run answers, and what people are shown of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from dags.drift import answered_by, newest_drift, write_report
from features import lake
from features.catalog import load_plan
from features.errors import PenstockError
from features.plan import Plan
from features.settings import settings
from tests.conftest import SessionStack

SEEN = datetime(2025, 2, 10, 12, tzinfo=UTC)


def drift(feature_set: str, version: str = "1", seen: datetime = SEEN) -> dict[str, Any]:
    at = seen.isoformat()
    return {
        "feature_set": feature_set,
        "model_version": version,
        "first_seen": {"event_time": at, "wall_time": at},
        "columns": [{"name": "amount", "psi": 0.9}],
    }


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan("card_fraud")


def test_newest_event_of_the_own_feature_set_is_found(stack: SessionStack, plan: Plan) -> None:
    bootstrap = stack.require("kafka").environment()["PENSTOCK_KAFKA_BOOTSTRAP"]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if plan.drift_topic not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(plan.drift_topic, 1, 1)])[plan.drift_topic].result(10)
    producer = Producer({"bootstrap.servers": bootstrap})
    newest = drift(plan.name, "8")
    for message in (drift(plan.name, "7"), newest, drift("another_set", "9")):
        producer.produce(plan.drift_topic, json.dumps(message).encode())
    for broken in (b"not json", b"[1]", b'{"feature_set": "card_fraud"}', b""):
        producer.produce(plan.drift_topic, broken)
    assert producer.flush(20) == 0
    assert newest_drift(plan) == newest


@pytest.mark.parametrize(
    ("measured", "champion", "is_answered"),
    [("3", "3", False), ("3", "4", True), ("3", "", False)],
)
def test_drift_of_an_older_champion_is_answered(
    measured: str, champion: str, is_answered: bool
) -> None:
    reason = answered_by(drift("card_fraud", measured), champion)
    assert bool(reason) == is_answered
    assert not is_answered or (f"version {measured}" in reason and f"version {champion}" in reason)


@pytest.fixture
def own_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_LAKE_URI", str(tmp_path / "lake"))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def write_features(plan: Plan, table: str, start: datetime, days: int, scale: float) -> None:
    generator = np.random.default_rng(days)
    n = 500 * days
    event_us = int(start.timestamp()) * 1_000_000 + np.arange(n) * 86_400_000_000 // 500
    values = {column: generator.lognormal(1, 1, n) * scale for column in plan.column_names}
    time = pa.array(event_us, pa.timestamp("us", "UTC"))
    fixed = {
        "origin_partition": pa.array([lake.HISTORY_PARTITION] * n, pa.int32()),
        "origin_offset": pa.array(np.arange(n)),
        "event_id": pa.array([f"{table}-{i}" for i in range(n)]),
        "event_time": time,
        "fingerprint": pa.array([plan.fingerprint] * n),
        "event_date": time.cast(pa.date32()),
    }
    schema = lake.schema(table, plan)
    columns = [
        fixed[name] if name in fixed else pa.array(values[name], pa.float64())
        for name in schema.names
    ]
    lake.append(table, pa.table(columns, schema=schema))


def test_report_compares_the_week_of_the_drift_with_what_was_before(
    own_lake: Path, plan: Plan
) -> None:
    write_features(plan, "feature_backfill", SEEN - timedelta(days=20), 20, scale=1.0)
    write_features(plan, "features", SEEN - timedelta(days=7), 9, scale=5.0)
    report = write_report(plan, drift(plan.name))
    page = Path(report["path"])
    assert page.parent == own_lake / "reports"
    assert "html" in page.read_text()[:200].lower()
    assert report["drifted"] == len(plan.columns)
    assert report["share"] == 1.0


def test_report_without_live_rows_says_which_table_is_missing(own_lake: Path, plan: Plan) -> None:
    write_features(plan, "feature_backfill", SEEN - timedelta(days=20), 3, scale=1.0)
    with pytest.raises(PenstockError, match="no table 'features'"):
        write_report(plan, drift(plan.name))

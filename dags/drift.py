"""What the retraining DAG asks about a drift: the newest event, and the report people read."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags.triggers import drift_event
from features.errors import PenstockError, ServiceUnavailableError
from features.plan import Plan
from features.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

WINDOW = timedelta(days=7)
"""What the live watch compares at a time: one week of event time."""

REPORT_ROWS = 20_000
"""Enough to see a distribution; the page holds them all and should open at once."""

_ANSWER_S = 10.0


def newest_drift(plan: Plan) -> dict[str, Any] | None:
    """The last event of the drift topic that speaks of this feature set.

    Raises:
        ServiceUnavailableError: the broker does not answer.
    """
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": f"penstock.{plan.name}.drift-reader",
            "enable.auto.commit": False,
            # The topic is written in transactions, so its last offset is a marker that is never
            # delivered: only the end of the partition tells that all has been read.
            "enable.partition.eof": True,
        }
    )
    found: list[tuple[tuple[int, int], dict[str, Any]]] = []
    try:
        topic = consumer.list_topics(plan.drift_topic, timeout=_ANSWER_S).topics[plan.drift_topic]
        consumer.assign([TopicPartition(plan.drift_topic, n, 0) for n in topic.partitions])
        unread = set(topic.partitions)
        deadline = time.monotonic() + _ANSWER_S
        while unread:
            message = consumer.poll(0.5)
            error = message.error() if message is not None else None
            if message is not None and error is None:
                event = drift_event(message.value())
                if event is not None and event["feature_set"] == plan.name:
                    found.append(((message.timestamp()[1], message.offset()), event))
            elif error is not None and error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            elif time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"topic {plan.drift_topic!r} could not be read to its end within "
                    f"{_ANSWER_S:g} s; look at the broker with `penstock status`"
                )
    except KafkaException as error:
        raise ServiceUnavailableError(
            f"Kafka at {settings().kafka_bootstrap} does not answer: {error}; "
            "start it with `penstock up kafka`"
        ) from error
    finally:
        consumer.close()
    return max(found, key=lambda pair: pair[0])[1] if found else None


def answered_by(event: dict[str, Any], champion: str) -> str:
    """Why a drift needs no training any more; empty while it does.

    Args:
        event: a drift event; it names the version that scored.
        champion: the version that scores now.
    """
    measured = str(event.get("model_version", ""))
    if champion and measured and champion != measured:
        return (
            f"the drift was measured against version {measured}, "
            f"and version {champion} has been promoted since"
        )
    return ""


def write_report(plan: Plan, event: dict[str, Any]) -> dict[str, Any]:
    """Write Evidently's page about the week in which the drift was seen.

    The reference is the feature table the last training used, up to that week; the other side is
    what the stream computed live.

    Returns:
        `path` of the page, `drifted` columns and their `share`.

    Raises:
        PenstockError: one side has no rows.
    """
    from monitoring.evidently_report import drift_report

    seen = datetime.fromisoformat(event["first_seen"]["event_time"])
    path = (
        Path(settings().home).absolute()
        / "reports"
        / f"{plan.name}-drift-{seen:%Y%m%dT%H%M%SZ}.html"
    )
    summary = drift_report(
        _rows("feature_backfill", plan, None, seen - WINDOW),
        _rows("features", plan, seen - WINDOW, seen),
        path,
        columns=plan.column_names,
    )
    return {"path": str(path), "drifted": summary["drifted"], "share": summary["share"]}


def _rows(table: str, plan: Plan, after: datetime | None, until: datetime) -> pa.Table:
    """At most `REPORT_ROWS` evenly chosen rows with after < event_time ≤ until."""
    from features import lake

    found = lake.open_table(table)
    if found is None:
        raise PenstockError(
            f"the lake has no table {table!r} at {lake.table_uri(table)}; "
            "run the training DAG and the stream first"
        )
    within = [("event_time", "<=", until)] + ([("event_time", ">", after)] if after else [])
    rows = found.to_pyarrow_table(columns=plan.column_names, filters=within)
    step = max(1, rows.num_rows // REPORT_ROWS)
    return rows.take(list(range(0, rows.num_rows, step)))

"""What the triggerer waits for: drift events on Kafka, and the lake growing past an instant.

Both run in Airflow's triggerer beside every other wait of the installation, so they hold no worker
while they wait, and they import what reads the lake only when they do.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from airflow.providers.apache.kafka.triggers.shared_stream import KafkaSharedStreamTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

KAFKA_CONNECTION = "penstock_kafka"
"""Airflow's connection with the broker list, the consumer group and manual commits."""


class DriftOf(KafkaSharedStreamTrigger):  # type: ignore[misc]  # Airflow ships no types we follow
    """Fires for each drift event of one feature set; all sets share one consumer.

    Airflow commits an offset after the event is in its database, so a triggerer that dies repeats
    events and loses none.
    """

    def __init__(
        self,
        *,
        feature_set: str,
        topics: list[str],
        kafka_config_id: str = KAFKA_CONNECTION,
        poll_timeout: float = 1.0,
        dlq_topic: str | None = None,
    ) -> None:
        super().__init__(
            topics=topics,
            kafka_config_id=kafka_config_id,
            poll_timeout=poll_timeout,
            dlq_topic=dlq_topic,
        )
        self.feature_set = feature_set

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where to find this class, and the arguments that make an equal one."""
        _, arguments = super().serialize()
        return "dags.triggers.DriftOf", arguments | {"feature_set": self.feature_set}

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Any]
    ) -> AsyncIterator[TriggerEvent]:
        """Pass on the events that name this feature set."""
        async for value in shared_stream:
            event = drift_event(value)
            if event is not None and event["feature_set"] == self.feature_set:
                yield TriggerEvent(event)


def drift_event(value: bytes | None) -> dict[str, Any] | None:
    """A message of the drift topic, or None where it is no drift event."""
    try:
        event = json.loads(value or b"")
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("first_seen"), dict):
        return None
    return event if isinstance(event.get("feature_set"), str) else None


class LakeReaches(BaseTrigger):  # type: ignore[misc]  # Airflow ships no types we follow
    """Fires once the lake holds an event as young as `until` (RFC 3339)."""

    def __init__(self, until: str, poll_s: float) -> None:
        super().__init__()
        self.until = until
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where to find this class, and the arguments that make an equal one."""
        return "dags.triggers.LakeReaches", {"until": self.until, "poll_s": self.poll_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poll_s` seconds."""
        until = datetime.fromisoformat(self.until)
        while True:
            newest = await asyncio.to_thread(newest_event_time)
            if newest is not None and newest >= until:
                yield TriggerEvent(newest.isoformat())
                return
            await asyncio.sleep(self.poll_s)


def newest_event_time() -> datetime | None:
    """The newest event time in the lake, from the table's statistics; no file is read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from features import lake

    table = lake.open_table("events")
    if table is None:
        return None
    files = pa.table(table.get_add_actions(flatten=True))
    if "max.event_time" not in files.column_names:
        return None
    newest: datetime | None = pc.max(files["max.event_time"]).as_py()
    return newest

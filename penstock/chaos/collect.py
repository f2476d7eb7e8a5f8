"""Reads back everything a chain was given and made: its topics, its lake, its online store."""

from __future__ import annotations

from typing import Any

import msgspec

from features import lake
from features.online import HIT, OnlineStore
from features.plan import Plan
from features.redis_layout import stored_stages
from features.wire import DeadLetter, dead_letter_topic, decode, late_topic
from penstock.chaos.judge import Flush, Raw, Seen, Stored
from streaming.broker import read_all

_LAKE_COLUMNS = {
    "events": ["origin_partition", "origin_offset", "verdict"],
    "labels": ["origin_partition", "origin_offset"],
    "dead_letters": ["topic", "origin_partition", "origin_offset", "reason", "payload"],
}
"""What is compared; of other tables every column."""


def collect(plan: Plan, flushes: list[Flush]) -> Seen:
    """Everything there is, once nothing moves any more.

    Raises:
        ServiceUnavailableError: the broker or the online store does not answer.
    """
    seen = Seen(flushes=flushes)
    for topic in plan.raw_topics:
        seen.raw[topic] = raw_records(topic)
        seen.letters += [
            DeadLetter.from_headers(message.headers() or [])
            for message in read_all(dead_letter_topic(topic))
        ]
    seen.rows = packed_rows(plan, plan.features_topic)
    seen.late = packed_rows(plan, late_topic(plan.event_topic))
    seen.scored = scores(plan)
    for table in lake.tables(plan):
        if lake.open_table(table) is not None:
            seen.lake[table] = lake.read(table, _LAKE_COLUMNS.get(table)).to_pylist()
    seen.online = _online(plan, seen.rows)
    return seen


def raw_records(topic: str) -> list[Raw]:
    """Every record of a users' topic, each partition's in order."""
    return [
        Raw(topic, m.partition(), m.offset(), m.timestamp()[1] * 1000, m.value())
        for m in read_all(topic)
    ]


def packed_rows(plan: Plan, topic: str) -> list[dict[str, Any]]:
    """Every row of a topic of envelopes, with `log_partition` and `log_offset`."""
    return [
        row | {"log_partition": message.partition(), "log_offset": message.offset()}
        for message in read_all(topic)
        for row in decode(plan, message.value()).to_pylist()
    ]


def scores(plan: Plan) -> list[dict[str, Any]]:
    """The scored topic, read as users read it."""
    return [
        msgspec.json.decode(m.value(), type=dict[str, Any]) | {"key": m.key().decode()}
        for m in read_all(plan.scored_topic)
    ]


def _online(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, dict[Any, Stored]]:
    """What the online store holds of every key there was."""
    held: dict[str, dict[Any, Stored]] = {}
    store = OnlineStore(plan)
    try:
        for stage in stored_stages(plan):
            keys = {
                tuple(row[name] for name in stage.key_fields)
                for row in rows
                if row["kind"] == 0 and row[stage.seq_column] is not None
            }
            asked: list[Any] = sorted(key if len(key) > 1 else key[0] for key in keys)
            found = store.read({stage.name: asked})[stage.name]
            held[stage.name] = {
                key: Stored(int(found.event_time_us[at]), tuple(found.values[at].tolist()))
                for at, key in enumerate(asked)
                if found.result[at] == HIT
            }
    finally:
        store.close()
    return held

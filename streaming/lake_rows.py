"""What each lake table takes from the topics: rows, dead letters and scores as its columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message

from features import lake
from features.errors import WireError
from features.plan import Plan
from features.wire import (
    FOLDED,
    KIND_EVENT,
    KIND_LABEL,
    LATE,
    LOG_REFERENCES,
    NEVER_US,
    VERDICTS,
    DeadLetter,
    Dealt,
)

_TIME = pa.timestamp("us", tz="UTC")


def events(plan: Plan, rows: pa.Table) -> pa.Table:
    """Rows of `lake.events`: every event with its verdict."""
    rows = rows.filter(pc.equal(rows.column("kind"), KIND_EVENT))
    columns = {name: rows.column(name) for name in rows.schema.names} | _times(rows)
    columns["verdict"] = pa.array(VERDICTS).take(rows.column("verdict"))
    # What came late went round the stages, and says nothing of what they still wait for.
    known = pc.and_(
        pc.not_equal(rows.column("watermark_us"), NEVER_US),
        pc.not_equal(rows.column("verdict"), LATE),
    )
    watermark = pc.if_else(known, rows.column("watermark_us"), pa.scalar(None, pa.int64()))
    columns["watermark"] = watermark.cast(_TIME)
    return _table("events", plan, columns)


def labels(plan: Plan, rows: pa.Table) -> pa.Table:
    """Rows of `lake.labels`; a label is known from the broker's time of its record on."""
    rows = rows.filter(pc.equal(rows.column("kind"), KIND_LABEL))
    columns = {name: rows.column(name) for name in rows.schema.names} | _times(rows)
    columns["known_time"] = columns["broker_time"]
    return _table("labels", plan, columns)


def versions(index: int, plan: Plan, rows: pa.Table) -> pa.Table:
    """Rows of the table of the plan's reference of that index: each of its versions."""
    reference = plan.references[index]
    rows = rows.filter(pc.equal(rows.column("origin_log"), LOG_REFERENCES + index))
    columns = {name: rows.column(name) for name in rows.schema.names} | _times(rows)
    columns["valid_from"] = columns["event_time"]
    for name, field in zip(reference.columns, reference.fields, strict=True):
        columns[field.name] = columns[name]
    return _table(reference.table, plan, columns)


def features(plan: Plan, rows: pa.Table) -> pa.Table:
    """Rows of `lake.features`: the logged columns of every event that was folded."""
    folded = pc.and_(
        pc.equal(rows.column("kind"), KIND_EVENT), pc.equal(rows.column("verdict"), FOLDED)
    )
    rows = rows.filter(folded)
    columns = {name: rows.column(name) for name in rows.schema.names} | _times(rows)
    for column in plan.columns:
        # An integer past 2^53 is the nearest float64, as in the model's vector.
        columns[column.name] = columns[column.name].cast(pa.float64(), safe=False)
    columns["fingerprint"] = pa.array([plan.fingerprint] * rows.num_rows, pa.string())
    return _table("features", plan, columns)


def dead_letters(plan: Plan, messages: Sequence[Message]) -> pa.Table:
    """Rows of `lake.dead_letters`; markers among the messages give none.

    Raises:
        WireError: a message is neither.
    """
    messages = [m for m in messages if Dealt.from_headers(m.headers() or []) is None]
    letters = [DeadLetter.from_headers(message.headers() or []) for message in messages]
    columns = {
        "topic": [letter.topic for letter in letters],
        "origin_partition": [letter.partition for letter in letters],
        "origin_offset": [letter.offset for letter in letters],
        "reason": [letter.reason for letter in letters],
        "message": [letter.message for letter in letters],
        "payload": [message.value() for message in messages],
        "broker_time": _timestamps([letter.timestamp_ms * 1000 for letter in letters]),
    }
    return _table("dead_letters", plan, columns)


def scores(plan: Plan, messages: Sequence[Message]) -> pa.Table:
    """Rows of `lake.scores`.

    Raises:
        WireError: a message is no score of this plan.
    """
    found = []
    for message in messages:
        try:
            score = msgspec.json.decode(message.value() or b"")
            found.append(
                {
                    "origin_partition": score["origin"]["partition"],
                    "origin_offset": score["origin"]["offset"],
                    "event_id": score[plan.id_field],
                    "event_time": datetime.fromisoformat(score[plan.time_field]),
                    "broker_time": score["broker_time_us"],
                    "scored_time": message.timestamp()[1] * 1000,
                }
                | {n: score[n] for n in ("score", "decision", "model_version", "fingerprint")}
            )
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise WireError(
                f"{message.topic()} [{message.partition()}] offset {message.offset()} is no score "
                f"of {plan.name!r}: {error!r}"
            ) from error
    columns: dict[str, Any] = {
        name: [score[name] for score in found] for name in (found[0] if found else ())
    }
    columns["event_time"] = pa.array(columns["event_time"], _TIME)
    for name in ("broker_time", "scored_time"):
        columns[name] = _timestamps(columns[name])
    columns["event_date"] = columns["event_time"].cast(pa.date32())
    return _table("scores", plan, columns)


def letter_offset(message: Message) -> int:
    """The raw offset a dead letter speaks of: letters of one raw partition come in its order.

    A marker may speak of any letter before it: it has no place, and no row.
    """
    headers = message.headers() or []
    if Dealt.from_headers(headers) is not None:
        return -1
    return DeadLetter.from_headers(headers).offset


def _times(rows: pa.Table) -> dict[str, Any]:
    event_time = rows.column("event_time_us").cast(_TIME)
    return {
        "event_time": event_time,
        "broker_time": rows.column("broker_time_us").cast(_TIME),
        "event_date": event_time.cast(pa.date32()),
    }


def _timestamps(microseconds: list[int]) -> pa.Array:
    return pa.array(np.array(microseconds, np.int64)).cast(_TIME)


def _table(table: str, plan: Plan, columns: dict[str, Any]) -> pa.Table:
    schema = lake.schema(table, plan)
    arrays = [
        columns[field.name].cast(field.type)
        if isinstance(columns[field.name], (pa.Array, pa.ChunkedArray))
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)

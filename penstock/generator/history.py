"""Imported history: events and labels written straight into the lake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features import lake
from features.coding import derived_columns
from features.errors import PenstockError
from features.plan import Plan
from features.settings import settings
from penstock.generator.payments import PaymentWorld, to_us
from streaming.tokenise import Tokeniser

_COMMIT_PAYMENTS = 500_000
"""Rows a commit holds at most: bounds memory, and a table keeps few files a day."""

Progress = Callable[[int, float], None]
"""Called with the rows written so far and the share done, 0 to 1."""


@dataclass(frozen=True)
class Written:
    """What an import put into the lake."""

    events: int
    labels: int
    frauds: int


class HistoryWriter:
    """Appends history to the lake, identifiers tokenised as ingest does it.

    Args:
        plan: whose events and labels.

    Raises:
        PenstockError: the lake holds events already, or there is no token key.
    """

    def __init__(self, plan: Plan) -> None:
        table = lake.open_table("events")
        if table is not None and table.to_pyarrow_dataset().count_rows():
            raise PenstockError(
                f"the lake at {settings().lake_uri} already holds events, and history goes before "
                "them; remove that folder or set PENSTOCK_LAKE_URI to an empty one"
            )
        self._plan = plan
        self._tokeniser = Tokeniser.from_settings()
        self.events = 0
        self.labels = 0

    def append_events(
        self, event_id: pa.Array, event_time_us: NDArray[np.int64], fields: dict[str, pa.Array]
    ) -> None:
        """Append events in order of time; `fields` are those of the plan, money in minor units."""
        columns = {
            "verdict": pa.repeat(pa.scalar("folded"), len(event_id)),
            "event_id": event_id,
            "event_time": _times(event_time_us),
        }
        for each in self._plan.fields:
            values = fields[each.name]
            columns[each.name] = self._tokens(values) if each.token else values
        self._append("events", columns, self.events)
        self.events += len(event_id)

    def append_labels(
        self,
        event_id: pa.Array,
        event_time_us: NDArray[np.int64],
        known_time_us: NDArray[np.int64],
        keys: dict[str, pa.Array],
        verdict: NDArray[np.bool_],
    ) -> None:
        """Append labels in the order in which they became known."""
        if self._plan.label is None:
            raise PenstockError(f"the feature set {self._plan.name!r} has no label")
        tokens = {each.name for each in self._plan.fields if each.token}
        columns = {
            "known_time": _times(known_time_us),
            "event_id": event_id,
            "event_time": _times(event_time_us),
            self._plan.label.field: pa.array(verdict),
        }
        for key in self._plan.label.keys:
            columns[key] = self._tokens(keys[key]) if key in tokens else keys[key]
        self._append("labels", columns, self.labels)
        self.labels += len(event_id)

    def _append(self, table: str, columns: dict[str, pa.Array], first: int) -> None:
        rows = len(columns["event_id"])
        columns["origin_partition"] = pa.repeat(pa.scalar(lake.HISTORY_PARTITION), rows)
        columns["origin_offset"] = pa.array(np.arange(first, first + rows))
        columns["event_date"] = pc.cast(columns["event_time"], pa.date32())
        schema = lake.schema(table, self._plan)
        columns |= derived_columns(self._plan.derived_keys(columns), columns)
        lake.append(
            table,
            pa.table(
                [
                    pc.cast(columns[each.name], each.type)
                    if each.name in columns
                    else pa.nulls(rows, each.type)
                    for each in schema
                ],
                schema=schema,
            ),
        )

    def _tokens(self, values: pa.Array) -> pa.Array:
        coded = values.dictionary_encode()
        tokens = pa.array([self._tokeniser.token(text) for text in coded.dictionary.to_pylist()])
        return tokens.take(coded.indices)


def write_history(
    world: PaymentWorld, plan: Plan, until: datetime, progress: Progress = lambda rows, done: None
) -> Written:
    """Write everything a world paid, and every label known, from its start to `until`.

    Raises:
        PenstockError: the lake holds events already, or there is no token key.
    """
    writer = HistoryWriter(plan)
    start_us, until_us = world.start_us, to_us(until)
    span_us = max(1, int(_COMMIT_PAYMENTS / world.payments_per_day * 86_400_000_000))
    frauds = 0
    for from_us in range(start_us, until_us, span_us):
        upto_us = min(from_us + span_us, until_us)
        payments = world.payments(from_us, upto_us)
        table = payments.table()
        writer.append_events(
            table["event_id"].combine_chunks(),
            payments.event_time_us,
            {
                "customer_id": table["customer_id"].combine_chunks(),
                "terminal_id": table["terminal_id"].combine_chunks(),
                "amount": table["amount_minor"].combine_chunks(),
            },
        )
        labels = world.labels(from_us, upto_us)
        table = labels.table()
        writer.append_labels(
            table["event_id"].combine_chunks(),
            labels.event_time_us,
            labels.known_time_us,
            {"terminal_id": table["terminal_id"].combine_chunks()},
            labels.is_fraud,
        )
        frauds += int(payments.is_fraud.sum())
        progress(writer.events, (upto_us - start_us) / (until_us - start_us))
    return Written(writer.events, writer.labels, frauds)


@dataclass(frozen=True)
class SavedWorld:
    """A world and how far it has been played: where the next live run begins."""

    world: PaymentWorld
    until: datetime


def save_world(world: PaymentWorld, until: datetime) -> None:
    """Remember a world under `PENSTOCK_HOME`, so that a live run continues the same one."""
    path = _saved_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "seed": world.seed,
        "customers": world.customers,
        "terminals": world.terminals,
        "payments_per_day": world.payments_per_day,
        "start": world.start.isoformat(),
        "drift_at": world.drift_at.isoformat() if world.drift_at else None,
        "until": until.isoformat(),
    }
    path.write_text(json.dumps(values, indent=2))


def load_world() -> SavedWorld | None:
    """The remembered world, or None where no history has been generated."""
    path = _saved_path()
    if not path.is_file():
        return None
    values = json.loads(path.read_text())
    drift_at = values["drift_at"]
    world = PaymentWorld(
        values["seed"],
        values["customers"],
        values["terminals"],
        values["payments_per_day"],
        datetime.fromisoformat(values["start"]),
        datetime.fromisoformat(drift_at) if drift_at else None,
    )
    return SavedWorld(world, datetime.fromisoformat(values["until"]))


def payments_per_day(rate: float, scale: float) -> float:
    """Payments a day of event time, where `rate` come a real second and time is `scale`-fold."""
    return rate * timedelta(days=1).total_seconds() / scale


def _saved_path() -> Path:
    return settings().home / "world.json"


def _times(time_us: NDArray[np.int64]) -> pa.Array:
    return pa.array(time_us).cast(pa.timestamp("us", tz="UTC"))

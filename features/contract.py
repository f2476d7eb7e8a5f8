"""The contract of the raw topics: JSON Schema for producers, a fast reader for ingest.

Both are compiled from the plan. Reading is one typed decode; only a record that fails it is looked
at a second time, to find out which rule it breaks. A record that breaks several is refused for the
first in the order of `REASONS`, so its reason code is stable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from features.errors import ContractError
from features.members import (
    BooleanMember,
    Member,
    TextMember,
    TimeMember,
    json_type,
    member_of,
    names_broken,
)
from features.plan import Plan, ReferencePlan

REASONS = (
    "empty",
    "oversize",
    "invalid_utf8",
    "not_json",
    "wrong_type",
    "unknown_field",
    "missing_field",
    "unknown_currency",
    "out_of_range",
    "time_in_future",
)
"""Every reason of a contract. They name columns of dashboards and rules: they are never renamed."""

FRAMED_REASONS = ("unknown_schema", "not_avro", "registry_unavailable")
"""Reason codes of values that a schema registry's client framed, before the contract judges."""

MAX_RECORD_BYTES = 64 * 1024
"""A record of a users' topic is a few hundred bytes; this bounds what one can cost."""

MAX_AHEAD_US = 10 * 60 * 1_000_000
"""How far an event time may lie past its broker time: clocks differ by minutes, not more."""

MAX_ID_LENGTH = 128


class Contract:
    """What one raw topic accepts.

    Args:
        plan: the compiled feature set.
        topic: its event topic, its label topic, or a reference's.
    """

    def __init__(self, plan: Plan, topic: str) -> None:
        self.topic = topic
        self._members = _members(plan, topic)
        self.names = tuple(member.name for member in self._members)
        """Names of the values that `read` returns: id (of a reference the fields of its key), time,
        then the fields."""
        record = msgspec.defstruct(
            "Record",
            [(member.name, member.reader()) for member in self._members],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode
        self._values: Callable[[Any], tuple[Any, ...]] = attrgetter(*self.names)
        self._kept = [
            (index, member)
            for index, member in enumerate(self._members)
            if type(member).value is not Member.value
        ]

    def read(self, payload: bytes | None) -> tuple[Any, ...]:
        """The values of a record in the order of `names`; times in µs, money in minor units.

        Raises:
            ContractError: the record breaks the contract; `reason` is one of `REASONS`.
        """
        if not payload or len(payload) > MAX_RECORD_BYTES:
            raise self._refusal(payload)
        try:
            values = list(self._values(self._decode(payload)))
            for index, member in self._kept:
                values[index] = member.value(values[index])
        except (ValueError, RecursionError) as error:
            raise self._refusal(payload) from error
        return tuple(values)

    def read_all(
        self, payloads: Sequence[bytes | None]
    ) -> tuple[list[int], list[Sequence[Any]], dict[int, ContractError]]:
        """What `read` says of each record, a column at a time.

        Returns:
            The places of those that keep the contract, the columns of their values in the order of
            `names`, and by place the refusals of the others.
        """
        decode = self._decode
        kept: list[int] = []
        decoded: list[Any] = []
        refused: dict[int, ContractError] = {}
        for place, payload in enumerate(payloads):
            if payload and len(payload) <= MAX_RECORD_BYTES:
                try:
                    decoded.append(decode(payload))
                except (ValueError, RecursionError):
                    refused[place] = self._refusal(payload)
                else:
                    kept.append(place)
            else:
                refused[place] = self._refusal(payload)
        columns: list[Sequence[Any]] = [*zip(*map(self._values, decoded), strict=True)]
        if not columns:
            return [], [()] * len(self.names), refused
        try:
            for index, member in self._kept:
                columns[index] = member.column(columns[index])
        except ValueError:
            # Rare, so whose it is need not be told fast.
            return self._read_each(payloads)
        return kept, columns, refused

    def _read_each(
        self, payloads: Sequence[bytes | None]
    ) -> tuple[list[int], list[Sequence[Any]], dict[int, ContractError]]:
        rows: dict[int, tuple[Any, ...]] = {}
        refused: dict[int, ContractError] = {}
        for place, payload in enumerate(payloads):
            try:
                rows[place] = self.read(payload)
            except ContractError as refusal:
                refused[place] = refusal
        columns: list[Sequence[Any]] = [*zip(*rows.values(), strict=True)]
        return list(rows), columns or [()] * len(self.names), refused

    def check_not_future(self, time_us: int, broker_time_us: int) -> None:
        """Refuse an event time (µs) too far past the broker's time of its record (µs)."""
        if time_us > broker_time_us + MAX_AHEAD_US:
            raise self.in_future(time_us, broker_time_us)

    def in_future(self, time_us: int, broker_time_us: int) -> ContractError:
        """The refusal of an event time (µs) too far past the broker's time of its record (µs)."""
        ahead_s = (time_us - broker_time_us) / 1e6
        return ContractError(
            "time_in_future",
            f"{self.names[1]} is {ahead_s:.0f} s ahead of the broker's clock, at most "
            f"{MAX_AHEAD_US // 1_000_000} s are accepted",
        )

    def _refusal(self, payload: bytes | None) -> ContractError:
        if not payload:
            return ContractError("empty", "the record has no value")
        if len(payload) > MAX_RECORD_BYTES:
            return ContractError(
                "oversize", f"the record has {len(payload)} bytes, at most {MAX_RECORD_BYTES} fit"
            )
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            return ContractError("invalid_utf8", f"the record is not UTF-8: {error}")
        try:
            record = msgspec.json.decode(payload)
        except msgspec.ValidationError as error:
            return ContractError("out_of_range", str(error))
        except msgspec.DecodeError as error:
            return ContractError("not_json", str(error))
        except RecursionError:
            return ContractError("not_json", "the record is nested too deeply")
        return self._broken_rule(record)

    def _broken_rule(self, record: Any) -> ContractError:
        if not isinstance(record, dict):
            return ContractError("wrong_type", f"the record is {json_type(record)}, not an object")
        found = [
            broken
            for member in self._members
            if member.name in record and (broken := member.broken(record[member.name])) is not None
        ]
        found += names_broken("", self.names, record)
        if not found:
            # The second look keeps only the last of two members of one name.
            found.append(ContractError("not_json", "the record names a member twice"))
        return min(found, key=lambda broken: REASONS.index(broken.reason))


def event_schema(plan: Plan) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the event topic."""
    return _schema(plan.event_topic, _event_members(plan))


def label_schema(plan: Plan) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the label topic; empty where the set has no label."""
    return _schema(plan.label_topic, _label_members(plan)) if plan.label else {}


def reference_schema(plan: Plan, topic: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a reference's topic."""
    return _schema(topic, _members(plan, topic))


def _members(plan: Plan, topic: str) -> list[Member]:
    reference = plan.reference_on(topic)
    if reference is not None:
        return _reference_members(plan, reference)
    return _event_members(plan) if topic == plan.event_topic else _label_members(plan)


def _reference_members(plan: Plan, reference: ReferencePlan) -> list[Member]:
    # Its key is the event's, so that the two meet.
    of_event = {f.name: f for f in plan.fields}
    keys = (member_of(of_event[name], is_key=True) for name in reference.key_fields)
    fields = (member_of(f, is_key=False) for f in reference.fields)
    return [*keys, TimeMember(reference.time_field), *fields]


def _event_members(plan: Plan) -> list[Member]:
    keys = {name for stage in plan.stages for name in stage.key_fields}
    return [*_identity(plan), *(member_of(f, f.name in keys) for f in plan.fields)]


def _label_members(plan: Plan) -> list[Member]:
    if plan.label is None:
        return []
    fields = {f.name: f for f in plan.fields}
    keys = [member_of(fields[key], is_key=True) for key in plan.label.keys]
    return [*_identity(plan), *keys, BooleanMember(plan.label.field)]


def _identity(plan: Plan) -> list[Member]:
    return [TextMember(plan.id_field, 1, MAX_ID_LENGTH), TimeMember(plan.time_field)]


def _schema(topic: str, members: list[Member]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": topic,
        "type": "object",
        "properties": {member.name: member.schema() for member in members},
        "required": [member.name for member in members],
        "additionalProperties": False,
    }

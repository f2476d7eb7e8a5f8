"""The contract of the raw topics: JSON Schema for producers, a fast reader for ingest.

Both are compiled from the plan. Reading is one typed decode; only a record that fails it is looked
at a second time, to find out which rule it breaks. A record that breaks several is refused for the
first in the order of `REASONS`, so its reason code is stable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec

from features.errors import ContractError
from features.plan import FieldPlan, Plan

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
"""Every reason code. They name columns of dashboards and rules: they are never renamed."""

MAX_RECORD_BYTES = 64 * 1024
"""A record of a users' topic is a few hundred bytes; this bounds what one can cost."""

MAX_AHEAD_US = 10 * 60 * 1_000_000
"""How far an event time may lie past its broker time: clocks differ by minutes, not more."""

MAX_ID_LENGTH = 128

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_END_US = (datetime(2262, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""Past it, nanoseconds since 1970 (pandas, Parquet readers) no longer fit 64 bits."""

_INT64 = (-(2**63), 2**63 - 1)
_TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:?\d{2})$"


@dataclass(frozen=True)
class _Member:
    """One member of the JSON object."""

    name: str
    type: str  # text, money, integer, time, boolean
    smallest: int = 0
    largest: int = 0
    currency: str = ""


class Contract:
    """What one raw topic accepts.

    Args:
        plan: the compiled feature set.
        topic: its event or label topic.
    """

    def __init__(self, plan: Plan, topic: str) -> None:
        self.topic = topic
        self._members = _event_members(plan) if topic == plan.event_topic else _label_members(plan)
        self.names = tuple(member.name for member in self._members)
        """Names of the values that `read` returns: id, time, then the fields."""
        record = msgspec.defstruct(
            "Record",
            [(member.name, _struct_type(member)) for member in self._members],
            forbid_unknown_fields=True,
        )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode
        self._values: Callable[[Any], tuple[Any, ...]] = attrgetter(
            *(f"{m.name}.minor" if m.type == "money" else m.name for m in self._members)
        )

    def read(self, payload: bytes | None) -> tuple[Any, ...]:
        """The values of a record in the order of `names`; times in µs, money in minor units.

        Raises:
            ContractError: the record breaks the contract; `reason` is one of `REASONS`.
        """
        if not payload or len(payload) > MAX_RECORD_BYTES:
            raise self._refusal(payload)
        try:
            values = self._values(self._decode(payload))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._refusal(payload) from error
        time_us = (values[1] - _EPOCH) // _MICROSECOND
        if not 0 <= time_us < _END_US:
            raise self._refusal(payload)
        return (values[0], time_us, *values[2:])

    def check_not_future(self, time_us: int, broker_time_us: int) -> None:
        """Refuse an event time (µs) too far past the broker's time of its record (µs)."""
        if time_us > broker_time_us + MAX_AHEAD_US:
            ahead_s = (time_us - broker_time_us) / 1e6
            raise ContractError(
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
            return ContractError("wrong_type", f"the record is {_json_type(record)}, not an object")
        found = [
            broken
            for member in self._members
            if member.name in record
            and (broken := _broken_member(member, record[member.name])) is not None
        ]
        found += _names_broken("", self.names, record)
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


def _event_members(plan: Plan) -> list[_Member]:
    keys = {stage.key_column for stage in plan.stages}
    return [*_identity(plan), *(_member(f, f.name in keys) for f in plan.fields)]


def _label_members(plan: Plan) -> list[_Member]:
    if plan.label is None:
        return []
    fields = {f.name: f for f in plan.fields}
    keys = [_member(fields[key], is_key=True) for key in plan.label.keys]
    return [*_identity(plan), *keys, _Member(plan.label.field, "boolean")]


def _identity(plan: Plan) -> list[_Member]:
    return [_Member(plan.id_field, "text", 1, MAX_ID_LENGTH), _Member(plan.time_field, "time")]


def _member(field: FieldPlan, is_key: bool) -> _Member:
    if field.type == "text":
        return _Member(field.name, "text", int(is_key), field.max_length)
    smallest = _INT64[0] if field.minimum is None else field.minimum
    largest = _INT64[1] if field.maximum is None else field.maximum
    return _Member(field.name, field.type, smallest, largest, field.currency)


def _struct_type(member: _Member) -> Any:
    if member.type == "time":
        return Annotated[datetime, msgspec.Meta(tz=True)]
    if member.type == "boolean":
        return bool
    if member.type == "text":
        return Annotated[str, msgspec.Meta(min_length=member.smallest, max_length=member.largest)]
    number = Annotated[int, msgspec.Meta(ge=member.smallest, le=member.largest)]
    if member.type == "integer":
        return number
    return msgspec.defstruct(
        "Money",
        [("minor", number), ("currency", Literal[member.currency])],
        forbid_unknown_fields=True,
    )


def _broken_member(member: _Member, value: Any) -> ContractError | None:
    """The first rule that a member's value breaks."""
    name = member.name
    if member.type == "boolean":
        return None if isinstance(value, bool) else _wrong_type(name, "a boolean", value)
    if member.type in ("text", "time"):
        if not isinstance(value, str):
            return _wrong_type(name, "a string", value)
        return _broken_time(name, value) if member.type == "time" else _broken_text(member, value)
    if member.type == "integer":
        return _broken_number(member, name, value)
    if not isinstance(value, dict):
        return _wrong_type(name, "an object with minor and currency", value)
    if "minor" in value:
        broken = _broken_number(member, f"{name}.minor", value["minor"])
        if broken is not None:
            return broken
    wrong_names = _names_broken(f"{name}.", ("minor", "currency"), value)
    if wrong_names:
        return wrong_names[0]
    if not isinstance(value["currency"], str):
        return _wrong_type(f"{name}.currency", "a string", value["currency"])
    if value["currency"] != member.currency:
        return ContractError(
            "unknown_currency", f"{name} is in {value['currency']!r}, not in {member.currency!r}"
        )
    return None


def _broken_text(member: _Member, value: str) -> ContractError | None:
    if member.smallest <= len(value) <= member.largest:
        return None
    return ContractError(
        "out_of_range",
        f"{member.name} has {len(value)} characters, {member.smallest} to {member.largest} fit",
    )


def _broken_time(name: str, value: str) -> ContractError | None:
    try:
        moment = msgspec.convert(value, Annotated[datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        return ContractError(
            "wrong_type", f"{name} is {value[:40]!r}, not an RFC 3339 time with an offset"
        )
    if 0 <= (moment - _EPOCH) // _MICROSECOND < _END_US:
        return None
    return ContractError("out_of_range", f"{name} is {value}, outside the years 1970 to 2261")


def _broken_number(member: _Member, path: str, value: Any) -> ContractError | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return _wrong_type(path, "an integer", value)
    if member.smallest <= value <= member.largest:
        return None
    return ContractError(
        "out_of_range", f"{path} is {value}, outside {member.smallest} to {member.largest}"
    )


def _names_broken(
    prefix: str, expected: tuple[str, ...], found: dict[str, Any]
) -> list[ContractError]:
    unknown = [f"{prefix}{name}"[:80] for name in found if name not in expected]
    missing = [f"{prefix}{name}" for name in expected if name not in found]
    broken = []
    if unknown:
        broken.append(ContractError("unknown_field", f"unknown: {', '.join(unknown[:5])}"))
    if missing:
        broken.append(ContractError("missing_field", f"missing: {', '.join(missing)}"))
    return broken


def _wrong_type(path: str, expected: str, value: Any) -> ContractError:
    return ContractError("wrong_type", f"{path} is {_json_type(value)}, not {expected}")


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _schema(topic: str, members: list[_Member]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": topic,
        "type": "object",
        "properties": {member.name: _member_schema(member) for member in members},
        "required": [member.name for member in members],
        "additionalProperties": False,
    }


def _member_schema(member: _Member) -> dict[str, Any]:
    if member.type == "time":
        return {"type": "string", "format": "date-time", "pattern": _TIME_PATTERN}
    if member.type == "boolean":
        return {"type": "boolean"}
    if member.type == "text":
        return {"type": "string", "minLength": member.smallest, "maxLength": member.largest}
    number = {"type": "integer", "minimum": member.smallest, "maximum": member.largest}
    if member.type == "integer":
        return number
    return {
        "type": "object",
        "description": "an amount in minor units (cents) of one currency",
        "properties": {"minor": number, "currency": {"const": member.currency}},
        "required": ["minor", "currency"],
        "additionalProperties": False,
    }

"""Reads what a schema registry's client has framed: a zero byte, the id of a schema, the value.

JSON never begins with a zero byte, so values of both kinds may share a topic. An Avro value is
turned into the JSON of the same record: one contract judges every record, and refuses it for the
same reasons. Avro's `timestamp-millis` and `timestamp-micros` become RFC 3339 times in UTC, an enum
and a `uuid` become text, an infinity or NaN becomes null. Types that would only pass for something
of the contract, such as bytes, decimals and dates, are refused: money is an integer of minor units.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import fastavro
import httpx
import msgspec

from features.contract import MAX_RECORD_BYTES
from features.errors import ContractError
from features.settings import settings

_HEAD_BYTES = 5

MAX_SCHEMAS = 1000
"""A topic has a few versions of its schema; this bounds what senders of made-up ids can cost."""

_PATIENCE_S = 1.0
_RETRY_AFTER_S = 10.0
"""A registry that is silent holds up the stream for one second of so many."""

_UNKNOWN_FOR_S = 60.0
"""Ids are given out before they are used: one that is unknown stays so, but for a slow replica."""

_REFUSED_TYPES = ("bytes", "fixed")
_REFUSED_LOGICAL_TYPES = (
    "decimal",
    "date",
    "time-millis",
    "time-micros",
    "local-timestamp-millis",
    "local-timestamp-micros",
    "duration",
)

Reader = Callable[[bytes], bytes]
"""From the value behind the frame to JSON; raises ContractError."""


class FramedValues:
    """The schemas that framed values name, each fetched once."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}
        self._unknown: dict[int, float] = {}
        self._silent_until = 0.0

    def json_of(self, value: bytes) -> bytes:
        """The JSON of a framed value.

        Raises:
            ContractError: `not_json`, the frame is too short; `unknown_schema`, the registry does
                not know the id, or its schema is of a kind that is not read; `not_avro`, the value
                is not what its schema says; `wrong_type`, the schema has a type that the contract
                cannot have; `registry_unavailable`, the schema is not known yet and cannot be had.
        """
        if len(value) > MAX_RECORD_BYTES:
            # The contract says that it is too large.
            return value
        if len(value) < _HEAD_BYTES:
            raise ContractError(
                "not_json", f"the record is no JSON, and too short for a frame: {len(value)} bytes"
            )
        schema_id = int.from_bytes(value[1:_HEAD_BYTES], "big")
        reader = self._readers.get(schema_id)
        if reader is None:
            reader = self._fetch(schema_id)
        return reader(value[_HEAD_BYTES:])

    def _fetch(self, schema_id: int) -> Reader:
        unknown = ContractError("unknown_schema", f"the registry has no schema {schema_id}")
        now = time.monotonic()
        if self._unknown.get(schema_id, now) > now:
            raise unknown
        if now < self._silent_until:
            raise _unavailable(schema_id, "it did not answer lately")
        base = settings().schema_registry_url.rstrip("/")
        try:
            # Addresses come from settings alone, so no proxy of the environment may stand between.
            with httpx.Client(trust_env=False, timeout=_PATIENCE_S) as client:
                answer = client.get(f"{base}/schemas/ids/{schema_id}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                _remember(self._unknown, schema_id, now + _UNKNOWN_FOR_S)
                raise unknown
            found = answer.raise_for_status().json()
            kind, text = found.get("schemaType", "AVRO"), str(found["schema"])
        except (httpx.HTTPError, ValueError, KeyError, AttributeError) as error:
            self._silent_until = time.monotonic() + _RETRY_AFTER_S
            raise _unavailable(schema_id, repr(error)[:200]) from error
        _remember(self._readers, schema_id, _reader(schema_id, kind, text))
        return self._readers[schema_id]


def _remember(held: dict[int, Any], schema_id: int, what: Any) -> None:
    while len(held) >= MAX_SCHEMAS:
        del held[next(iter(held))]
    held[schema_id] = what


def _unavailable(schema_id: int, why: str) -> ContractError:
    return ContractError(
        "registry_unavailable",
        f"schema {schema_id} is not known yet, and the registry at "
        f"{settings().schema_registry_url} cannot tell: {why}",
    )


def _reader(schema_id: int, kind: str, text: str) -> Reader:
    if kind == "JSON":
        # The topic's own contract judges it, whatever the schema would let pass.
        return lambda value: value
    if kind != "AVRO":
        return _refuse("unknown_schema", f"schema {schema_id} is {kind}; JSON and AVRO are read")
    try:
        schema = fastavro.parse_schema(json.loads(text))
        refused = _without_counterpart(schema, "the record")
    except Exception as error:  # noqa: BLE001  # anyone may register anything
        return _refuse("unknown_schema", f"schema {schema_id} cannot be read: {error!r}"[:300])
    if refused:
        return _refuse("wrong_type", f"{refused} in schema {schema_id}, which no contract has")
    return lambda value: _json_of_avro(schema, value)


def _refuse(reason: str, message: str) -> Reader:
    def refuse(_: bytes) -> bytes:
        raise ContractError(reason, message)

    return refuse


def _json_of_avro(schema: Any, value: bytes) -> bytes:
    stream = io.BytesIO(value)
    try:
        record = fastavro.schemaless_reader(stream, schema, None)
    except OverflowError as error:
        raise ContractError("out_of_range", f"a time is in no calendar: {error}") from error
    except Exception as error:
        # What hostile bytes make it raise is written down nowhere.
        raise ContractError(
            "not_avro", f"the value is not of its schema: {error!r}"[:300]
        ) from error
    left = len(value) - stream.tell()
    if left:
        raise ContractError("not_avro", f"{left} bytes are left behind the value of its schema")
    return msgspec.json.encode(record)


def _without_counterpart(schema: Any, path: str, within: tuple[str, ...] = ()) -> str:
    """The first type that the contract cannot have, with its place; empty where there is none.

    Beside those that would pass for others these are records and arrays of nothing, of which a few
    bytes stand for any number, and records within themselves, which nest as deeply as they like.
    """
    if isinstance(schema, list):
        parts = [(each, path) for each in schema]
    elif not isinstance(schema, dict):
        if schema in within:
            return f"{path} is a record within itself"
        return f"{path} is {schema}" if schema in _REFUSED_TYPES else ""
    else:
        kind, logical = schema["type"], schema.get("logicalType")
        if logical in _REFUSED_LOGICAL_TYPES or kind in _REFUSED_TYPES:
            return f"{path} is {logical or kind}"
        if kind in ("record", "error"):
            if all(_takes_no_bytes(field["type"]) for field in schema["fields"]):
                return f"{path} is a record of nothing"
            within = (*within, schema["name"])
            parts = [(field["type"], field["name"]) for field in schema["fields"]]
        elif kind == "array" and _takes_no_bytes(schema["items"]):
            return f"{path} is an array of nothing"
        else:
            parts = [(schema[each], path) for each in ("items", "values") if each in schema]
    found = (_without_counterpart(each, at, within) for each, at in parts)
    return next(filter(None, found), "")


def _takes_no_bytes(schema: Any) -> bool:
    return (schema["type"] if isinstance(schema, dict) else schema) == "null"

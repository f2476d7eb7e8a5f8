"""How rows travel: topic names, partitions, row schemas, the envelope and the dead letter.

An envelope is 4 bytes of magic, 8 bytes of the plan's fingerprint and one Arrow IPC record-batch
message without its schema: the schema is compiled from the plan, so sending it with every message
would only make small envelopes large.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.coding import string_buffers
from features.errors import ContractError, WireError
from features.plan import FieldPlan, Plan
from kernels.crc import crc32

MAGIC = b"PSK1"
ROW_BITS = 20
"""`seq` of a row in a log is offset × 2^20 + row, so an envelope holds at most 2^20 rows."""

KIND_EVENT, KIND_LABEL, KIND_REFERENCE, KIND_MARKER = 0, 1, 2, 3
FOLDED, DUPLICATE, LATE = 0, 1, 2
VERDICTS = ("folded", "duplicate", "late")
LOG_EVENTS, LOG_LABELS, LOG_STAGES = 0, 1, 2
"""`position_log`: the raw event topic, the raw label topic, then 2 + the stage's index."""
LOG_MARKERS = 63
"""What ingest tells the first stage of time, beside the events: a marker's place is its stamp."""
LOG_REFERENCES = 64
"""The raw topic of a reference: 64 + its index in the plan."""


def dead_letter_topic(topic: str) -> str:
    """Where records of a users' topic go that break its contract."""
    return f"{topic}.dlq"


def late_topic(topic: str) -> str:
    """Where valid events go that came more than the lateness behind."""
    return f"{topic}.late"


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key, the same in every process and language (CRC-32)."""
    return zlib.crc32(key.encode()) % partitions


def partitions_of(keys: pa.Array, partitions: int) -> npt.NDArray[np.int64]:
    """The partition of each key, int64 [n]; of a null that of the empty text."""
    found = np.empty(len(keys), np.uint32)
    crc32(*string_buffers(keys), found)
    return found.astype(np.int64) % partitions


def seq_of(offset: int, row: int) -> int:
    """A row's place in a log as one integer, ordered like (offset, row)."""
    return offset << ROW_BITS | row


_schemas: dict[str, pa.Schema] = {}


def row_schema(plan: Plan) -> pa.Schema:
    """The Arrow schema of a row, the same in every log of a plan; later columns are null early."""
    schema = _schemas.get(plan.fingerprint)
    if schema is None:
        schema = _schemas[plan.fingerprint] = _compile_schema(plan)
    return schema


NEVER_US = -(2**63)
"""A stamp where nothing has been heard yet: anything may still come."""


def _compile_schema(plan: Plan) -> pa.Schema:
    columns = [
        pa.field("kind", pa.int8()),
        pa.field("verdict", pa.int8()),
        pa.field("origin_log", pa.int8()),
        pa.field("origin_partition", pa.int32()),
        pa.field("origin_offset", pa.int64()),
        pa.field("position_log", pa.int8()),
        pa.field("position_partition", pa.int32()),
        pa.field("position_seq", pa.int64()),
        pa.field("watermark_us", pa.int64()),
        pa.field("broker_time_us", pa.int64()),
        pa.field("event_id", pa.string()),
        pa.field("event_time_us", pa.int64()),
        *(pa.field(f.name, arrow_type(f)) for f in plan.fields),
        *(pa.field(key, pa.string()) for key in plan.derived_keys(plan.field_names)),
    ]
    if plan.label:
        columns.append(pa.field(plan.label.field, pa.int8()))
    for each in plan.references:
        columns += [
            pa.field(name, arrow_type(field))
            for name, field in zip(each.columns, each.fields, strict=True)
        ]
    columns.extend(pa.field(stage.seq_column, pa.int64()) for stage in plan.stages)
    made = [name for stage in plan.stages for name in stage.columns]
    made += [column.name for column in plan.columns if column.formula]
    columns.extend(pa.field(name, pa.float64()) for name in made)
    return pa.schema(columns)


def arrow_type(field: FieldPlan) -> pa.DataType:
    """How a field travels in a row; the lake keeps it in the same way, but for timestamps."""
    if field.type in ("text", "category"):
        return pa.string()
    if field.type == "boolean":
        return pa.bool_()
    if field.type == "list":
        return pa.list_(pa.string())
    return pa.float64() if field.type == "float" and field.decimals is None else pa.int64()


def vectors(plan: Plan, rows: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
    """The model's inputs, float64 [rows, columns], in the plan's order."""
    matrix = np.empty((rows.num_rows, len(plan.columns)), np.float64)
    for index, column in enumerate(plan.columns):
        matrix[:, index] = rows.column(column.name).to_numpy(zero_copy_only=False)
    return matrix


def encode(plan: Plan, rows: pa.RecordBatch) -> bytes:
    """Pack rows of `row_schema(plan)` into one envelope."""
    return MAGIC + bytes.fromhex(plan.fingerprint) + rows.serialize().to_pybytes()


def decode(plan: Plan, payload: bytes | None) -> pa.RecordBatch:
    """Unpack an envelope.

    Raises:
        WireError: it is no envelope, is damaged, or another plan packed it.
    """
    if payload is None or payload[:4] != MAGIC:
        begin = "nothing" if not payload else repr(payload[:4])
        raise WireError(f"not an envelope: it begins with {begin}, not {MAGIC!r}")
    if len(payload) < 12:
        raise WireError(f"damaged envelope of {len(payload)} bytes: its plan is missing")
    packed_by = payload[4:12].hex()
    if packed_by != plan.fingerprint:
        raise WireError(
            f"the envelope was packed by plan {packed_by}, this process runs {plan.fingerprint}; "
            "give the changed feature set a new version"
        )
    try:
        body = pa.py_buffer(memoryview(payload)[12:])
        rows = pa.ipc.read_record_batch(body, row_schema(plan))
        rows.validate()
    except (pa.ArrowException, OSError, EOFError) as error:
        raise WireError(f"damaged envelope of {len(payload)} bytes: {error}") from error
    return rows


def decode_record(plan: Plan, record: Any) -> pa.RecordBatch:
    """Unpack the envelope that a message of confluent-kafka holds.

    Raises:
        WireError: as of `decode`, with the record's place: a log of ours has no bad records, so
            its reader ends and passes over nothing.
    """
    try:
        return decode(plan, record.value())
    except WireError as error:
        place = f"{record.topic()} [{record.partition()}] offset {record.offset()}"
        raise WireError(f"{place}: {error}") from error


Headers = Sequence[tuple[str, bytes | None]]
"""The headers of a Kafka record."""

_REASON, _BROKER_TIME = "penstock.reason", "penstock.broker_time_ms"
_DEALT_WITH, _LETTER = "penstock.dealt_with", "penstock.letter"
CUT_FROM = "penstock.cut_from_bytes"
"""Header of a dead letter whose record was too large: it holds the beginning of so many bytes."""
REPLAY_OF = "penstock.replay_of"
"""Header of a record that was sent again: the origin of the one that was refused."""
REPLAYED, DROPPED = "replayed", "dropped"


def origin_text(topic: str, partition: int, offset: int) -> str:
    """A raw record's identity as headers carry it: `topic/partition/offset`."""
    return f"{topic}/{partition}/{offset}"


@dataclass(frozen=True)
class DeadLetter:
    """A raw record that was refused: what, where and why travel in headers, the bytes as they were.

    The headers stand behind the record's own. Their names are those of Kafka Streams' dead-letter
    queue (KIP-1034), and ours where that has none: the reason code and the broker's time. There is
    no stack trace, for a refusal is a verdict on the record, not a fault of the program.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    message: str
    timestamp_ms: int

    def headers(self) -> Headers:
        """The Kafka headers of the dead letter, to be put behind those of the record."""
        return [
            ("__streams.errors.exception", ContractError.__name__.encode()),
            ("__streams.errors.message", self.message.encode()),
            ("__streams.errors.topic", self.topic.encode()),
            ("__streams.errors.partition", str(self.partition).encode()),
            ("__streams.errors.offset", str(self.offset).encode()),
            (_REASON, self.reason.encode()),
            (_BROKER_TIME, str(self.timestamp_ms).encode()),
        ]

    @classmethod
    def from_headers(cls, headers: Headers) -> DeadLetter:
        """Read a dead letter's headers.

        Raises:
            WireError: a header is missing.
        """
        # Ours are the last: the record may have been a dead letter of somebody else's.
        found = dict(headers)
        said = {name: bytes(found[name] or b"").decode() for name in _ours() if name in found}
        try:
            return cls(
                topic=said["__streams.errors.topic"],
                partition=int(said["__streams.errors.partition"]),
                offset=int(said["__streams.errors.offset"]),
                reason=said[_REASON],
                message=said["__streams.errors.message"],
                timestamp_ms=int(said[_BROKER_TIME]),
            )
        except KeyError as missing:
            raise WireError(f"a dead letter lacks the header {missing}") from None
        except ValueError as error:
            raise WireError(f"a dead letter's header cannot be read: {error}") from None


def own_headers(headers: Headers) -> Headers:
    """The headers that a refused record came with: a dead letter's without ours."""
    rest = list(headers)
    for name in (CUT_FROM, *reversed(_ours())):
        if rest and rest[-1][0] == name:
            rest.pop()
    return rest


def is_dead_letter(headers: Headers) -> bool:
    """Whether a record was put into a dead-letter topic by ingest."""
    return any(name == _REASON for name, _ in headers)


def _ours() -> list[str]:
    return [name for name, _ in DeadLetter("", 0, 0, "", "", 0).headers()]


@dataclass(frozen=True)
class Dealt:
    """A marker in a dead-letter topic: the letter of this origin was replayed or dropped."""

    topic: str
    partition: int
    offset: int
    how: str

    def headers(self) -> Headers:
        """The Kafka headers of the marker, which has no value."""
        letter = origin_text(self.topic, self.partition, self.offset)
        return [(_DEALT_WITH, self.how.encode()), (_LETTER, letter.encode())]

    @classmethod
    def from_headers(cls, headers: Headers) -> Dealt | None:
        """Read a marker; None where the record is none.

        Raises:
            WireError: it cannot be read.
        """
        found = dict(headers)
        how = found.get(_DEALT_WITH)
        # A dead letter carries the headers of its record, whatever they are called.
        if how is None or _REASON in found:
            return None
        letter = bytes(found.get(_LETTER) or b"").decode(errors="replace")
        try:
            topic, partition, offset = letter.rsplit("/", 2)
            return cls(topic, int(partition), int(offset), bytes(how).decode())
        except ValueError:
            raise WireError(f"a marker of a dead letter names no letter: {letter[:80]!r}") from None

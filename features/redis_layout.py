"""How vectors lie in Redis: Feast's layout, and the commands that read and write it.

A key is Feast's serialised entity key (version 3) followed by the project. An entity of several
fields is to Feast several entities of one view, whose keys lie sorted by the fields' names. Under
the key lies a hash: a field for each column, named by the murmur3 hash of `view:column`, and
`_ts:<view>`, the event time as a protobuf Timestamp. What is written here Feast's SDK reads, and
what it writes is read here.

Our Timestamps carry one field more, which every reader of protobuf passes over: the definition's
fingerprint, the vector's place in the order below, and the vector once more. So one field answers
a read, at half the work for Redis; and as soon as anyone else writes the key, it is gone. What
lacks it, or has it from another definition, is read column by column.

**The order.** Of two vectors of a key the one with the newer event time is kept; of one time that
of the higher version of the feature set; then the one later in the stage's log, where all events
of a key lie in one partition. A script compares inside Redis, so however often, late or
concurrently vectors are written, the newest stays. (Feast's SDK compares between a read and a
write, and of one event time keeps what came first.)

**Time to live.** A vector whose event is older than the set's `ttl` is not served. Redis drops its
key at that moment, because Feast's SDK looks at no `ttl` when it reads Redis. Feast's own
`key_ttl_seconds` counts from the write, which for what is replayed is too late; counted from the
event, it agrees with Feast's point-in-time join. Nor does the order suffer: what is older than a
dropped vector has expired too, and is dropped as it is written.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.errors import PenstockError, WireError
from features.plan import Plan, StagePlan
from features.resp import bulk, command

Key = str | tuple[str, ...]
"""A key of a stage; where its entity has several fields, their texts in the declared order."""

_OWN = 0x7A
"""The tag of our field in a Timestamp: number 15, of a length."""
_TEXT = 2
"""Feast's number of a string's type."""
_DOUBLE = 0x29
"""The tag of a `double_val` in Feast's Value: number 5, of 64 bits."""
_NULL = struct.pack("<Bd", _DOUBLE, np.nan)

_SCRIPT = b"""
local function order(stamp)
  local at, number = 1, {[8] = 0, [16] = 0}
  while at <= #stamp do
    local tag, value, scale, byte = stamp:byte(at), 0, 1
    repeat
      at = at + 1
      byte = stamp:byte(at)
      value = value + byte % 128 * scale
      scale = scale * 128
    until byte < 128
    at = at + 1
    if tag == 122 then
      local version, high, low, seq_high, seq_low = struct.unpack('>I4I4I4I4I4', stamp, at + 8)
      return {high, low, version, seq_high, seq_low}, stamp:sub(at, at + 7)
    end
    number[tag] = value
  end
  local us = number[8] * 1000000 + math.floor(number[16] / 1000)
  return {math.floor(us / 4294967296), us % 4294967296, 0, 0, 0}
end

local ttl_ms, name, stamp = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local mine, definition = order(stamp)
local held = redis.call('HGET', KEYS[1], name)
if held then
  local theirs, other = order(held)
  local newer = false
  for i = 1, 5 do
    if mine[i] ~= theirs[i] then
      newer = mine[i] > theirs[i]
      break
    end
  end
  if not newer then return 0 end
  if other and other ~= definition then redis.call('DEL', KEYS[1]) end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ttl_ms > 0 then
  local event_ms = math.floor((mine[1] * 4294967296 + mine[2]) / 1000)
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', event_ms + ttl_ms))
else
  redis.call('PERSIST', KEYS[1])
end
return 1
"""
"""Writes ARGV[2..] (fields and values) unless the key holds what is as new or newer.

A key left by another definition is emptied first: what a reader finds is of one definition. A
Timestamp without our field counts as version 0, so that at equal times ours replaces it.
"""
_SHA = hashlib.sha1(_SCRIPT).hexdigest().encode()
LOAD_SCRIPT = command(b"SCRIPT", b"LOAD", _SCRIPT)
"""What a connection that writes begins with."""


def view_name(plan: Plan, stage: StagePlan) -> str:
    """The feature view of a stage."""
    return f"{plan.name}_{stage.name}"


def stored_stages(plan: Plan) -> list[StagePlan]:
    """The stages that compute something; each has a view."""
    return [stage for stage in plan.stages if stage.outputs]


class ViewLayout:
    """How the vectors of one stage lie in Redis, and the commands that read and write them.

    `own` is how one of our Timestamps begins where this definition made it, `stamp` its dtype.
    """

    def __init__(self, plan: Plan, stage: StagePlan) -> None:
        self.name = view_name(plan, stage)
        self.columns = stage.outputs
        self.version, self.fingerprint = plan.version, plan.fingerprint
        self._ttl_ms = -(-plan.ttl_us // 1000)
        width = len(stage.outputs)
        definition = bytes.fromhex(plan.fingerprint) + struct.pack(">I", plan.version)
        self.own = bytes([_OWN]) + _varint(len(definition) + 16 + 8 * width) + definition
        self.stamp = np.dtype(
            [
                ("own", f"V{len(self.own)}"),
                ("time", ">u8"),
                ("seq", ">u8"),
                ("values", "<f8", (width,)),
                ("seconds", "u1", (6,)),
                ("nanos", "u1", (6,)),
            ]
        )
        self._time_field = f"_ts:{self.name}".encode()
        self._fields = [
            struct.pack("<I", mmh3.hash(f"{self.name}:{column}", signed=False))
            for column in stage.outputs
        ]
        self._project = plan.name.encode()
        self._key_column, self._seq_column = stage.key_column, stage.seq_column
        self._key_fields = stage.key_fields
        self._get = self._command(b"HGET", [self._time_field])
        self._get_columns = self._command(b"HMGET", [*self._fields, self._time_field])

    def ask(self, keys: Sequence[Key]) -> bytes:
        """The commands that read the Timestamps of some keys."""
        return self._each(*self._get, keys)

    def ask_columns(self, keys: Sequence[Key]) -> bytes:
        """The commands that read each column, then the Timestamp, of some keys."""
        return self._each(*self._get_columns, keys)

    def put(self, rows: pa.RecordBatch) -> list[bytes]:
        """The commands that write the newest vector of each key of folded events."""
        entities = rows.column(self._key_column).dictionary_encode()
        time_us = rows.column("event_time_us").to_numpy()
        # History has no place in a log, and came before all that has.
        seq = rows.column(self._seq_column).fill_null(-1).to_numpy() + 1
        order = np.lexsort((seq, time_us))
        newest = np.empty(len(entities.dictionary), np.int64)
        newest[entities.indices.to_numpy()[order]] = order
        values = np.column_stack(
            [rows.column(c).to_numpy(zero_copy_only=False)[newest] for c in self.columns]
        )
        closings = self._closings(time_us[newest], seq[newest], values)
        opening = b"*%d\r\n" % (7 + 2 * len(self.columns))
        opening += b"".join(map(bulk, (b"EVALSHA", _SHA, b"1")))
        heads = _Heads(opening, self._key_fields, self._project)
        packed, size = closings.tobytes(), closings.itemsize
        keys = entities.dictionary.to_pylist()
        if len(self._key_fields) > 1:
            at = pa.array(newest)
            keys = zip(
                *(rows.column(f).take(at).to_pylist() for f in self._key_fields), strict=True
            )
        return [
            b"%b%b%b" % (heads[len(key)], key, packed[number * size : (number + 1) * size])
            for number, key in enumerate(self._serialised(keys))
        ]

    def _each(self, heads: _Heads, closing: bytes, keys: Sequence[Key]) -> bytes:
        """A command for each key."""
        begun = [heads[len(key)] + key for key in self._serialised(keys)]
        return closing.join([*begun, b""])

    def _serialised(self, keys: Iterable[Key]) -> Iterable[bytes]:
        """What stands of each key after its head."""
        if len(self._key_fields) == 1:
            return map(str.encode, keys)  # type: ignore[arg-type]
        return map(self._several, keys)

    def _several(self, key: Key) -> bytes:
        if isinstance(key, str) or len(key) != len(self._key_fields):
            raise PenstockError(f"{key!r} is no key of {self.name}: give {self._key_fields}")
        texts = dict(zip(self._key_fields, key, strict=True))
        return b"".join([_value(texts[name].encode()) for name in sorted(texts)])

    def _command(self, verb: bytes, fields: Sequence[bytes]) -> tuple[_Heads, bytes]:
        """What stands before and after the key in a command that reads fields."""
        opening = b"*%d\r\n%b" % (2 + len(fields), bulk(verb))
        closing = b"%b\r\n%b" % (self._project, b"".join(map(bulk, fields)))
        return _Heads(opening, self._key_fields, self._project), closing

    def _closings(
        self,
        time_us: npt.NDArray[np.int64],
        seq: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
    ) -> npt.NDArray[Any]:
        """What stands after the key in each command that writes: [keys], of one size."""
        width = len(self.columns)
        heads = np.array([bulk(f) + b"$9\r\n" + bytes([_DOUBLE]) for f in self._fields], "V15")
        start = b"".join(
            (
                self._project,
                b"\r\n",
                bulk(b"%d" % self._ttl_ms),
                bulk(self._time_field),
                b"$%d\r\n" % self.stamp.itemsize,
            )
        )
        column = [("head", heads.dtype), ("value", "<f8"), ("end", "V2")]
        closing = np.empty(
            len(values),
            [
                ("start", f"V{len(start)}"),
                ("stamp", self.stamp),
                ("end", "V2"),
                ("columns", column, (width,)),
            ],
        )
        line_end = np.void(b"\r\n")
        closing["start"], closing["end"] = np.void(start), line_end
        stamp, columns = closing["stamp"], closing["columns"]
        stamp["own"], stamp["time"], stamp["seq"] = np.void(self.own), time_us, seq
        stamp["values"] = columns["value"] = values
        stamp["seconds"] = _tagged(1, time_us // 1_000_000)
        stamp["nanos"] = _tagged(2, time_us % 1_000_000 * 1000)
        columns["head"], columns["end"] = heads, line_end
        return closing


class _Heads(dict[int, bytes]):
    """What stands in a command before the entity's own key, by that key's length in bytes.

    The type and length of a key of one field are part of its head; those of several stand before
    each of them.
    """

    def __init__(self, opening: bytes, fields: Sequence[str], project: bytes) -> None:
        super().__init__()
        names = map(str.encode, sorted(fields))
        self._opening = opening
        self._start = struct.pack("<I", len(fields)) + b"".join(map(_value, names))
        self._is_one = len(fields) == 1
        self._others = len(self._start) + 8 * self._is_one + len(project)

    def __missing__(self, length: int) -> bytes:
        begun = self._start + (struct.pack("<II", _TEXT, length) if self._is_one else b"")
        head = self[length] = b"%b$%d\r\n%b" % (self._opening, self._others + length, begun)
        return head


def _value(text: bytes) -> bytes:
    """A text as Feast serialises it, in a name or in a key."""
    return struct.pack("<II", _TEXT, len(text)) + text


def _varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _tagged(field: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """A protobuf field of a number below 2^35 as six bytes: the tag, and a varint of five."""
    out = np.empty((len(numbers), 6), np.uint8)
    out[:, 0] = field << 3
    out[:, 1:] = numbers[:, None] >> np.arange(0, 35, 7) & 0x7F
    out[:, 1:5] |= 0x80
    return out


def opened(stamp: bytes) -> tuple[int, int, str]:
    """Event time (µs), version and fingerprint of any Timestamp of the store."""
    at, numbers = 0, {8: 0, 16: 0}
    version, fingerprint = 0, ""
    while at < len(stamp):
        tag, number, shift, byte = stamp[at], 0, 0, 0x80
        while byte & 0x80:
            at += 1
            byte = stamp[at]
            number |= (byte & 0x7F) << shift
            shift += 7
        at += 1
        if tag == _OWN:
            fingerprint = stamp[at : at + 8].hex()
            (version,) = struct.unpack_from(">I", stamp, at + 8)
            at += number
        else:
            numbers[tag] = number
    return numbers[8] * 1_000_000 + numbers[16] // 1000, version, fingerprint


def doubles(values: Sequence[bytes | None]) -> tuple[float, ...]:
    """Numbers as Feast stores them, NaN where there is none, or a null.

    Raises:
        WireError: one of them is something else.
    """
    packed = b"".join([value or _NULL for value in values])
    if len(packed) != 9 * len(values) or packed[::9] != bytes([_DOUBLE]) * len(values):
        wrong = next((v for v in values if v and (len(v) != 9 or v[0] != _DOUBLE)), packed)
        raise WireError(f"the online store holds {wrong!r} for a feature, which is no double")
    return struct.unpack("<" + "xd" * len(values), packed)

"""How the fields of a row become the integers that windows keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kernels.identity import hash_strings
from kernels.speed import LATITUDE_SHIFT, LONGITUDE_SHIFT


@dataclass(frozen=True)
class Coded:
    """A field of the event and its coding: `value`, `bucket` (by edges), `code` or `hash`."""

    field: str
    coding: str = "value"
    edges: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()

    def of(self, rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """The integers of each row, int64 [n]; 0 where a row (a label's) has none."""
        column = rows.column(self.field)
        if self.coding == "hash":
            return hashes(column)
        if self.coding == "code":
            found = pc.index_in(column, value_set=pa.array(self.categories, pa.string()))
            return ints(found).astype(np.int64)
        values = ints(column).astype(np.int64, copy=False)
        if self.coding == "bucket":
            return np.searchsorted(np.array(self.edges), values, side="right").astype(np.int64)
        return values


def composite_key(parts: Sequence[str]) -> str:
    """One text for several.

    Each but the last is led by its length in characters: `abc` and `x` give `3:abcx`. So two keys
    are the same only where every part is, whatever characters are in them.
    """
    return "".join([f"{len(part)}:{part}" for part in parts[:-1]]) + parts[-1]


def composite_keys(parts: Sequence[pa.Array]) -> pa.Array:
    """`composite_key` of each row of columns of texts; null where one of them is."""
    pieces: list[Any] = []
    for part in parts[:-1]:
        pieces += [pc.utf8_length(part).cast(pa.string()), ":", part]
    return pc.binary_join_element_wise(*pieces, parts[-1], "")


def derived_columns(
    keys: Mapping[str, Sequence[str]], columns: Mapping[str, Any]
) -> dict[str, pa.Array]:
    """The columns of `plan.derived_keys(…)`, made of the columns of their fields."""
    return {name: composite_keys([columns[part] for part in parts]) for name, parts in keys.items()}


def ints(column: pa.Array) -> Any:
    """A column as a numpy array; nulls (of fields a label row lacks) become 0."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)


def string_buffers(texts: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """(offsets [n + 1], bytes) of a column of strings, as they lie in memory; nulls are empty."""
    _, offsets, text = texts.buffers()
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return places, np.frombuffer(text or b"", np.uint8)


def hashes(texts: pa.Array) -> npt.NDArray[np.int64]:
    """64-bit hashes of strings, int64 [n]; nulls count as empty."""
    out = np.empty(len(texts), np.int64)
    hash_strings(*string_buffers(texts), out)
    return out


def hash_of(value: Any) -> int:
    """The integer that stands for one value: a text's hash, a number itself."""
    if isinstance(value, tuple):
        return pack_position(*value)
    return int(hashes(pa.array([value]))[0]) if isinstance(value, str) else int(value)


def pack_position(latitude_e6: int, longitude_e6: int) -> int:
    """A position as one integer, from millionths of a degree."""
    return (latitude_e6 + LATITUDE_SHIFT) << 32 | (longitude_e6 + LONGITUDE_SHIFT)


def unpack_position(packed: int) -> tuple[int, int]:
    """(latitude, longitude) in millionths of a degree."""
    return (packed >> 32) - LATITUDE_SHIFT, (packed & 0xFFFFFFFF) - LONGITUDE_SHIFT

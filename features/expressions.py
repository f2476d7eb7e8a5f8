"""Row expressions: what a column computes from the event and from other columns.

A formula is plain data, nested tuples: `("/", ("column", "amount"), ("number", 100.0))`. All is
float64. Nothing gives infinity or NaN: what is divided by 0 is 0, and so is the logarithm of 1 + x
where x ≤ -1; what a float64 cannot hold is the largest one of its sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.coding import hashes, ints
from features.duration import DAY_US, HOUR_US, MINUTE_US
from kernels.elementwise import log1p, quotient

Floats = npt.NDArray[np.float64]
Formula = tuple[Any, ...]

_LARGEST = np.finfo(np.float64).max

TIME_PARTS: dict[str, Callable[[Any], Any]] = {
    # 1970-01-01 was a Thursday: day 0 of the epoch is weekday 3.
    "day_of_week": lambda us: (us // DAY_US + 3) % 7,
    "hour_of_day": lambda us: us // HOUR_US % 24,
    "minute_of_day": lambda us: us // MINUTE_US % 1440,
    "is_weekend": lambda us: (us // DAY_US + 3) % 7 >= 5,
    "is_night": lambda us: us // HOUR_US % 24 <= 6,
}
"""Parts of the event time in UTC, each from int64 [n] µs."""

_ARITHMETIC: dict[str, Callable[[Floats, Floats], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": quotient,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def evaluate(
    formula: Formula, columns: Mapping[str, pa.Array], times_us: npt.NDArray[np.int64]
) -> Floats:
    """A formula for every row, float64 [n].

    Args:
        formula: of the plan.
        columns: the row's fields and the columns made so far. Null, where a reference has none,
            counts as 0, as an empty text, or as the code -1.
        times_us: int64 [n], event times.
    """
    made = _evaluate(formula, columns, times_us)
    # Adding 0 turns -0 into 0: there is one zero.
    return np.broadcast_to(np.asarray(made, np.float64), times_us.shape) + 0.0


def _evaluate(
    formula: Formula, columns: Mapping[str, pa.Array], times_us: npt.NDArray[np.int64]
) -> Any:
    name, *rest = formula
    if name in _ARITHMETIC:
        a, b = (_evaluate(each, columns, times_us) for each in rest)
        return _finite(_ARITHMETIC[name], a, b)
    if name == "number":
        return np.float64(rest[0])
    if name == "column":
        return ints(columns[rest[0]]).astype(np.float64)
    if name in TIME_PARTS:
        return np.asarray(TIME_PARTS[name](times_us), np.float64)
    if name == "log1p":
        return log1p(_evaluate(rest[0], columns, times_us), times_us.shape)
    if name == "clip":
        return np.clip(_evaluate(rest[0], columns, times_us), *rest[1:])
    if name == "bucket":
        found = np.searchsorted(rest[1], _evaluate(rest[0], columns, times_us), side="right")
        return np.asarray(found, np.float64)
    if name == "in":
        column = columns[rest[0]]
        found = pc.is_in(column, value_set=pa.array(rest[1], column.type))
        return ints(found).astype(np.float64)
    if name == "hash":
        return np.asarray(hashes(columns[rest[0]]) % rest[1], np.float64)
    if name == "code":
        found = pc.index_in(columns[rest[0]], value_set=pa.array(rest[1], pa.string()))
        return ints(found.fill_null(-1)).astype(np.float64)
    if name == "length":
        return ints(pc.list_value_length(columns[rest[0]])).astype(np.float64)
    if name == "age_seconds":
        return (times_us - ints(pc.coalesce(columns[rest[0]], pa.array(times_us)))) / 1e6
    if name == "known":
        return ints(columns[rest[0]].is_valid()).astype(np.float64)
    raise ValueError(f"a formula with {name!r}")


def _finite(operation: Callable[[Floats, Floats], Any], a: Floats, b: Floats) -> Floats:
    """What the operation gives of finite numbers, held to the largest float64."""
    try:
        with np.errstate(over="raise"):
            return np.asarray(operation(a, b), np.float64)
    except FloatingPointError:
        with np.errstate(over="ignore"):
            return np.clip(operation(a, b), -_LARGEST, _LARGEST)

"""Loads the public card payments of the Fraud Detection Handbook into the lake as history.

The published columns are kept in meaning: amounts become integer minor units exactly, times are
read as UTC, and identifiers become text padded with zeros, so that their order as text is their
order as numbers. Every fraud gets one label, known seven days after its payment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from features.errors import PenstockError
from features.plan import Plan
from penstock.generator.history import HistoryWriter, Progress, Written

_COLUMNS = (
    "TRANSACTION_ID",
    "TX_DATETIME",
    "CUSTOMER_ID",
    "TERMINAL_ID",
    "TX_AMOUNT",
    "TX_FRAUD",
)
_EVENT_DIGITS, _ENTITY_DIGITS = 9, 6
KNOWN_AFTER_US = 7 * 86_400_000_000
_COMMIT_ROWS = 200_000

_NO_PICKLES = (
    "holds pickles, and opening a pickle runs whatever code it carries; read them where you trust "
    "them and save one table instead: "
    "pd.concat(map(pd.read_pickle, sorted(files))).to_parquet('transactions.parquet')"
)


def find_transactions(path: Path) -> list[Path]:
    """The files to load: one Parquet or CSV file, or those of a folder that hold payments.

    Raises:
        PenstockError: there is none, or there are only pickles.
    """
    if not path.exists():
        raise PenstockError(f"there is no {path}; give the data set's file or its folder")
    if path.is_file():
        if path.suffix in (".pkl", ".pickle"):
            raise PenstockError(f"{path} {_NO_PICKLES}")
        return [path]
    tables = sorted(each for each in path.iterdir() if each.suffix in (".parquet", ".csv"))
    found = [each for each in tables if set(_COLUMNS) <= set(_names(each))]
    if not found:
        pickles = any(each.suffix in (".pkl", ".pickle") for each in path.iterdir())
        raise PenstockError(
            f"{path} {_NO_PICKLES}"
            if pickles
            else f"{path} holds no Parquet or CSV file with the columns {', '.join(_COLUMNS)}"
        )
    return found


def import_handbook(
    path: Path, plan: Plan, progress: Progress = lambda rows, done: None
) -> Written:
    """Write the data set at `path` into the lake tables `events` and `labels`.

    Raises:
        PenstockError: a file cannot be read as this data set, or the lake holds events already.
    """
    payments = read_payments(path)
    writer = HistoryWriter(plan)
    for first in range(0, payments.num_rows, _COMMIT_ROWS):
        lot = payments.slice(first, _COMMIT_ROWS).combine_chunks()
        time_us: NDArray[np.int64] = lot["time_us"].to_numpy()
        fields = ("customer_id", "terminal_id", "amount")
        writer.append_events(
            lot["event_id"].combine_chunks(),
            time_us,
            {name: lot[name].combine_chunks() for name in fields},
        )
        frauds = lot.filter(lot["is_fraud"])
        fraud_us: NDArray[np.int64] = frauds["time_us"].to_numpy()
        writer.append_labels(
            frauds["event_id"].combine_chunks(),
            fraud_us,
            fraud_us + KNOWN_AFTER_US,
            {"terminal_id": frauds["terminal_id"].combine_chunks()},
            np.ones(frauds.num_rows, np.bool_),
        )
        progress(writer.events, writer.events / payments.num_rows)
    return Written(writer.events, writer.labels, writer.labels)


def _names(path: Path) -> list[str]:
    try:
        if path.suffix == ".csv":
            with pa.csv.open_csv(path) as reader:
                names: list[str] = reader.schema.names
        else:
            names = pa.parquet.read_schema(path).names
    except pa.ArrowInvalid as error:
        raise PenstockError(f"{path} is neither Parquet nor CSV: {error}") from error
    return names


def read_payments(path: Path) -> pa.Table:
    """All payments at `path` in order of time and id.

    Columns: `event_id`, `time_us`, `customer_id`, `terminal_id`, `amount` in cents, `is_fraud`.

    Raises:
        PenstockError: a file cannot be read as this data set.
    """
    lots = []
    for file in find_transactions(path):
        missing = [name for name in _COLUMNS if name not in _names(file)]
        if missing:
            raise PenstockError(f"{file} lacks the columns {', '.join(missing)}")
        try:
            lots.append(_converted(_table(file)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PenstockError(f"{file} is not the published data set: {error}") from error
    return pa.concat_tables(lots).sort_by([("time_us", "ascending"), ("event_id", "ascending")])


def _table(path: Path) -> pa.Table:
    if path.suffix == ".csv":
        options = pa.csv.ConvertOptions(
            include_columns=list(_COLUMNS), column_types={"TX_DATETIME": pa.timestamp("us")}
        )
        return pa.csv.read_csv(path, convert_options=options)
    return pa.parquet.read_table(path, columns=list(_COLUMNS))


def _converted(table: pa.Table) -> pa.Table:
    whole = {
        name: pc.cast(table[name], pa.int64())
        for name in ("TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID", "TX_FRAUD")
    }
    time = pc.cast(table["TX_DATETIME"], pa.timestamp("us"))
    columns: dict[str, Any] = {
        "event_id": _padded(whole["TRANSACTION_ID"], _EVENT_DIGITS),
        "time_us": pc.cast(time, pa.int64()),
        "customer_id": _padded(whole["CUSTOMER_ID"], _ENTITY_DIGITS),
        "terminal_id": _padded(whole["TERMINAL_ID"], _ENTITY_DIGITS),
        "amount": _minor(pc.cast(table["TX_AMOUNT"], pa.float64())),
        "is_fraud": pc.not_equal(whole["TX_FRAUD"], 0),
    }
    return pa.table(columns)


def _minor(amount: pa.ChunkedArray) -> pa.Array:
    """Amounts in cents.

    Raises:
        PenstockError: one of them is no whole number of cents.
    """
    cents = amount.to_numpy() * 100.0
    minor = np.rint(cents)
    # A decimal amount read as a float is off by its rounding, far less than this.
    wrong = np.flatnonzero(~(np.abs(cents - minor) < 1e-4))
    if len(wrong):
        raise PenstockError(
            f"row {wrong[0]}: TX_AMOUNT {amount[int(wrong[0])]} is no whole number of cents"
        )
    return pa.array(minor.astype(np.int64))


def _padded(number: pa.ChunkedArray, digits: int) -> pa.Array:
    text = pc.utf8_lpad(pc.cast(number, pa.string()), digits, padding="0")
    return text.combine_chunks()

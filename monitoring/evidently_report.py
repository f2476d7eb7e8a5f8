"""The drift report people read: Evidently's HTML page over feature columns and the score."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from features.errors import PenstockError

THRESHOLD = 0.2
"""The population stability index above which the report calls a column drifted."""


def drift_report(
    reference: pa.Table | pd.DataFrame,
    current: pa.Table | pd.DataFrame,
    path: Path,
    columns: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compares two sets of rows and writes the report to `path`.

    Args:
        reference: rows the champion was measured on.
        current: rows to compare, with the same columns.
        path: the HTML file; its folder is made.
        columns: what to compare; by default every float column of both, which leaves out
            identities and offsets.

    Returns:
        `{"drifted": n, "share": float, "columns": {name: psi}}`.

    Raises:
        PenstockError: one side has no rows, or there is no column to compare.
    """
    old, new = _frame(reference), _frame(current)
    names = list(columns if columns is not None else _floats(old, new))
    if not names or old.empty or new.empty:
        raise PenstockError(
            f"nothing to compare: {len(old)} reference rows, {len(new)} current rows, "
            f"{len(names)} common float columns; give tables with rows of the same features"
        )
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        # Evidently's own use of its dependencies; none of it is ours to mend.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        shape = DataDefinition(numerical_columns=names)
        snapshot = Report(
            [DataDriftPreset(columns=names, num_method="psi", num_threshold=THRESHOLD)]
        ).run(
            Dataset.from_pandas(new[names], data_definition=shape),
            Dataset.from_pandas(old[names], data_definition=shape),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        snapshot.save_html(str(path))
        return _summary(snapshot.dict())


def _frame(rows: pa.Table | pd.DataFrame) -> pd.DataFrame:
    return rows if isinstance(rows, pd.DataFrame) else rows.to_pandas()


def _floats(old: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    both = old.columns.intersection(new.columns)
    return [name for name in both if old[name].dtype.kind == new[name].dtype.kind == "f"]


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    count, *columns = found["metrics"]
    return {
        "drifted": int(count["value"]["count"]),
        "share": float(count["value"]["share"]),
        "columns": {metric["config"]["column"]: float(metric["value"]) for metric in columns},
    }

"""`penstock sql`: ask the lake."""

from __future__ import annotations

import csv
import json
import sys
from datetime import date, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from features.errors import PenstockError

_LONGEST_TABLE_ROWS = 200


def sql(
    query: Annotated[
        str,
        typer.Argument(
            help="One SELECT over events, labels, features, scores, dead_letters, "
            "feature_backfill.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a row.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Query events, features, scores and dead letters in the lake."""
    from serving.sql import query as ask

    if as_json and as_csv:
        raise PenstockError("--json and --csv exclude each other; give one")
    found = ask(query)
    rows = found.to_pylist()
    if as_json:
        print(json.dumps([{k: _plain(v) for k, v in row.items()} for row in rows], indent=2))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(found.column_names)
        writer.writerows([_plain(value) for value in row.values()] for row in rows)
    else:
        _print_table(found.column_names, rows)


def _print_table(names: list[str], rows: list[dict[str, Any]]) -> None:
    console = Console()
    shown = [[_shown(value) for value in row.values()] for row in rows[:_LONGEST_TABLE_ROWS]]
    widths = [max(map(len, column)) for column in zip(names, *shown, strict=True)]
    if console.is_terminal and sum(widths) + 3 * len(names) + 1 > console.width:
        # Columns that do not fit say nothing: one line a value instead.
        longest = max(map(len, names))
        for number, values in enumerate(shown, 1):
            print(f"─ row {number}")
            for name, value in zip(names, values, strict=True):
                print(f"{name:<{longest}}  {value}")
    else:
        table = Table(*names)
        for values in shown:
            table.add_row(*values)
        console.print(table, markup=False, highlight=False)
    left = len(rows) - _LONGEST_TABLE_ROWS
    if left > 0:
        print(f"{left} more rows; add a LIMIT, or take all with --csv or --json", file=sys.stderr)


def _plain(value: Any) -> Any:
    """A value as JSON and CSV can hold it."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "∅"
    plain = _plain(value)
    return f"{plain:.6g}" if isinstance(plain, float) else str(plain)

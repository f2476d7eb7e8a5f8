"""SQL for analysts: DuckDB over the lake's Delta tables, read-only.

The tables are handed to DuckDB as Arrow data sets, opened here; DuckDB itself may touch no file
and no network, so a query can read the lake and nothing else.
"""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from features import lake
from features.catalog import load_plan
from features.errors import PenstockError
from features.settings import settings


def query(sql: str) -> pa.Table:
    """The result of one SELECT over the views `events`, `labels`, `features`, `scores`,
    `dead_letters`, `feature_backfill` and `reference_…`, one for each reference; a table nobody has
    written to yet is empty.

    Raises:
        PenstockError: the statement is no single query, names what is not there, or reaches for
            files.
    """
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as database:
        tables = _tables()
        for table, rows in tables.items():
            database.register(table, rows)
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET python_enable_replacements = false")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        _refuse_other_statements(database, sql, list(tables))
        try:
            return database.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise PenstockError(_sentence(error)) from error


def _tables() -> dict[str, ds.Dataset | pa.Table]:
    plan = load_plan(settings().feature_set)
    found: dict[str, ds.Dataset | pa.Table] = {}
    for table in (*lake.tables(plan), "feature_backfill"):
        delta = lake.open_table(table)
        if delta is not None:
            found[table] = delta.to_pyarrow_dataset()
        elif table != "labels" or plan.label is not None:
            found[table] = lake.schema(table, plan).empty_table()
    return found


def _refuse_other_statements(
    database: duckdb.DuckDBPyConnection, sql: str, tables: list[str]
) -> None:
    try:
        statements = database.extract_statements(sql)
    except duckdb.Error as error:
        raise PenstockError(_sentence(error)) from error
    readers = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(statements) != 1 or statements[0].type not in readers:
        raise PenstockError(
            f"the lake is read-only and takes one SELECT at a time; there is {', '.join(tables)}"
        )


def _sentence(error: duckdb.Error) -> str:
    """DuckDB's message without its excerpt of the statement."""
    text = re.split(r"\n\s*\nLINE |\nLINE ", str(error))[0]
    return "SQL: " + " ".join(text.split())

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from typer import Typer
from typer.testing import CliRunner

from features import lake
from features.catalog import load_plan
from features.errors import PenstockError
from features.settings import settings
from penstock.commands.sql import sql
from serving.sql import query

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def lake_with_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_LAKE_URI", str(tmp_path / "lake"))
    settings.cache_clear()
    plan = load_plan(settings().feature_set)
    rows = [
        {
            "origin_partition": 0,
            "origin_offset": i,
            "event_id": f"e{i}",
            "event_time": NOON,
            "score": i / 10,
            "decision": "block" if i > 7 else "approve",
            "model_version": "1",
            "fingerprint": plan.fingerprint,
            "broker_time": NOON,
            "scored_time": NOON,
            "event_date": NOON.date(),
        }
        for i in range(10)
    ]
    lake.append("scores", pa.Table.from_pylist(rows, schema=lake.schema("scores", plan)))
    yield
    settings.cache_clear()


def run(*arguments):
    app = Typer()
    app.command()(sql)
    return CliRunner().invoke(app, arguments)


def test_a_query_reads_the_lake():
    found = query("select decision, count(*) as n from scores group by decision order by decision")
    assert found.to_pylist() == [{"decision": "approve", "n": 8}, {"decision": "block", "n": 2}]


@pytest.mark.parametrize(
    "table", ["events", "labels", "features", "dead_letters", "feature_backfill"]
)
def test_a_table_nobody_has_written_to_is_empty_and_has_its_columns(table):
    found = query(f"select * from {table}")
    assert found.num_rows == 0
    wanted = lake.schema(table, load_plan(settings().feature_set))
    assert found.column_names == wanted.names


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/*')",
        "copy scores to '/tmp/scores.csv'",
        "attach '/tmp/other.db'",
        "set enable_external_access = true",
        "install httpfs",
        "create table mine as select 1",
        "drop view scores",
        "select 1; select 2",
        "",
    ],
)
def test_a_statement_that_writes_or_leaves_the_lake_is_refused(statement):
    with pytest.raises(PenstockError):
        query(statement)


def test_a_mistake_is_told_in_one_sentence():
    with pytest.raises(PenstockError, match='"nope" not found') as told:
        query("select nope\nfrom scores")
    assert "\n" not in str(told.value)


def test_the_command_prints_a_table_json_or_csv():
    question = "select event_id, score, event_time from scores where score > 0.85"
    table = run(question)
    assert table.exit_code == 0
    assert "e9" in table.stdout
    assert "2026-01-05T12:00:00Z" in table.stdout
    assert json.loads(run(question, "--json").stdout) == [
        {"event_id": "e9", "score": 0.9, "event_time": "2026-01-05T12:00:00Z"}
    ]
    assert run(question, "--csv").stdout.splitlines() == [
        "event_id,score,event_time",
        "e9,0.9,2026-01-05T12:00:00Z",
    ]


def test_values_that_look_like_markup_are_printed_as_they_are():
    assert "[bold]x[/bold]" in run("select '[bold]x[/bold]' as v").stdout

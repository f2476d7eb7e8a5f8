"""A newcomer's way through the command line: from a definition to a score, on the real stack."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake

from features import lake
from features.catalog import load_plan
from penstock.stack.logs import last_lines
from tests.conftest import PROJECT, SessionStack, stack_of_its_own

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVICES = ("ingest", "stages", "online-store", "scorer", "lake-sink")
SMALL_TRAINING = (
    "--train-days",
    "10",
    "--validation-days",
    "3",
    "--gap-days",
    "0",
    "--epochs",
    "3",
)


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=os.environ | environment,
    )


def penstock(*arguments: str) -> str:
    """The standard output of a command that succeeds."""
    result = run_command(*arguments)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def mistake(*arguments: str, **environment: str) -> str:
    """What a command that fails says last."""
    result = run_command(*arguments, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def payment(number: int, minor: int, at: datetime) -> dict[str, Any]:
    return {
        "transaction_id": f"mine-{number}",
        "event_time": at.isoformat(),
        "customer_id": "c00000001",
        "terminal_id": "t00000001",
        "amount": {"minor": minor, "currency": "EUR"},
    }


def last_words(stack: SessionStack) -> str:
    """The ends of the services' logs."""
    return "\n".join(f"{name}:\n{last_lines(stack.log(name), 15)}" for name in SERVICES)


def sql(query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(penstock("sql", query, "--json"))
    return rows


@pytest.fixture(scope="module")
def stack() -> Iterator[SessionStack]:
    """A stack that no other test has used: what lies in its topics decides which event is late."""
    with stack_of_its_own() as own:
        yield own


@pytest.fixture(scope="module")
def scored(stack: SessionStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The scores of a user's own payments, by id, after everything a newcomer types before."""
    stack.require("kafka", "registry", "redis", "mlflow")
    penstock("apply")
    penstock("generate", "history", "--days", "24", "--customers", "200", "--seed", "5")
    published = json.loads(penstock("backfill", "--json"))
    assert published["published"]["rows"] == published["rows"] > 5_000
    trained = json.loads(penstock("train", *SMALL_TRAINING, "--json"))
    assert trained["promoted"], trained["reason"]
    penstock("bootstrap", "--json")
    stack.require(*SERVICES)

    history_end = sql("select max(event_time) as last from events")[0]["last"]
    last = datetime.fromisoformat(history_end).astimezone(UTC)
    mine = [payment(n, 1000 + n, last + timedelta(minutes=n)) for n in range(1, 4)]
    wrong = payment(4, -5, last + timedelta(minutes=4))
    file = tmp_path_factory.mktemp("own") / "mine.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in [*mine, wrong]))
    penstock("produce", str(file))

    tail = ("--from-beginning", "--timeout", "60")
    scored = penstock("tail", "payments.scored.v1", *tail, "-n", "3").splitlines()
    by_id = {score["transaction_id"]: score for score in map(json.loads, scored)}
    assert by_id.keys() == {"mine-1", "mine-2", "mine-3"}, last_words(stack)
    for score in by_id.values():
        assert 0.0 <= score["score"] <= 1.0
        assert score["decision"] in ("approve", "review", "block")
        assert score["model_version"] == str(trained["version"])
        assert score["fingerprint"] == load_plan("card_fraud").fingerprint
    [letter] = penstock("tail", "payments.transaction.v1.dlq", *tail, "-n", "1").splitlines()
    assert "out_of_range" in letter

    return {event_id: score["score"] for event_id, score in by_id.items()}


def test_own_events_are_stored_as_they_were_scored(scored: dict[str, float]) -> None:
    deadline = time.monotonic() + 60
    while len(stored := sql("select event_id, score from scores")) < len(scored):
        assert time.monotonic() < deadline, "the lake sink has not stored the scores"
        time.sleep(1)
    assert {row["event_id"]: row["score"] for row in stored} == scored
    assert sql("select reason, count(*) as n from dead_letters group by 1") == [
        {"reason": "out_of_range", "n": 1}
    ]


def test_stream_equals_the_backfill(scored: dict[str, float]) -> None:
    compared = json.loads(penstock("parity", "measure", "--json"))
    assert (compared["rows"], compared["mismatches"]) == (len(scored), 0)


def test_online_store_serves_what_was_scored(scored: dict[str, float]) -> None:
    [last] = sql("select * from features order by event_time desc limit 1")
    asked = {"customer": "c00000001", "terminal": "t00000001"}
    deadline = time.monotonic() + 60
    for entity, key in asked.items():
        while True:
            told = run_command("features", "get", entity, key, "--json")
            found = json.loads(told.stdout or "{}")
            if found.get("event_time") == last["event_time"]:
                break
            assert time.monotonic() < deadline, f"{told.stdout}{told.stderr}"
            time.sleep(1)
        assert found["values"] == {name: last[name] for name in found["values"]}
        assert found["fingerprint"] == last["fingerprint"]
    shown = penstock("features", "get", "customer", "c00000001")
    assert f"fingerprint  {last['fingerprint']}" in shown


def test_refused_batch_leaves_the_published_features(scored: dict[str, float]) -> None:
    good = lake.open_table("feature_backfill")
    events = lake.read("events")
    spoilt = pc.is_in(events["event_id"], value_set=events["event_id"].slice(0, 3).combine_chunks())
    negative = pc.if_else(spoilt, -5, events["amount"])
    table = lake.open_table("events")
    assert good is not None
    assert table is not None
    at = events.schema.get_field_index("amount")
    write_deltalake(table, events.set_column(at, "amount", negative), mode="overwrite")
    assert "0 ≤ amount ≤ 1e+12 (3 rows)" in mistake("backfill")
    after = lake.open_table("feature_backfill")
    assert after is not None
    assert after.version() == good.version()


def test_command_without_a_broker_says_so_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(payment(1, 5, datetime(2026, 1, 5, tzinfo=UTC))) + "\n")
    nowhere = {"PENSTOCK_KAFKA_BOOTSTRAP": "127.0.0.1:9", "PENSTOCK_HOME": str(tmp_path)}
    assert "127.0.0.1:9" in mistake("produce", str(file), **nowhere)


def test_backfill_of_an_empty_lake_says_so(tmp_path: Path) -> None:
    said = mistake("backfill", PENSTOCK_LAKE_URI=str(tmp_path))
    assert said.startswith("penstock: there are no events at")

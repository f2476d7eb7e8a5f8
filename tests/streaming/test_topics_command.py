"""A user's own events in and any topic's records out, through the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from features.catalog import load_plan
from features.plan import Plan
from features.settings import settings
from features.wire import DeadLetter, dead_letter_topic
from penstock.cli import app
from streaming import topics
from streaming.broker import GaplessProducer
from tests.features.rows import batch

pytestmark = pytest.mark.slow


@pytest.fixture
def plan(stack) -> Plan:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")
    compiled = load_plan("card_fraud")
    topics.ensure(compiled)
    return compiled


def run(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_produced_lines_are_tailed_as_they_were_sent(plan: Plan, tmp_path: Path) -> None:
    lines = [json.dumps({plan.key_field: f"c{n}", "n": n}) for n in range(50)] + ["not json"]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(lines) + "\n\n")
    topic = f"{plan.name}.own.v1"  # of one partition, so that lines keep their order
    admin = AdminClient({"bootstrap.servers": settings().kafka_bootstrap})
    # The broker answers once every node has heard of it.
    admin.create_topics([NewTopic(topic, 1, 1)], operation_timeout=10)[topic].result(15)
    said = json.loads(run("produce", str(file), "--topic", topic, "--json")[0])
    assert said == {"topic": topic, "acknowledged": 51}
    tail = ("tail", topic, "--from-beginning")
    assert run(*tail, "-n", "51") == lines
    shown = [json.loads(line) for line in run(*tail, "--timeout", "2", "--json")]
    assert (shown[3]["key"], shown[3]["value"]) == ("c3", {plan.key_field: "c3", "n": 3})
    assert (shown[50]["key"], shown[50]["value"]) == (None, "not json")


def test_tail_decodes_envelopes_and_dead_letters(plan: Plan) -> None:
    producer = GaplessProducer()
    row = {"event_id": "t1", "event_time_us": 5, "amount": 12, "customer_id": "c"}
    producer.send_rows(plan, plan.stages[0].topic, 1, batch(plan, [row]))
    letter = DeadLetter(plan.event_topic, 2, 9, "not_json", "no", 1)
    target = dead_letter_topic(plan.event_topic)
    producer.produce(target, 2, b"\xffx", None, letter.headers())
    producer.flush()
    beginning = ("--from-beginning", "-n", "1")
    shown = json.loads(run("tail", plan.stages[0].topic, *beginning)[0])
    assert (shown["event_id"], shown["amount"], shown["customer_id"]) == ("t1", 12, "c")
    shown = json.loads(run("tail", target, *beginning)[0])
    assert (shown["reason"], shown["offset"], shown["payload"]) == ("not_json", 9, "\\xffx")


def test_unknown_topic_is_one_sentence(plan: Plan) -> None:
    script = [sys.executable, "-m", "penstock.cli", "tail", plan.event_topic + "x"]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"did you mean '{plan.event_topic}'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_absent_broker_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    (tmp_path / "own.jsonl").write_text("{}\n")
    script = [sys.executable, "-m", "penstock.cli", "produce", str(tmp_path / "own.jsonl")]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "no broker answers at 127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1

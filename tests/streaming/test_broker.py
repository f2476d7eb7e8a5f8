"""What services do when the broker is away or loses a message."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streaming import topics
from tests.streaming.chain import PROJECT, TOKEN_KEY, plan_of, send, service, wait_until

pytestmark = pytest.mark.slow


def test_undeliverable_message_ends_the_process(stack) -> None:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")
    plan = plan_of("t_lost")
    topics.ensure(plan)
    # The broker refuses what is larger than the topic's limit.
    script = (
        "from streaming.broker import GaplessProducer\n"
        "producer = GaplessProducer()\n"
        f"producer.produce({plan.features_topic!r}, 1, bytes(2_000_000))\n"
        "producer.flush()\n"
        "print('acknowledged')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 70, result.stderr
    assert result.stdout == ""
    assert f"{plan.features_topic} [1]" in result.stderr
    assert "Traceback" not in result.stderr


def test_service_without_a_broker_waits_and_says_so(tmp_path: Path) -> None:
    environment = os.environ | {
        "PENSTOCK_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "PENSTOCK_TOKEN_KEY": TOKEN_KEY,
        "PENSTOCK_METRICS_PORT": "0",
    }
    log = tmp_path / "ingest.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.streaming.chain", "ingest", "t_waiting"],
            env=environment,
            cwd=PROJECT,
            stderr=file,
        )
    try:
        wait_until(lambda: log.read_text().count("no broker answers at 127.0.0.1:1") >= 2)
        assert process.poll() is None
        assert "next try in" in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def test_envelope_of_another_plan_ends_the_worker(stack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")
    plan = plan_of("t_foreign")
    topics.ensure(plan)
    send(plan.stages[0].topic, 0, [b"PSK1" + bytes(8) + b"rows"])
    with service("worker", plan, tmp_path) as process:
        assert process.wait(60) == 70
    log = (tmp_path / "worker.log").read_text()
    assert "packed by plan 0000000000000000" in log
    assert "Traceback" not in log


def test_missing_token_key_is_one_sentence(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PENSTOCK_TOKEN_KEY"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.streaming.chain", "ingest", "t_no_key"],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert "PENSTOCK_TOKEN_KEY is not set" in result.stderr
    assert "Traceback" not in result.stderr

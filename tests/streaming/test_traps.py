"""The traps of stream processors, each set for ours on a real broker.

Further ones stand where they belong: an idle partition in `test_markers.py`, retention past the
snapshot in `test_positions.py`, a damaged newest snapshot in `test_bootstrap.py`.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from features.fold import Fold
from features.plan import Plan
from features.settings import settings
from streaming import topics
from streaming.snapshots import SnapshotStore
from tests.redis_server import free_port
from tests.serving.parts import Topics, register, scorer_process, write_bundle
from tests.streaming.chain import (
    PROJECT,
    committed,
    ingest,
    plan_of,
    read,
    read_rows,
    running,
    sale,
    send,
    service,
)
from tests.streaming.test_worker import (
    assert_equals_uninterrupted_fold,
    produce_sales,
    read_unrepeated_rows,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _kafka(stack: Any) -> None:
    stack.require("kafka", "registry")


def acknowledged(plan: Plan, stage: int) -> dict[int, int]:
    """The next offset of each partition of a stage's log that the group has committed."""
    held = committed(plan, "stages", plan.stages[stage].topic)
    return {partition: max(0, place.offset) for partition, place in held.items()}


@contextmanager
def snapshots_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_SNAPSHOT_URI", str(folder / "snapshots"))
        settings.cache_clear()
        yield
    settings.cache_clear()


def test_an_agent_that_raises_ends_its_process_and_loses_no_event(tmp_path: Path) -> None:
    plan = plan_of("t_trap_raises")
    topics.ensure(plan)
    total = produce_sales(plan, range(200), seed=1)
    with running(ingest(plan)):
        for _ in range(4):
            # Faust would drop the event, and after four of them consume nothing more.
            with service("worker", plan, tmp_path, RAISE_AT_FOLD="3") as process:
                assert process.wait(120) == 70
        log = (tmp_path / "worker.log").read_text()
        assert log.count("RuntimeError: raised by the test; this process ends") == 4
        with service("worker", plan, tmp_path):
            rows = read_unrepeated_rows(plan, total)
    assert len(rows) == total
    assert_equals_uninterrupted_fold(plan, rows)


def test_a_poison_message_four_times_in_a_row_is_never_passed_over(tmp_path: Path) -> None:
    plan = plan_of("t_trap_poison")
    topics.ensure(plan)
    send(plan.event_topic, 0, [sale(n, n, "p0") for n in range(20)])
    with running(ingest(plan)):
        [first, *_] = read(plan.stages[0].topic, plan.partitions, lambda found: bool(found))
    log, partition = plan.stages[0].topic, first.partition()
    send(log, partition, [b"poison"])
    with running(ingest(plan)):
        send(plan.event_topic, 0, [sale(n, n, "p0") for n in range(20, 40)])
        for _ in range(4):
            with service("worker", plan, tmp_path) as process:
                assert process.wait(120) == 70
    said = (tmp_path / "worker.log").read_text()
    assert said.count("not an envelope: it begins with b'pois'") == 4
    # It stands where it stood: nothing behind the poison was taken for read.
    poisoned = said.rsplit("offset ", 1)[1].split(":")[0]
    assert acknowledged(plan, 0)[partition] <= int(poisoned)


def test_nothing_is_acknowledged_that_is_in_flight(tmp_path: Path) -> None:
    plan = plan_of("t_trap_in_flight")
    topics.ensure(plan)
    sent, seen = 0, 0
    with (
        running(ingest(plan)),
        service("worker", plan, tmp_path) as process,
        snapshots_in(tmp_path),
    ):
        until = time.monotonic() + 100
        while seen < 10 and time.monotonic() < until:
            sent += produce_sales(plan, range(sent, sent + 100), seed=sent)
            for stage in range(len(plan.stages)):
                for partition, offset in acknowledged(plan, stage).items():
                    # Read after the commit: an older snapshot is only ever replaced by a newer.
                    store = SnapshotStore(plan, stage, partition)
                    store.restore(Fold(plan, stage))
                    covered = -1 if store.covered is None else store.covered
                    assert offset <= covered + 1, (stage, partition)
                    seen += offset > 0
        process.send_signal(signal.SIGKILL)
    assert seen >= 10


def test_a_zombie_that_comes_back_changes_nothing(stack: Any, tmp_path: Path) -> None:
    stack.require("mlflow")
    plan = plan_of("t_trap_zombie")
    topics.ensure(plan)
    register(plan, write_bundle(tmp_path / "bundle", plan))
    sent = 0

    def produce(rows: int) -> None:
        nonlocal sent
        for partition in range(plan.partitions):
            numbers = range(sent + partition, sent + rows, plan.partitions)
            send(plan.event_topic, partition, [sale(n, n, f"p{n % 40}") for n in numbers])
        sent += rows

    old, new = str(free_port()), str(free_port())
    with (
        running(ingest(plan)),
        scorer_process(plan, tmp_path / "scorer.log"),
        service("worker", plan, tmp_path, PENSTOCK_METRICS_PORT=old) as zombie,
    ):
        produce(400)
        read_unrepeated_rows(plan, sent)
        produce(2000)
        zombie.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        with service("worker", plan, tmp_path, PENSTOCK_METRICS_PORT=new) as heir:
            produce(400)
            read_unrepeated_rows(plan, sent)
            time.sleep(max(0.0, 15 - (time.monotonic() - stopped_at)))
            zombie.send_signal(signal.SIGCONT)
            # It sends what it had in hand, and then has to join the group anew.
            for _ in range(5):
                produce(200)
                time.sleep(1)
            rows = read_unrepeated_rows(plan, sent)
            scores = Topics(plan).scores(sent)
            assert heir.poll() is None
    assert len(rows) == sent
    assert_equals_uninterrupted_fold(plan, rows)
    scored = Counter(score["sale_id"] for score in scores)
    assert len(scored) == sent
    assert set(scored.values()) == {1}


def test_a_zombie_of_ingest_repeats_only_equal_rows(tmp_path: Path) -> None:
    plan = plan_of("t_trap_ingest_zombie")
    topics.ensure(plan)
    sent = 0

    def produce(rows: int) -> None:
        nonlocal sent
        for partition in range(plan.partitions):
            numbers = range(sent + partition, sent + rows, plan.partitions)
            send(plan.event_topic, partition, [sale(n, n, f"p{n % 40}") for n in numbers])
        sent += rows

    def rows_sent() -> list[dict[str, Any]]:
        """The first stage's log once every event is in it."""
        asked = sent
        while True:
            rows = read_rows(plan, plan.stages[0].topic, asked)
            if len({row["event_id"] for row in rows}) == sent:
                return rows
            asked = len(rows) + 1

    old, new = str(free_port()), str(free_port())
    with service("ingest", plan, tmp_path, PENSTOCK_METRICS_PORT=old) as zombie:
        produce(400)
        rows_sent()
        with service("ingest", plan, tmp_path, PENSTOCK_METRICS_PORT=new) as heir:
            for _ in range(8):
                # Both have some of the partitions now, and something in hand.
                produce(2000)
                time.sleep(0.5)
            zombie.send_signal(signal.SIGSTOP)
            stopped_at = time.monotonic()
            produce(2000)
            rows_sent()
            time.sleep(max(0.0, 15 - (time.monotonic() - stopped_at)))
            zombie.send_signal(signal.SIGCONT)
            for _ in range(5):
                produce(400)
                time.sleep(1)
            rows = rows_sent()
            assert heir.poll() is None
    by_place: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        place = (row["position_partition"], row["position_seq"])
        assert by_place.setdefault(place, row) == row
    assert len(by_place) == sent


PRODUCE = """
import sys, time
from confluent_kafka import Producer
import streaming.broker as broker

def made(settings):
    return Producer(settings | {settings_of_the_test})

broker.Producer = made
producer = broker.GaplessProducer()
for n in range(400):
    producer.produce({topic!r}, 0, b"%06d" % n * 8000)
    if n == 150:
        producer.flush()
        print("half", flush=True)
        # The broker stops now; what follows is more than its requests in flight can hold.
        sys.stdin.readline()
    producer.poll()
    time.sleep(0.002)
producer.flush()
print("all", flush=True)
"""


@pytest.mark.parametrize("timeout_ms", [0, 1500])
def test_one_message_of_many_that_times_out_leaves_no_gap(stack: Any, timeout_ms: int) -> None:
    plan = plan_of(f"t_trap_timeout_{timeout_ms}")
    topics.ensure(plan)
    # As it is, no message ever times out; were it otherwise, the process would end at the first.
    changed = {"message.timeout.ms": timeout_ms} if timeout_ms else {}
    script = PRODUCE.replace("{settings_of_the_test}", repr(changed))
    script = script.replace("{topic!r}", repr(plan.features_topic))
    broker = kafka_process(stack)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=dict(os.environ),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        broker.suspend()
        try:
            process.stdin.write("\n")
            process.stdin.flush()
            if timeout_ms:
                process.wait(60)
            else:
                time.sleep(5)
        finally:
            broker.resume()
        said, reason = process.communicate(timeout=100)
    if timeout_ms:
        assert process.returncode == 70, reason
        assert f"a message to {plan.features_topic} [0] was lost" in reason
    else:
        assert (process.returncode, said) == (0, "all\n"), reason
    send(plan.features_topic, 0, [b"end"])
    found = read(plan.features_topic, 1, lambda m: bool(m) and m[-1].value() == b"end")
    values = [message.value() for message in found][:-1]
    assert values == [b"%06d" % n * 8000 for n in range(len(values))]
    if timeout_ms:
        assert 150 < len(values) < 400
    else:
        assert len(values) == 400


def kafka_process(stack: Any) -> psutil.Process:
    """The broker of the session's stack."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "kafka.Kafka" in command and str(stack.home) in command:
            return process
    raise AssertionError("the broker is not running")

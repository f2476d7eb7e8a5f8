"""The stages on a real broker: equal to the reference, and the same after any crash."""

import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from features import reference
from features.fold import Fold
from features.plan import Plan
from features.reference import Fact
from features.settings import settings
from features.wire import DUPLICATE, partition_of
from streaming import topics
from tests.features.rows import batch
from tests.streaming.chain import ingest, plan_of, read_rows, running, sale, send, service

pytestmark = pytest.mark.slow

START_US = 1767571200000000


@pytest.fixture(autouse=True)
def _kafka(stack) -> None:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")


def produce_sales(plan: Plan, numbers: range, seed: int) -> int:
    """Sales out of order, some sent twice, and labels of some; returns how many rows come out."""
    rng = random.Random(seed)
    label_members = ["sale_id", "at", *(plan.label.keys if plan.label else ())]
    rows = 0
    for partition in range(plan.partitions):
        sales = []
        for n in numbers[partition :: plan.partitions]:
            # A payer keeps to one raw partition.
            made = sale(n, n + rng.uniform(0, 600), f"p{n // 7 % 10 * plan.partitions + partition}")
            sales.append(made)
            if rng.random() < 0.1:
                sales.append(made)
        labels = [
            {name: made[name] for name in label_members} | {"refunded": rng.random() < 0.7}
            for made in sales
            if rng.random() < 0.3
        ]
        send(plan.event_topic, partition, sales)
        send(plan.label_topic, partition, labels)
        rows += len(sales) + len(labels)
    return rows


def assert_equals_reference(plan: Plan, rows: list[dict[str, Any]]) -> None:
    """Every column of every row against brute force over the logs that the rows tell of."""
    for stage in plan.stages:
        log: dict[Any, list[tuple[int, Fact, dict[str, Any]]]] = defaultdict(list)
        for row in rows:
            if row[stage.seq_column] is None:
                continue
            fact = Fact(
                row["event_id"],
                row["event_time_us"],
                tuple(row[name] for name in stage.key_fields),
                {"price": row["price"]} if row["kind"] == 0 else {},
                label=bool(row["refunded"]) if row["kind"] == 1 else None,
                duplicate=row["verdict"] == DUPLICATE,
            )
            log[fact.key].append((row[stage.seq_column], fact, row))
        for entries in log.values():
            # One key lies in one partition, so its seqs are its order.
            entries.sort(key=lambda entry: entry[0])
            facts = [fact for _, fact, _ in entries]
            expected = reference.stage_columns(plan, stage, facts)
            for at, ((_, fact, row), values) in enumerate(zip(entries, expected, strict=True)):
                if stage.index == 0 and fact.label is None:
                    again = reference.is_duplicate(facts, at, plan.lateness_us)
                    assert again == fact.duplicate
                for column in stage.columns:
                    assert row[column] == values.get(column), (column, row)


def identity(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["origin_log"], row["origin_partition"], row["origin_offset"]


@pytest.mark.parametrize("name", ["t_stream", "t_stream_pair"])
def test_stream_equals_reference(tmp_path: Path, name: str) -> None:
    plan = plan_of(name)
    topics.ensure(plan)
    total = produce_sales(plan, range(400), seed=1)
    with running(ingest(plan)), service("worker", plan, tmp_path) as process:
        rows = read_rows(plan, plan.features_topic, total)
        process.terminate()
        assert process.wait(60) == 0
    assert len({identity(row) for row in rows}) == len(rows) == total
    assert sum(row["verdict"] == DUPLICATE for row in rows) > 20
    assert {row["position_log"] for row in rows} == {1 + len(plan.stages)}
    assert_equals_reference(plan, rows)


def test_killed_worker_leaves_the_same_rows_as_no_crash(tmp_path: Path) -> None:
    plan = plan_of("t_worker_killed")
    topics.ensure(plan)
    total = 0
    with running(ingest(plan)):
        for life in range(2):
            with service("worker", plan, tmp_path) as process:
                before = committed(plan)
                # Until snapshots were made often enough for a commit to be safe.
                while committed(plan) == before:
                    total += produce_sales(plan, range(total, total + 200), seed=total)
                    rows = read_unrepeated_rows(plan, total)
                total += produce_sales(plan, range(total, total + 1000), seed=life)
                read_unrepeated_rows(plan, len(rows) + 300)
                process.kill()
                process.wait()
        with service("worker", plan, tmp_path):
            rows = read_unrepeated_rows(plan, total)
    restored = (tmp_path / "worker.log").read_text()
    assert re.search(r"state up to offset [1-9]\d*, .* reading on from [1-9]", restored)
    assert len(rows) == total
    assert_equals_uninterrupted_fold(plan, rows)


def committed(plan: Plan) -> int:
    """How many envelopes the stages have acknowledged."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": f"penstock.{plan.name}.v{plan.version}.stages",
        }
    )
    logs = [TopicPartition(s.topic, p) for s in plan.stages for p in range(plan.partitions)]
    held = consumer.committed(logs, timeout=20)
    consumer.close()
    return sum(max(0, found.offset) for found in held)


def read_unrepeated_rows(plan: Plan, total: int) -> list[dict[str, Any]]:
    """Rows above the mark of each features partition, as every reader of the topic takes them."""
    asked = total
    while True:
        found: dict[tuple[int, int, int], dict[str, Any]] = {}
        marks: dict[int, int] = defaultdict(lambda: -1)
        rows = read_rows(plan, plan.features_topic, asked)
        for row in rows:
            partition = row["position_partition"]
            if row["position_seq"] > marks[partition]:
                marks[partition] = row["position_seq"]
                assert identity(row) not in found, "a row has two positions"
                found[identity(row)] = row
        if len(found) >= total:
            return list(found.values())
        asked = len(rows) + 1


def assert_equals_uninterrupted_fold(plan: Plan, rows: list[dict[str, Any]]) -> None:
    """Every stage's columns against one fold over its whole log, which no crash interrupted."""
    for stage in plan.stages:
        for partition in range(plan.partitions):
            log = sorted(
                (
                    row
                    for row in rows
                    if row[stage.seq_column] is not None
                    and partition_of(row[stage.key_column], plan.partitions) == partition
                ),
                key=lambda row: row[stage.seq_column],
            )
            unfolded = [row | {"verdict": 0} if stage.index == 0 else row for row in log]
            again = Fold(plan, stage.index).fold_history(batch(plan, unfolded)).to_pylist()
            for row, expected in zip(log, again, strict=True):
                assert row["verdict"] == expected["verdict"]
                assert [row[c] for c in stage.columns] == [expected[c] for c in stage.columns]

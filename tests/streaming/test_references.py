"""References on a real broker: from their topics to what events see, and into the lake."""

import json
import random
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from features import lake, reference
from features.plan import Plan
from features.reference import Fact
from features.settings import settings
from features.wire import (
    KIND_EVENT,
    KIND_REFERENCE,
    LOG_REFERENCES,
    NEVER_US,
    DeadLetter,
    dead_letter_topic,
    partition_of,
)
from streaming import topics
from streaming.lake_sink import LakeSink
from streaming.tokenise import Tokeniser
from tests.streaming.chain import (
    TOKEN_KEY,
    account,
    deal,
    ingest,
    lease,
    plan_of,
    read,
    read_rows,
    refund,
    running,
    sale,
    send,
    service,
    wait_until,
)

pytestmark = pytest.mark.slow

START_US = 1767571200000000


@pytest.fixture(autouse=True)
def _kafka(stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")
    monkeypatch.setenv("PENSTOCK_LAKE_URI", str(tmp_path / "lake"))
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def test_topics_dead_letters_and_schemas_are_created() -> None:
    plan = plan_of("t_looks_up_topics")
    created = topics.ensure(plan)
    for each in plan.references:
        assert f"topic {each.topic}" in created
        assert f"topic {dead_letter_topic(each.topic)}" in created
        assert f"schema {each.topic}-value" in created
    url = f"{settings().schema_registry_url}/subjects/{plan.references[0].topic}-value/versions/1"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url) as answer:
        schema = json.loads(json.loads(answer.read())["schema"])
    assert schema["required"] == ["person_id", "valid_from", "limit", "tier"]
    assert topics.ensure(plan) == []


def test_versions_reach_the_log_of_their_key_and_broken_ones_do_not() -> None:
    plan = plan_of("t_looks_up_ingest")
    topics.ensure(plan)
    accounts, leases = plan.references
    people = [account(f"p{n}", n, 10 * n) for n in range(20)]
    send(accounts.topic, 1, people)
    # From long ago, and from the future: a table may say both.
    old = lease("shop1", 0, 2.25) | {"since": "1970-01-01T00:00:00Z"}
    new = lease("shop1", 0, 3) | {"since": "2200-01-01T00:00:00Z"}
    broken = lease("shop1", 0, -1)
    send(leases.topic, 2, [new, old, broken, lease("", 0, 1), lease("shop2", 7, 0.5, "you")])
    send(plan.event_topic, 0, [sale(1, 4, "p3")])
    with running(ingest(plan)):
        first = read_rows(plan, plan.stages[0].topic, 21)
        second = read_rows(plan, plan.stages[1].topic, 3)
        letters = read(dead_letter_topic(leases.topic), plan.partitions, lambda m: len(m) >= 2)
        held = read(plan.stages[0].topic, plan.partitions, lambda m: len(m) >= 4)
    token = Tokeniser(bytes.fromhex(TOKEN_KEY)).token
    (event,) = (row for row in first if row["kind"] == KIND_EVENT)
    (meets,) = (row for row in first if row["account__limit"] == 30)
    assert meets["person_id"] == event["person_id"] == token("p3")
    broker_time_us = meets.pop("broker_time_us")
    assert broker_time_us > START_US
    assert meets == dict.fromkeys(meets) | {
        "kind": KIND_REFERENCE,
        "verdict": 0,
        "origin_log": LOG_REFERENCES,
        "origin_partition": 1,
        "origin_offset": 3,
        "position_log": LOG_REFERENCES,
        "position_partition": 1,
        "position_seq": 3 << 20,
        "watermark_us": NEVER_US,
        "event_id": token("p3"),
        "event_time_us": START_US + 3_000_000,
        "person_id": token("p3"),
        "account__limit": 30,
        "account__tier": "low",
    }
    second.sort(key=lambda row: row["origin_offset"])
    assert [row["event_time_us"] for row in second[:2]] == [7258118400000000, 0]
    assert {row["origin_log"] for row in second} == {LOG_REFERENCES + 1}
    assert second[2]["lease__owner"] == token("you")
    assert [row["lease__rate"] for row in second] == [300, 225, 50]
    assert [row["origin_offset"] for row in second] == [0, 1, 4]
    said = [DeadLetter.from_headers(letter.headers()) for letter in letters]
    assert [(s.topic, s.partition, s.offset, s.reason) for s in said] == [
        (leases.topic, 2, 2, "out_of_range"),
        (leases.topic, 2, 3, "out_of_range"),
    ]
    assert {row["event_id"] for row in second} == {"shop1", "shop2"}
    for message in held:
        for row in decoded(plan, message):
            assert partition_of(row["person_id"], plan.partitions) == message.partition()


def decoded(plan: Plan, message: Any) -> list[dict[str, Any]]:
    from features.wire import decode

    return decode(plan, message.value()).to_pylist()


def test_stream_equals_reference_and_the_lake_although_the_worker_is_killed(
    tmp_path: Path,
) -> None:
    plan = plan_of("t_looks_up_chain_pair")
    topics.ensure(plan)
    accounts, leases, deals = plan.references
    rng = random.Random(4)
    total = 0
    with running(ingest(plan)):
        for life in range(2):
            numbers = range(life * 225, life * 225 + 225)
            for partition in range(plan.partitions):
                own = numbers[partition :: plan.partitions]
                sent = {
                    plan.event_topic: [
                        sale(n, n + rng.uniform(0, 600), f"p{n % 6}", shop_id=f"shop{n % 5}")
                        for n in own
                    ],
                    accounts.topic: [
                        account(f"p{n % 7}", n + rng.choice([-60, 0, 90]) + 60, n, "high")
                        for n in own[::4]
                    ],
                    leases.topic: [
                        lease(f"shop{n % 6}", n + rng.choice([0, 0, 400]), n / 4, f"o{n % 3}")
                        for n in own[::3]
                    ],
                }
                sent[deals.topic] = [deal(f"shop{n % 5}", f"p{n % 6}", n, n % 99) for n in own[::2]]
                for topic, values in sent.items():
                    send(topic, partition, values)
                    total += len(values)
            if life == 1:
                send(plan.label_topic, 0, [refund(1, 1) | {"person_id": "p1"}])
                total += 1
            with service("worker", plan, tmp_path) as process:
                rows = distinct_rows(plan, total)
                process.kill()
                process.wait()
    assert_equals_reference(plan, list(rows.values()))
    with running(LakeSink(plan)):
        wait_until(
            lambda: (
                all(lake.open_table(each.table) is not None for each in plan.references)
                and lake.open_table("features") is not None
                and lake.read("features").num_rows == 450
            )
        )
        for each in plan.references:
            expected = sum(row["origin_log"] == log_of(plan, each.name) for row in rows.values())
            wait_until(lambda: lake.read(each.table).num_rows == expected)  # noqa: B023
    assert lake.read("labels").num_rows == 1
    for each in plan.references:
        for found in lake.read(each.table).to_pylist():
            row = rows[log_of(plan, each.name), found["origin_partition"], found["origin_offset"]]
            stage = plan.stages[each.stage]
            assert all(found[name] == row[name] is not None for name in each.key_columns)
            assert found[stage.seq_column] == row[stage.seq_column] is not None
            assert int(found["valid_from"].timestamp() * 1e6) == row["event_time_us"]
            assert [found[field.name] for field in each.fields] == [row[c] for c in each.columns]


def distinct_rows(plan: Plan, total: int) -> dict[tuple[int, int, int], dict[str, Any]]:
    """Finished rows by their origin; a kill may leave repeats of the same values."""
    found: dict[tuple[int, int, int], dict[str, Any]] = {}

    def enough(messages: list[Any]) -> bool:
        for row in decoded(plan, messages[-1]) if messages else []:
            origin = (row["origin_log"], row["origin_partition"], row["origin_offset"])
            assert found.setdefault(origin, row) == row
        return len(found) >= total

    read(plan.features_topic, plan.partitions, enough)
    return found


def log_of(plan: Plan, name: str) -> int:
    return LOG_REFERENCES + [each.name for each in plan.references].index(name)


def assert_equals_reference(plan: Plan, rows: list[dict[str, Any]]) -> None:
    """What every event saw against brute force over the logs that the rows tell of."""
    known = 0
    for stage in plan.stages:
        log: dict[str, list[tuple[int, Fact, dict[str, Any]]]] = defaultdict(list)
        for row in rows:
            if row["kind"] not in (KIND_EVENT, KIND_REFERENCE) or row[stage.key_column] is None:
                continue
            if row["kind"] == KIND_REFERENCE and row[stage.seq_column] is None:
                # It came later into the chain.
                continue
            name, values = "", {"price": row["price"]}
            if row["kind"] == KIND_REFERENCE:
                own = plan.references[row["origin_log"] - LOG_REFERENCES]
                name, values = own.name, {column: row[column] for column in own.columns}
            key = row[stage.key_column]
            fact = Fact(row["event_id"], row["event_time_us"], key, values, version_of=name)
            log[key].append((row[stage.seq_column], fact, row))
        for entries in log.values():
            entries.sort(key=lambda entry: entry[0])
            facts = [fact for _, fact, _ in entries]
            for (_, fact, row), at in zip(entries, range(len(facts)), strict=True):
                for spec in plan.references:
                    if spec.stage != stage.index or fact.version_of:
                        continue
                    seen = reference.looked_up(facts[:at], fact, spec)
                    assert {name: row[name] for name in spec.columns} == seen, row
                    known += None not in seen.values()
            if stage.index == len(plan.stages) - 1:
                for _, fact, row in entries:
                    for column in plan.columns:
                        if column.formula and not fact.version_of:
                            made = reference.expression(column.formula, row, row["event_time_us"])
                            assert row[column.name] == made
    assert known > 300

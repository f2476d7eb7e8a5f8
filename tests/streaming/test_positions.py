"""Positions that are gone, topics that change, envelopes that are none: each reader says so."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from features import wire
from features.errors import PositionError, WireError
from features.plan import Plan
from features.positions import reading_from
from features.settings import settings
from streaming import topics
from streaming.broker import admin, log_bounds
from streaming.snapshots import SnapshotStore
from tests.features.rows import batch
from tests.streaming.chain import (
    plan_of,
    read_rows,
    sale,
    send,
    service,
    wait_until,
)
from tests.streaming.test_lake_sink import count, finished, row


def test_a_place_is_read_on_from_where_the_log_still_holds_it() -> None:
    for committed, expected in ((3, 3), (9, 9), (5, 5), (-1001, 3)):
        assert reading_from("t", 0, committed, 3, 9, "mend it") == expected
    with pytest.raises(PositionError, match=r"retention has passed.*t \[4\].*offset 2.*3 to 9.*do"):
        reading_from("t", 4, 2, 3, 9, "do this")
    with pytest.raises(PositionError, match=r"offset 10, but the log holds offsets 3 to 9.*again"):
        reading_from("t", 4, 10, 3, 9, "do this")


def test_whatever_is_cut_off_an_envelope_is_noticed() -> None:
    plan = plan_of("t_cut")
    whole = wire.encode(plan, batch(plan, [row(n) for n in range(3)]))
    assert wire.decode(plan, whole).num_rows == 3
    for length in range(len(whole) - 8):
        with pytest.raises(WireError, match="envelope"):
            wire.decode(plan, whole[:length])
    with pytest.raises(WireError, match="begins with nothing"):
        wire.decode(plan, None)
    with pytest.raises(WireError, match="packed by plan 00"):
        wire.decode(plan, whole[:4] + bytes(8) + whole[12:])


@pytest.fixture
def plan(request: pytest.FixtureRequest, stack: Any) -> Plan:
    stack.require("kafka", "registry")
    made = plan_of(f"t_{request.node.originalname[5:40]}")
    topics.ensure(made)
    return made


def finish(ask: Callable[[AdminClient], dict[Any, Any]]) -> None:
    """Ask the brokers for something and wait until it is done."""
    client = admin()
    for outcome in ask(client).values():
        outcome.result(60)


def remove_before(topic: str, offsets: dict[int, int]) -> None:
    """What retention does."""
    places = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
    finish(lambda client: client.delete_records(places))


def create_again(plan: Plan, topic: str) -> None:
    finish(lambda client: client.delete_topics([topic], operation_timeout=20))
    wait_until(lambda: topic not in admin().list_topics(timeout=10).topics)
    wait_until(lambda: f"topic {topic}" in topics.ensure(plan) or exists(topic))


def exists(topic: str) -> bool:
    return topic in admin().list_topics(timeout=10).topics


def ends_with(
    name: str, plan: Plan, folder: Path, reason: str, after: Callable[[], Any] | None = None
) -> None:
    """A service ends and says why, in one sentence."""
    log = folder / f"{name}.log"
    begun = len(log.read_text()) if log.exists() else 0
    with service(name, plan, folder) as process:
        if after is not None:
            wait_until(lambda: "starting" in log.read_text()[begun:])
            after()
        assert process.wait(150) in (1, 70), log.read_text()[begun:]
    said = log.read_text()[begun:]
    assert re.search(reason, said, re.DOTALL), said
    assert "Traceback" not in said, said


@contextmanager
def lake_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_LAKE_URI", str(folder / "lake"))
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.mark.slow
def test_ingest_never_jumps(plan: Plan, tmp_path: Path) -> None:
    send(plan.event_topic, 1, [sale(n, n) for n in range(10)])
    with service("ingest", plan, tmp_path):
        read_rows(plan, plan.stages[0].topic, 10)
    send(plan.event_topic, 1, [sale(n, n) for n in range(10, 20)])
    remove_before(plan.event_topic, {1: 15})
    gone = rf"retention has passed the commit: {plan.event_topic} \[1\].*offset 10,.* 15 to 20"
    ends_with("ingest", plan, tmp_path, f"{gone}.*penstock bootstrap")
    create_again(plan, plan.event_topic)
    ends_with("ingest", plan, tmp_path, f"{plan.event_topic} is not the topic that was read before")


@pytest.mark.slow
def test_without_a_commit_ingest_says_where_it_begins(plan: Plan, tmp_path: Path) -> None:
    send(plan.event_topic, 2, [sale(n, n) for n in range(10)])
    remove_before(plan.event_topic, {2: 7})
    with service("ingest", plan, tmp_path):
        assert len(read_rows(plan, plan.stages[0].topic, 3)) == 3
    said = (tmp_path / "ingest.log").read_text()
    assert f"{plan.event_topic} [2] is read from offset 7 on, the first it still holds" in said


@pytest.mark.slow
def test_stages_say_that_retention_has_passed_the_snapshot(plan: Plan, tmp_path: Path) -> None:
    log = plan.stages[0].topic

    def envelope(n: int) -> bytes:
        own = row(n, position_partition=0, position_seq=n << 20)
        return wire.encode(plan, batch(plan, [own]))

    def newest() -> int:
        return max(SnapshotStore(plan, 0, 0).offsets(), default=-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_SNAPSHOT_URI", str(tmp_path / "snapshots"))
        settings.cache_clear()
        send(log, 0, [envelope(n) for n in range(3)])
        with service("worker", plan, tmp_path):
            wait_until(lambda: newest() == 2)
    settings.cache_clear()
    send(log, 0, [envelope(n) for n in range(3, 9)])
    remove_before(log, {0: 6})
    for _ in range(2):
        # However often it starts, nothing is skipped.
        gone = rf"retention has passed the snapshot: {log} \[0\] holds offsets 6 to 9"
        ends_with("worker", plan, tmp_path, f"{gone}.*ends at 2;.*penstock bootstrap")
    create_again(plan, log)
    send(log, 0, [envelope(0)])
    ends_with("worker", plan, tmp_path, r"0 to 1, but offset 2 was folded: .*created again")


@pytest.mark.slow
def test_the_lake_sink_never_jumps(plan: Plan, tmp_path: Path) -> None:
    envelopes = finished(plan, [row(n) for n in range(200)])
    [(partition, own)] = envelopes.items()
    send(plan.features_topic, partition, own[:4])
    with lake_in(tmp_path):
        with service("lake_sink", plan, tmp_path):
            wait_until(lambda: count("features") == 100)
        send(plan.features_topic, partition, own[4:])
        remove_before(plan.features_topic, {partition: 6})
        place = rf"{plan.features_topic} \[{partition}\]"
        ends_with("lake_sink", plan, tmp_path, rf"retention.*{place}.* 4, .* 6 to 8,.*LAKE_URI")
        # An empty lake begins with what there is, and says so.
        with lake_in(tmp_path / "new"), service("lake_sink", plan, tmp_path / "new"):
            pass


@pytest.mark.slow
def test_the_online_store_says_what_it_passes_over(plan: Plan, stack: Any, tmp_path: Path) -> None:
    stack.require("redis")
    [(partition, own)] = finished(plan, [row(n) for n in range(200)]).items()
    send(plan.features_topic, partition, own[:4])
    remove_before(plan.features_topic, {partition: 3})
    log = tmp_path / "online_store.log"
    with service("online_store", plan, tmp_path) as process:
        jump = f"{plan.features_topic} [{partition}] goes on at offset 3 instead of 0"
        wait_until(lambda: jump in log.read_text())
        assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ingest", "worker"])
def test_a_topic_that_has_grown_is_refused(
    request: pytest.FixtureRequest, stack: Any, tmp_path: Path, name: str
) -> None:
    stack.require("kafka", "registry")
    plan = plan_of(f"t_grown_{name}")
    topics.ensure(plan)
    grown = plan.stages[1].topic

    def grow() -> None:
        finish(lambda client: client.create_partitions([NewPartitions(grown, 5)]))

    reason = f"topic '{grown}' has 5 partitions, the plan has 4"
    ends_with(name, plan, tmp_path, reason, after=grow)
    # Nor does it start again.
    ends_with(name, plan, tmp_path, reason)


@pytest.mark.slow
def test_a_topic_deleted_under_its_readers_ends_them(plan: Plan, tmp_path: Path) -> None:
    def delete() -> None:
        topic = plan.event_topic
        finish(lambda client: client.delete_topics([topic], operation_timeout=20))

    ends_with("ingest", plan, tmp_path, f"'{plan.event_topic}' was deleted", after=delete)


POISONS = {
    "worker": (b"hello", "not an envelope: it begins with b'hell'"),
    "lake_sink": (b"PSK1123", "damaged envelope of 7 bytes"),
    "online_store": (None, "not an envelope: it begins with nothing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_envelope_ends_its_reader(stack: Any, tmp_path: Path, name: str) -> None:
    stack.require("kafka", "registry", "redis")
    plan = plan_of(f"t_poison_{name}")
    topics.ensure(plan)
    log = plan.stages[1].topic if name == "worker" else plan.features_topic
    payload, reason = POISONS[name]
    send(log, 2, [payload])
    ends_with(name, plan, tmp_path, rf"{re.escape(log)} \[2\] offset 0: .*{re.escape(reason)}")


def test_log_bounds_are_those_of_the_broker(plan: Plan) -> None:
    send(plan.features_topic, 0, [b"1", b"2", b"3"])
    remove_before(plan.features_topic, {0: 1})
    assert log_bounds(plan.features_topic, 0) == (1, 3)

"""Idle raw partitions: who is idle, what ingest then tells, and what a crash makes of it."""

import time
from pathlib import Path
from typing import Any

import pytest

from features.fold import Fold
from features.plan import Plan
from features.settings import settings
from features.wire import KIND_MARKER, NEVER_US, decode, late_topic
from streaming import markers, topics
from streaming.markers import IdleWatch, Stamp, marker_rows
from streaming.snapshots import SnapshotStore
from tests.streaming.chain import (
    committed,
    ingest,
    plan_of,
    read,
    read_rows,
    running,
    sale,
    send,
    service,
    wait_until,
)
from tests.streaming.test_worker import START_US, assert_equals_reference

HOUR_S = 3600


def test_a_stamp_reads_its_own_metadata() -> None:
    for stamp in (Stamp(), Stamp(5), Stamp(-7), Stamp(9, True)):
        assert Stamp.of(str(stamp)) == stamp
    # What was committed before partitions could be raised.
    assert Stamp.of("123") == Stamp(123)
    assert Stamp.of(None) == Stamp.of("") == Stamp(NEVER_US)


def test_idle_is_what_no_event_has_raised_for_a_while() -> None:
    watch = IdleWatch()
    late = markers.IDLE_S + 1
    assert watch.look({0: Stamp(5), 1: Stamp(), 2: Stamp(3)}, 0) == (set(), 3)
    # 0 goes on, 1 gets nothing, 2 stands still: 0 alone says what time it is.
    assert watch.look({0: Stamp(50), 1: Stamp(), 2: Stamp(3)}, late) == ({1, 2}, 50)
    # A raise is no sign of life, and what is raised tells no time.
    raised = {0: Stamp(60), 1: Stamp(50, True), 2: Stamp(50, True)}
    assert watch.look(raised, late + 1) == ({1, 2}, 60)
    # An event above it is.
    assert watch.look(raised | {2: Stamp(55)}, late + 2) == ({1}, 55)
    # A new reader of a partition has watched it for no time at all.
    watch.forget(1)
    assert watch.look(raised, late + 3)[0] == set()
    assert watch.look(raised, 3 * late) == ({0, 1, 2}, NEVER_US)


def test_nothing_was_read_for_a_while() -> None:
    watch = IdleWatch()
    assert not watch.is_quiet(0, 7, 0)
    assert watch.is_quiet(0, 7, markers.IDLE_S)
    assert not watch.is_quiet(0, 8, markers.IDLE_S + 1)


@pytest.fixture
def quick(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions are idle after a moment."""
    stack.require("kafka", "registry")
    monkeypatch.setattr(markers, "IDLE_S", 3.0)
    monkeypatch.setattr(markers, "TELL_EVERY_S", 0.2)


def stamp_of(plan: Plan, partition: int) -> Stamp:
    """What ingest has committed of a raw partition."""
    return Stamp.of(committed(plan, "ingest", plan.event_topic)[partition].metadata)


def send_when_idle(plan: Plan, event: dict[str, Any]) -> None:
    """An event of partition 0 while partition 3, whose newest one is a moment old, is idle."""
    wait_until(lambda: stamp_of(plan, 3).watermark_us > NEVER_US)
    time.sleep(markers.IDLE_S + 1)
    send(plan.event_topic, 0, [event])


def raises_told(plan: Plan, partition: int, least_us: int) -> set[tuple[int, int]]:
    """(offset, watermark) of a raw partition's markers from a watermark on; there are some."""
    found: set[tuple[int, int]] = set()

    def enough(messages: list[Any]) -> bool:
        rows = decode(plan, messages[-1].value()).to_pylist() if messages else []
        found.update(
            (row["origin_offset"], row["watermark_us"])
            for row in rows
            if row["kind"] == KIND_MARKER
            and row["origin_partition"] == partition
            and row["watermark_us"] >= least_us
        )
        return bool(found)

    read(plan.stages[0].topic, plan.partitions, enough)
    return found


@pytest.mark.slow
def test_state_expires_though_a_partition_never_gets_anything(quick: None, tmp_path: Path) -> None:
    plan = plan_of("t_idle")
    topics.ensure(plan)
    total, span_s = 3000, 25
    # Partition 3 gets nothing; each person is of one partition; the longest window is 2 h.
    for partition in range(3):
        numbers = range(partition, total, 3)
        send(plan.event_topic, partition, [sale(n, n * span_s, f"p{partition}") for n in numbers])
    stages = range(len(plan.stages))

    def entries(stage: int) -> int:
        """Events that the newest snapshots of a stage hold."""
        held = 0
        for partition in range(plan.partitions):
            fold = Fold(plan, stage)
            SnapshotStore(plan, stage, partition).restore(fold)
            held += fold.entries
        return held

    with (
        running(ingest(plan)),
        service("worker", plan, tmp_path),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PENSTOCK_SNAPSHOT_URI", str(tmp_path / "snapshots"))
        settings.cache_clear()
        rows = read_rows(plan, plan.features_topic, total)
        # Time goes on in one partition, whose rows reach one partition of each log.
        for n in range(total, total + 5):
            send(plan.event_topic, 0, [sale(n, n * span_s, "p0")])
            wait_until(lambda n=n: stamp_of(plan, 3).watermark_us == START_US + n * span_s * 10**6)
        wait_until(lambda: all(entries(stage) < 600 for stage in stages))
        rows = read_rows(plan, plan.features_topic, total + 5)
    settings.cache_clear()
    assert len(rows) == total + 5
    assert {row["kind"] for row in rows} == {0}
    assert_equals_reference(plan, rows)


@pytest.mark.slow
def test_a_late_verdict_after_a_raise_survives_restarts(quick: None) -> None:
    plan = plan_of("t_idle_late")
    topics.ensure(plan)
    raised_us = START_US + 5 * HOUR_S * 10**6
    send(plan.event_topic, 3, [sale(0, 10)])
    with running(ingest(plan)):
        send_when_idle(plan, sale(1, 5 * HOUR_S))
        wait_until(lambda: stamp_of(plan, 3) == Stamp(raised_us, is_raised=True))
    # Who judges these has never seen the event of partition 0; the second is late by a second.
    send(plan.event_topic, 3, [sale(2, 4 * HOUR_S), sale(3, 4 * HOUR_S - 1)])
    with running(ingest(plan)):
        late = read_rows(plan, late_topic(plan.event_topic), 1)
        accepted = read_rows(plan, plan.stages[0].topic, 3)
    send(plan.event_topic, 3, [sale(4, 4 * HOUR_S - 1), sale(5, 5 * HOUR_S + 1)])
    with running(ingest(plan)):
        late = read_rows(plan, late_topic(plan.event_topic), 2)
        accepted = read_rows(plan, plan.stages[0].topic, 4)
    assert [row["event_id"] for row in late] == ["s3", "s4"]
    assert {row["watermark_us"] for row in late} == {raised_us}
    assert {row["event_id"] for row in accepted} == {"s0", "s1", "s2", "s5"}
    # An event has reached it: the partition is no longer raised.
    assert stamp_of(plan, 3) == Stamp(raised_us + 10**6)
    # The log tells from which record on the raise was judged by.
    assert (1, raised_us) in raises_told(plan, 3, raised_us)


@pytest.mark.slow
def test_who_has_not_committed_for_long_does_so_before_it_judges(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("t_idle_prove")
    topics.ensure(plan)
    service = ingest(plan)
    order: list[str] = []
    for name in ("_commit", "_handle"):
        whole = getattr(service, name)

        def noted(*args: Any, name: str = name, whole: Any = whole) -> Any:
            order.append(name)
            return whole(*args)

        monkeypatch.setattr(service, name, noted)
    monkeypatch.setattr("streaming.ingest.PROVE_S", -1.0)
    monkeypatch.setattr("streaming.ingest.COMMIT_EVERY_S", 1000.0)
    with running(service):
        for n in range(3):
            send(plan.event_topic, 1, [sale(n, n)])
            read_rows(plan, plan.stages[0].topic, n + 1)
    handled = [at for at, name in enumerate(order) if name == "_handle"]
    assert len(handled) >= 3
    assert {order[at - 1] for at in handled} == {"_commit"}


@pytest.mark.slow
def test_a_raise_is_committed_before_it_is_told(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("t_idle_crash")
    topics.ensure(plan)
    send(plan.event_topic, 3, [sale(0, 10)])
    raised_us = START_US + 5 * HOUR_S * 10**6
    seen: list[Stamp] = []

    def look(plan: Plan, rows: list[tuple[int, int, int]]) -> Any:
        if any(watermark_us == raised_us for p, _, watermark_us in rows if p == 3):
            seen.append(stamp_of(plan, 3))
        return marker_rows(plan, rows)

    monkeypatch.setattr("streaming.ingest.marker_rows", look)
    with running(ingest(plan)):
        send_when_idle(plan, sale(1, 5 * HOUR_S))
        wait_until(lambda: bool(seen))
    assert seen[0] == Stamp(raised_us, is_raised=True)

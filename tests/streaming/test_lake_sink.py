"""The lake holds each record once, whatever is killed and whatever is sent twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from features import lake
from features.fold import Fold
from features.plan import Plan
from features.settings import settings
from features.wire import (
    LATE,
    DeadLetter,
    dead_letter_topic,
    encode,
    late_topic,
    partition_of,
)
from streaming import topics
from streaming.broker import GaplessProducer
from streaming.lake_sink import LakeSink
from tests.features.rows import batch
from tests.streaming.chain import plan_of, running, send, service, wait_until

pytestmark = pytest.mark.slow

START_US = 1767571200000000


@pytest.fixture
def lake_folder(stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")
    monkeypatch.setenv("PENSTOCK_LAKE_URI", str(tmp_path / "lake"))
    settings.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()


def row(number: int, **changed: Any) -> dict[str, Any]:
    """A row as ingest sends it, of raw partition `number % 4`."""
    return {
        "origin_partition": number % 4,
        "origin_offset": number // 4,
        "position_partition": number % 4,
        "position_seq": number // 4 << 20,
        "broker_time_us": START_US + number,
        "event_id": f"s{number}",
        "event_time_us": START_US + number * 60_000_000,
        "person_id": f"p{number % 9}",
        "shop_id": "shop",
        "price": number,
    } | changed


def label(number: int) -> dict[str, Any]:
    """The label of `row(number)`."""
    changed = {"kind": 1, "origin_log": 1, "position_log": 1, "person_id": None, "price": None}
    return row(number, **changed, refunded=1)


def finished(plan: Plan, rows: list[dict[str, Any]]) -> dict[int, list[bytes]]:
    """Envelopes of the features topic by partition: rows that went through the last stage."""
    by_partition: dict[int, list[dict[str, Any]]] = {}
    for each in rows:
        partition = partition_of(each["shop_id"], plan.partitions)
        by_partition.setdefault(partition, []).append(each)
    envelopes: dict[int, list[bytes]] = {}
    for partition, own in by_partition.items():
        fold = Fold(plan, 1)
        for offset, at in enumerate(range(0, len(own), 25)):
            folded = fold.fold(batch(plan, own[at : at + 25]), partition, offset)
            envelopes.setdefault(partition, []).append(encode(plan, folded))
    return envelopes


def ids(table: str) -> list[str]:
    return lake.read(table, ["event_id"]).column("event_id").to_pylist()


def count(table: str) -> int:
    return lake.read(table).num_rows if lake.open_table(table) is not None else 0


def test_each_record_is_in_the_lake_once_although_the_sink_is_killed(lake_folder: Path) -> None:
    plan = plan_of("t_sink_killed")
    topics.ensure(plan)
    total = 2000
    numbers = range(total)
    rows = [row(n, shop_id=f"shop{n % 7}", verdict=int(n % 10 == 0)) for n in numbers]
    labels = [label(n) | {"shop_id": f"shop{n % 7}"} for n in range(0, total, 4)]
    envelopes = finished(plan, rows + labels)
    for partition, own in envelopes.items():
        send(plan.features_topic, partition, own[: len(own) // 2])
    with service("lake_sink", plan, lake_folder) as process:
        # The tables are written one after the other: between two of them is a good moment.
        wait_until(lambda: count("events") > 0)
        process.kill()
        process.wait()
    for partition, own in envelopes.items():
        # The worker was killed too: its last envelopes come again.
        send(plan.features_topic, partition, own)
    folded = [r["event_id"] for r in rows if r["verdict"] == 0]
    with running(LakeSink(plan)):
        wait_until(lambda: count("labels") >= len(labels) and count("features") >= len(folded))
        wait_until(lambda: count("events") >= total)
    assert Counter(ids("events")) == Counter(r["event_id"] for r in rows)
    assert Counter(ids("labels")) == Counter(r["event_id"] for r in labels)
    assert Counter(ids("features")) == Counter(folded)
    events = {e["event_id"]: e for e in lake.read("events").to_pylist()}
    assert events["s10"]["verdict"] == "duplicate"
    assert events["s11"]["verdict"] == "folded"
    assert events["s11"]["shop_seq"] is not None
    assert events["s11"]["event_time"].isoformat() == "2026-01-05T00:11:00+00:00"
    made = lake.read("features").to_pylist()[0]
    assert made["fingerprint"] == plan.fingerprint
    assert made["shop_count_1h_delay_5m"] is not None
    known = lake.read("labels").to_pylist()[0]
    assert known["known_time"] == known["broker_time"]
    assert known["refunded"] is True


def test_late_rows_and_dead_letters_repeated_by_a_crash_are_in_the_lake_once(
    lake_folder: Path,
) -> None:
    plan = plan_of("t_sink_repeats")
    topics.ensure(plan)
    producer = GaplessProducer()
    late = [row(4 * n, verdict=LATE) for n in range(6)]
    for part in (late[:4], late[2:]):
        producer.send_rows(plan, late_topic(plan.event_topic), 0, batch(plan, part))
    letters = [
        DeadLetter(plan.event_topic, 2, offset, "not_json", "no", START_US // 1000 + offset)
        for offset in (3, 5, 8)
    ]
    for letter in (*letters[:2], *letters):
        value = f"raw {letter.offset}".encode()
        producer.produce(dead_letter_topic(letter.topic), 2, value, b"key", letter.headers())
    on_labels = DeadLetter(plan.label_topic, 2, 3, "empty", "nothing", START_US // 1000)
    producer.produce(dead_letter_topic(plan.label_topic), 2, None, None, on_labels.headers())
    producer.flush()
    with running(LakeSink(plan)):
        wait_until(lambda: count("events") >= 6 and count("dead_letters") >= 4)
    assert sorted(ids("events")) == sorted(r["event_id"] for r in late)
    found = lake.read("dead_letters").to_pylist()
    assert sorted((f["topic"], f["origin_offset"], f["reason"], f["payload"]) for f in found) == [
        (plan.label_topic, 3, "empty", None),
        (plan.event_topic, 3, "not_json", b"raw 3"),
        (plan.event_topic, 5, "not_json", b"raw 5"),
        (plan.event_topic, 8, "not_json", b"raw 8"),
    ]


def test_scores_are_read_from_the_scored_topic(lake_folder: Path) -> None:
    plan = plan_of("t_sink_scores")
    topics.ensure(plan)
    score = {
        "sale_id": "s1",
        "at": "2026-01-05T00:00:01.000002Z",
        "score": 0.25,
        "decision": "accept",
        "model_version": "3",
        "fingerprint": plan.fingerprint,
        "origin": {"partition": 1, "offset": 7},
        "broker_time_us": START_US + 5,
    }
    send(plan.scored_topic, 3, [score])
    with running(LakeSink(plan)):
        wait_until(lambda: count("scores") >= 1)
    (found,) = lake.read("scores").to_pylist()
    assert found["event_time"].isoformat() == "2026-01-05T00:00:01.000002+00:00"
    assert found["scored_time"] > found["broker_time"]
    expected = {"event_id": "s1", "origin_partition": 1, "origin_offset": 7}
    expected |= {n: score[n] for n in ("score", "decision", "model_version", "fingerprint")}
    assert {name: found[name] for name in expected} == expected

"""The scorer on a real broker and a real registry: each event one score, by the champion."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from serving.scorer import Scorer
from serving.settings import ServingSettings
from tests.serving.parts import (
    HOUR_US,
    MONDAY_US,
    Topics,
    new_plan,
    register,
    rows_of,
    scorer_process,
    wait_for,
    write_bundle,
)
from tests.streaming.chain import send


@pytest.fixture
def plan(stack, tmp_path):
    stack.require("kafka", "mlflow")
    return new_plan()


@pytest.fixture
def topics(plan):
    return Topics(plan)


@pytest.fixture
def champion(plan, tmp_path):
    return register(plan, write_bundle(tmp_path / "bundle", plan))


@pytest.fixture
def scorer(plan, topics, monkeypatch):
    """A scorer in this process; ended after the test."""
    # Feast, once imported by any test, asks for metrics of many processes, which know no clear().
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    made = Scorer(
        plan, topics.bootstrap, ServingSettings(champion_poll_s=0.2, drift_minimum_rows=100)
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(made.run)
        yield made
        made.stop()
        running.result(30)


def ids(scores):
    return sorted(int(score["sale_id"][1:]) for score in scores)


def test_a_row_becomes_one_scored_record(plan, topics, champion, scorer):
    topics.send(rows_of(plan, 0, 1, price=500))
    topics.send(rows_of(plan, 1, 1, price=10), partition=3)
    (message,) = topics.read(plan.scored_topic, until=lambda found: len(found) == 2)[:1]
    scores = {score["sale_id"]: score for score in topics.scores()}
    assert scores["e0"] == {
        "sale_id": "e0",
        "at": "2026-01-05T00:00:00.000007Z",
        "score": pytest.approx(0.98201, abs=1e-5),
        "decision": "block",
        "model_version": champion,
        "fingerprint": plan.fingerprint,
        "origin": {"partition": 0, "offset": 0},
        "broker_time_us": scores["e0"]["broker_time_us"],
    }
    assert scores["e1"]["decision"] == "approve"
    assert message.key().decode() in ("p0", "p1")


def test_repeated_rows_are_scored_once(plan, topics, champion, scorer):
    topics.send(rows_of(plan, 0, 10))
    topics.scores(10)
    topics.send(rows_of(plan, 5, 10))
    topics.send(rows_of(plan, 0, 15))
    topics.send(rows_of(plan, 15, 1))
    assert ids(topics.scores(until=lambda found: 15 in ids(found))) == list(range(16))


def test_a_new_champion_scores_without_a_restart(plan, topics, champion, scorer, tmp_path):
    topics.send(rows_of(plan, 0, 3))
    assert {score["model_version"] for score in topics.scores(3)} == {champion}
    second = register(plan, write_bundle(tmp_path / "second", plan, constant=0.95))
    wait_for(lambda: scorer._champions.current.version == second)
    topics.send(rows_of(plan, 3, 3))
    later = [score for score in topics.scores(6) if score["model_version"] == second]
    assert ids(later) == [3, 4, 5]
    assert {score["decision"] for score in later} == {"block"}


def test_events_wait_for_the_first_champion(plan, topics, scorer, tmp_path):
    topics.send(rows_of(plan, 0, 3))
    wait_for(lambda: "alias 'champion'" in scorer._champions.waiting_for)
    assert topics.scores() == []
    register(plan, write_bundle(tmp_path / "bundle", plan))
    assert ids(topics.scores(3)) == [0, 1, 2]


def week_of(plan, first_row, day, price):
    """A day of rows, one every five minutes, with the given prices in turn."""
    rows = rows_of(plan, first_row, 288).to_pylist()
    for i, row in enumerate(rows):
        row["event_time_us"] = MONDAY_US + day * 24 * HOUR_US + i * HOUR_US // 12
        row["price"] = price[i % len(price)]
    return type(rows_of(plan, 0, 0)).from_pylist(rows, schema=rows_of(plan, 0, 0).schema)


def test_drift_is_announced_once_in_a_committed_record(plan, topics, champion, scorer):
    usual, changed = [85, 95, 105, 115], [300]
    sent = 0
    for day in range(8):
        topics.send(week_of(plan, sent, day, usual))
        sent += 288
    topics.scores(sent)
    for day in range(8, 22):
        topics.send(week_of(plan, sent, day, changed))
        sent += 288

    def of_this_plan(found):
        return [json.loads(m.value()) for m in found if m.key() == plan.name.encode()]

    topics.scores(sent)
    found = of_this_plan(topics.read(plan.drift_topic, until=of_this_plan))
    topics.send(week_of(plan, sent, 22, changed))
    topics.scores(sent + 288)
    assert len(of_this_plan(topics.read(plan.drift_topic))) == 1
    (event,) = found
    assert event["model_version"] == champion
    assert event["fingerprint"] == plan.fingerprint
    assert [column["name"] for column in event["columns"]] == ["price"]
    assert event["columns"][0]["psi"] > 0.2
    assert event["first_seen"]["event_time"].startswith("2026-01-")


@pytest.mark.slow
def test_a_killed_scorer_scores_each_event_once(plan, topics, champion, tmp_path):
    log = tmp_path / "scorer.log"
    sent, rounds = 0, 3
    for kill in range(rounds):
        with scorer_process(plan, log) as process:
            for _ in range(40):
                topics.send(rows_of(plan, sent, 20), partition=(sent // 20) % 4)
                sent += 20
            wanted = sent - 400 if kill < rounds - 1 else sent
            topics.scores(wanted)
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGKILL if kill < rounds - 1 else signal.SIGTERM)
            process.wait(30)
    assert process.returncode == 0, log.read_text()
    assert ids(topics.scores(sent)) == list(range(sent))


@pytest.mark.slow
def test_a_second_scorer_of_the_same_name_ends_the_first(plan, topics, champion, tmp_path):
    log = tmp_path / "scorer.log"
    topics.send(rows_of(plan, 0, 3))
    with scorer_process(plan, log) as old:
        topics.scores(3)
        with scorer_process(plan, log) as new:
            topics.send(rows_of(plan, 3, 3))
            wait_for(lambda: topics.send(rows_of(plan, 0, 1)) or old.poll() is not None)
            assert ids(topics.scores(6)) == list(range(6))
            assert new.poll() is None, log.read_text()
    assert old.returncode not in (0, None)


@pytest.mark.slow
def test_a_scorer_never_jumps(plan, topics, champion, tmp_path):
    log = tmp_path / "scorer.log"
    with scorer_process(plan, log) as process:
        for n in range(4):
            topics.send(rows_of(plan, n, 1))
        topics.scores(4)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    for n in range(4, 8):
        topics.send(rows_of(plan, n, 1))
    place = TopicPartition(plan.features_topic, 0, 6)
    client = AdminClient({"bootstrap.servers": topics.bootstrap})
    client.delete_records([place])[place].result(60)
    with scorer_process(plan, log) as process:
        assert process.wait(60) != 0
    said = log.read_text()
    assert f"retention has passed the commit: {plan.features_topic} [0]" in said
    assert "from offset 4, but the log holds offsets 6 to 8, so 2 were removed unread" in said
    assert f"offsets of the group 'penstock-{plan.name}-v1-scorer'" in said
    assert ids(topics.scores()) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_poisoned_envelope_ends_the_scorer(plan, topics, champion, tmp_path):
    log = tmp_path / "scorer.log"
    topics.send(rows_of(plan, 0, 1))
    send(plan.features_topic, 0, [b"hello"])
    topics.send(rows_of(plan, 1, 1))
    for _ in range(2):
        with scorer_process(plan, log) as process:
            assert process.wait(60) != 0
    assert f"{plan.features_topic} [0] offset 1: not an envelope" in log.read_text()
    assert ids(topics.scores()) in ([], [0])


def test_an_idle_scorer_ends_when_another_takes_its_name(plan, topics, champion, tmp_path):
    log = tmp_path / "scorer.log"
    with scorer_process(plan, log) as old:
        topics.send(rows_of(plan, 0, 3))
        topics.scores(3)
        with scorer_process(plan, log) as new:
            wait_for(lambda: old.poll() is not None)
            assert old.returncode != 0
            topics.send(rows_of(plan, 3, 3))
            assert ids(topics.scores(6)) == list(range(6))
            assert new.poll() is None, log.read_text()

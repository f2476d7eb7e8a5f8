"""Dead letters are listed, shown, sent through the door again once, or dropped."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from confluent_kafka import Message, Producer
from typer.testing import CliRunner

from features import lake
from features.errors import PenstockError
from features.plan import Plan
from features.settings import settings
from features.wire import (
    CUT_FROM,
    DUPLICATE,
    FOLDED,
    LATE,
    REPLAY_OF,
    REPLAYED,
    DeadLetter,
    Dealt,
    dead_letter_topic,
    decode,
    late_topic,
)
from penstock.cli import app, main
from penstock.commands import dead_letters as commands
from streaming import dead_letters, topics
from streaming.broker import GaplessProducer, read_all
from streaming.lake_sink import LakeSink
from tests.streaming.chain import (
    ingest,
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


@pytest.fixture(autouse=True)
def _kafka(stack) -> None:  # type: ignore[no-untyped-def]
    stack.require("kafka", "registry")


def dlq(plan: Plan, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setattr(commands, "load_plan", lambda name: plan)
    return CliRunner().invoke(app, ["dlq", *arguments])


def answer(plan: Plan, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    said = dlq(plan, monkeypatch, *arguments, "--json")
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)


def refusal(plan: Plan, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    said = dlq(plan, monkeypatch, *arguments)
    assert said.exit_code != 0
    return str(said.exception) if isinstance(said.exception, PenstockError) else said.output


def free_sale(number: int, second: float, person: str = "p1") -> dict[str, Any]:
    """A sale below the least price."""
    return sale(number, second, person, price={"minor": -number, "currency": "EUR"})


def write_letters(plan: Plan, offsets: range, reason: str = "not_json") -> None:
    """Letters as ingest writes them, of partition 2."""
    producer = GaplessProducer()
    for offset in offsets:
        letter = DeadLetter(plan.event_topic, 2, offset, reason, "no", 1_767_571_200_000 + offset)
        headers = [("trace", b"\xff"), *letter.headers()]
        value = f"raw {offset}".encode()
        producer.produce(dead_letter_topic(plan.event_topic), 2, value, b"who", headers)
    producer.flush()


def test_mended_record_is_replayed_and_folded_once(tmp_path: Path) -> None:
    plan = plan_of("t_dlq_mended")
    topics.ensure(plan)
    send(plan.event_topic, 1, [sale(1, 10), free_sale(2, 11), sale(3, 12)], key=b"p1")
    with running(ingest(plan)):
        read(dead_letter_topic(plan.event_topic), plan.partitions, lambda m: m)
    # The mend: a door that takes such a price, in the same chain.
    fields = tuple(dataclasses.replace(f, minimum=None) for f in plan.fields)
    mended = dataclasses.replace(plan, fields=fields)
    done = dead_letters.replay(plan.event_topic, lambda letter: True)
    assert done.done == [f"{plan.event_topic}/1/1"]
    assert dead_letters.replay(plan.event_topic, lambda letter: True).done == []
    # Whoever insists sends it again: its id is known by then.
    assert dead_letters.replay(plan.event_topic, lambda letter: True, again=True).done == done.done
    with running(ingest(mended)), service("worker", plan, tmp_path):
        rows = read_rows(plan, plan.features_topic, 4)
    assert len(rows) == 4
    found = sorted((r["event_id"], r["verdict"]) for r in rows)
    assert found == [("s1", FOLDED), ("s2", FOLDED), ("s2", DUPLICATE), ("s3", FOLDED)]
    (folded,) = (r for r in rows if (r["event_id"], r["verdict"]) == ("s2", FOLDED))
    assert (folded["price"], folded["person_count_10m"]) == (-2, 2.0)
    raw = [m for m in read_all(plan.event_topic) if m.partition() == 1]
    assert [m.value() for m in raw[3:]] == [raw[1].value()] * 2
    assert [(m.key(), m.headers()) for m in raw[3:]] == [
        (b"p1", [(REPLAY_OF, f"{plan.event_topic}/1/1".encode())])
    ] * 2


def test_replay_that_came_too_late_keeps_its_mark() -> None:
    plan = plan_of("t_dlq_late")
    topics.ensure(plan)
    send(plan.event_topic, 0, [b"{", sale(1, 3 * 3600), sale(2, 0)])
    with running(ingest(plan)):
        read(dead_letter_topic(plan.event_topic), plan.partitions, lambda m: m)
        producer = GaplessProducer()
        mark = f"{plan.event_topic}/0/0".encode()
        late = [(n, [(REPLAY_OF, mark)] if n == 4 else None) for n in (3, 4, 5)]
        for n, headers in late:
            value = json.dumps(sale(n, 60)).encode()
            producer.produce(plan.event_topic, 0, value, headers=headers)
        producer.flush()
        envelopes = read(
            late_topic(plan.event_topic),
            plan.partitions,
            lambda found: sum(len(ids(plan, m)) for m in found) >= 4,
        )
    said = [(id, m.headers()) for m in envelopes for id in ids(plan, m)]
    assert said == [("s2", None), ("s3", None), ("s4", [(REPLAY_OF, mark)]), ("s5", None)]
    assert {row["verdict"] for m in envelopes for row in decoded(plan, m)} == {LATE}


def decoded(plan: Plan, message: Message) -> list[dict[str, Any]]:
    return decode(plan, message.value()).to_pylist()


def ids(plan: Plan, message: Message) -> list[str]:
    return [row["event_id"] for row in decoded(plan, message)]


def test_list_and_show_say_what_became_of_each_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("t_dlq_list")
    topics.ensure(plan)
    nothing = answer(plan, monkeypatch, "list")
    assert nothing == {"counts": [], "letters": []}
    write_letters(plan, range(3))
    write_letters(plan, range(3, 5), "wrong_type")
    # A crash of ingest repeats what it had not committed.
    write_letters(plan, range(4, 5), "wrong_type")
    topic = plan.event_topic
    assert answer(plan, monkeypatch, "drop", topic, "2", "1")["dropped"] == [f"{topic}/2/1"]
    replayed = answer(plan, monkeypatch, "replay", f"{topic}.dlq", "--reason", "wrong_type")
    assert replayed == {
        "topic": topic,
        "replayed": [f"{topic}/2/3", f"{topic}/2/4"],
        "skipped": [],
        "cut": [],
    }
    found = answer(plan, monkeypatch, "list")
    time = "2026-01-05T00:00:00.00{}Z".format
    assert found["counts"] == [
        {
            "topic": topic,
            "reason": "not_json",
            "letters": 3,
            "open": 2,
            "replayed": 0,
            "dropped": 1,
            "first": time(0),
            "last": time(2),
        },
        {
            "topic": topic,
            "reason": "wrong_type",
            "letters": 2,
            "open": 0,
            "replayed": 2,
            "dropped": 0,
            "first": time(3),
            "last": time(4),
        },
    ]
    states = [(each["offset"], each["state"]) for each in found["letters"]]
    assert states == [(0, "open"), (1, "dropped"), (2, "open"), (3, "replayed"), (4, "replayed")]
    newest = answer(plan, monkeypatch, "list", "-n", "1", "--since", time(2))
    assert [each["letters"] for each in newest["counts"]] == [1, 2]
    assert [each["offset"] for each in newest["letters"]] == [4]
    assert answer(plan, monkeypatch, "list", "--since", "1h")["counts"] == []
    assert answer(plan, monkeypatch, "list", "--topic", plan.label_topic)["counts"] == []
    shown = answer(plan, monkeypatch, "show", topic, "2", "0")
    assert shown == shown | {
        "topic": topic,
        "partition": 2,
        "offset": 0,
        "reason": "not_json",
        "message": "no",
        "state": "open",
        "key": "who",
        "headers": [["trace", "\\xff"]],
        "payload": "raw 0",
        "payload_base64": "cmF3IDA=",
    }
    table = dlq(plan, monkeypatch, "list").output
    assert f"penstock dlq show {topic} 2 4" in table.replace("\n", "")
    text = dlq(plan, monkeypatch, "show", topic, "2", "0").output
    assert "raw 0" in text
    assert f"penstock dlq replay {topic} 2 0" in text


def test_what_was_dealt_with_is_refused_or_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("t_dlq_again")
    topics.ensure(plan)
    write_letters(plan, range(4))
    topic = plan.event_topic
    answer(plan, monkeypatch, "replay", topic, "2", "0")
    answer(plan, monkeypatch, "drop", topic, "2", "1")
    assert "was replayed at" in refusal(plan, monkeypatch, "replay", topic, "2", "0")
    assert "was dropped at" in refusal(plan, monkeypatch, "replay", topic, "2", "1")
    assert "was replayed at" in refusal(plan, monkeypatch, "drop", topic, "2", "0")
    rest = answer(plan, monkeypatch, "replay", topic)
    assert rest["replayed"] == [f"{topic}/2/2", f"{topic}/2/3"]
    assert rest["skipped"] == [f"{topic}/2/0", f"{topic}/2/1"]
    assert answer(plan, monkeypatch, "replay", topic, "2", "0", "--again")["replayed"]
    sent = [m.value() for m in read_all(topic)]
    assert sent == [b"raw 0", b"raw 2", b"raw 3", b"raw 0"]
    own = next(iter(read_all(topic))).headers()
    assert own == [("trace", b"\xff"), (REPLAY_OF, f"{topic}/2/0".encode())]


def test_users_mistakes_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of("t_dlq_mistakes")
    topics.ensure(plan)
    topic = plan.event_topic
    said = refusal(plan, monkeypatch, "list", "--topic", "t_dlq_mistakes.sale.v2")
    assert f"did you mean '{topic}'" in said
    assert "did you mean 'not_json'" in refusal(plan, monkeypatch, "list", "--reason", "no_json")
    assert "neither a span" in refusal(plan, monkeypatch, "list", "--since", "yesterday")
    assert "no dead letter of" in refusal(plan, monkeypatch, "show", topic, "0", "7")
    assert "OFFSET" in refusal(plan, monkeypatch, "drop", topic, "0")
    both = refusal(plan, monkeypatch, "drop", topic, "0", "1", "--reason", "empty")
    assert "leave out the filters" in both.replace("\n", " ")
    monkeypatch.setattr(settings(), "kafka_bootstrap", "127.0.0.1:1")
    monkeypatch.setattr("sys.argv", ["penstock", "dlq", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "no broker answers at 127.0.0.1:1" in capsys.readouterr().err


def test_letter_that_holds_only_a_beginning_is_not_replayed() -> None:
    plan = plan_of("t_dlq_cut")
    topics.ensure(plan)
    letter = DeadLetter(plan.event_topic, 0, 3, "oversize", "no", 1)
    producer = GaplessProducer()
    headers = [*letter.headers(), (CUT_FROM, b"5000000")]
    producer.produce(dead_letter_topic(plan.event_topic), 0, b"begin", None, headers)
    producer.flush()
    dealings = dead_letters.replay(plan.event_topic, lambda said: True)
    assert (dealings.done, dealings.cut) == ([], [f"{plan.event_topic}/0/3"])
    assert list(read_all(plan.event_topic)) == []
    assert dead_letters.drop(plan.event_topic, lambda said: True).done == dealings.cut


def test_two_replays_at_once_send_each_record_once() -> None:
    plan = plan_of("t_dlq_twice")
    topics.ensure(plan)
    write_letters(plan, range(1200))
    found = dead_letters.letters(plan.event_topic)

    def begin() -> None:
        with dead_letters._Transactions(plan.event_topic) as first:
            for number, letter in enumerate(found):
                first.send(letter, REPLAYED, (f"raw {number}".encode(), b"who", []))
                if number == 700:
                    # 500 of them are committed; the other command finds 700 left.
                    done = dead_letters.replay(plan.event_topic, lambda said: True)
                    assert (len(done.done), len(done.skipped)) == (700, 500)

    with pytest.raises(PenstockError, match="took over"):
        begin()
    sent = [m.value() for m in read_all(plan.event_topic)]
    assert sent == [f"raw {n}".encode() for n in range(1200)]
    states = {letter.state for letter in dead_letters.letters(plan.event_topic)}
    assert states == {REPLAYED}


def test_markers_are_no_letters_of_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "lake_uri", str(tmp_path / "lake"))
    plan = plan_of("t_dlq_lake")
    topics.ensure(plan)
    write_letters(plan, range(3))
    dead_letters.drop(plan.event_topic, lambda said: said.offset == 2)
    dead_letters.replay(plan.event_topic, lambda said: said.offset == 0)
    write_letters(plan, range(3, 5))
    with running(LakeSink(plan)):
        wait_until(
            lambda: (
                lake.open_table("dead_letters") is not None
                and lake.read("dead_letters").num_rows >= 5
            )
        )
    found = lake.read("dead_letters").to_pylist()
    assert sorted(each["origin_offset"] for each in found) == list(range(5))


def test_label_is_replayed_into_its_own_topic() -> None:
    plan = plan_of("t_dlq_label")
    topics.ensure(plan)
    send(plan.label_topic, 3, [refund(1, 1) | {"refunded": 1}])
    with running(ingest(plan)):
        read(dead_letter_topic(plan.label_topic), plan.partitions, lambda m: m)
        assert dead_letters.replay(plan.label_topic, lambda said: True).done
        # Nothing was mended, so the door refuses it again: a new letter, of the new record.
        letters = read(
            dead_letter_topic(plan.label_topic),
            plan.partitions,
            lambda found: sum(not Dealt.from_headers(m.headers()) for m in found) >= 2,
        )
    assert len(letters) == 3
    first, again = dead_letters.letters(plan.label_topic)
    assert (first.state, again.state) == (REPLAYED, "open")
    assert again.replay_of == first.origin == f"{plan.label_topic}/3/0"
    assert again.said.offset > 0


def test_foreign_producer_cannot_pass_for_a_marker() -> None:
    plan = plan_of("t_dlq_forged")
    topics.ensure(plan)
    forged = Dealt(plan.event_topic, 0, 0, "dropped").headers()
    producer = Producer({"bootstrap.servers": settings().kafka_bootstrap})
    producer.produce(plan.event_topic, b"{", partition=0, headers=list(forged))
    assert producer.flush(30) == 0
    with running(ingest(plan)):
        (message,) = read(dead_letter_topic(plan.event_topic), plan.partitions, lambda m: m)
    assert message.headers()[: len(forged)] == list(forged)
    (letter,) = dead_letters.letters(plan.event_topic)
    assert (letter.state, letter.said.reason) == ("open", "not_json")

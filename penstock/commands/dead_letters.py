"""`penstock dlq`: what was refused at the door, why, and what is done about it."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from features.catalog import load_plan
from features.errors import PenstockError
from features.place import did_you_mean
from features.settings import settings
from features.wire import DROPPED, REPLAYED, DeadLetter, dead_letter_topic
from penstock.commands import say

if TYPE_CHECKING:
    from streaming.dead_letters import Dealings, Letter

app = typer.Typer(
    help="Dead letters: records that broke their topic's contract.", no_args_is_help=True
)

TopicArgument = Annotated[
    str, typer.Argument(help="The topic that refused it: of events, labels or a reference.")
]
PartitionArgument = Annotated[
    int | None, typer.Argument(help="The refused record's partition; by default every letter.")
]
OffsetArgument = Annotated[int | None, typer.Argument(help="Its offset there.")]
ReasonOption = Annotated[
    str, typer.Option(help="Only letters of this reason code.", show_default=False)
]
SinceOption = Annotated[
    str,
    typer.Option(
        help="Only records that came since: a span up to now such as 30m, 12h or 7d, or a time "
        "such as 2026-01-05T12:00:00Z.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_SPANS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command("list")
def list_letters(
    topic: Annotated[
        str, typer.Option(help="One topic; by default all of the feature set.", show_default=False)
    ] = "",
    reason: ReasonOption = "",
    since: SinceOption = "",
    number: Annotated[
        int, typer.Option("-n", min=0, help="Show so many letters, the newest; 0 shows all.")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Count dead letters by topic and reason, and list them with what became of each."""
    from streaming.dead_letters import OPEN, letters

    plan = load_plan(settings().feature_set)
    topics = [_topic(topic)] if topic else list(plan.raw_topics)
    wanted = _wanted(reason, since)
    found = [each for name in topics for each in letters(name) if wanted(each.said)]
    found.sort(key=lambda each: each.said.timestamp_ms)
    counts = _counts(found)
    shown = found[-number:] if number else found
    if as_json:
        print(json.dumps({"counts": counts, "letters": [_facts(each) for each in shown]}))
        return
    if not found:
        print(f"no dead letters of {', '.join(topics)}")
        return
    table = Table("topic", "reason", "letters", OPEN, REPLAYED, DROPPED, "first", "last")
    for each in counts:
        table.add_row(*map(str, each.values()))
    _print(table)
    table = Table("time", "topic", "partition", "offset", "reason", "state", "message")
    for letter in shown:
        said = letter.said
        table.add_row(
            _time(said.timestamp_ms),
            said.topic,
            str(said.partition),
            str(said.offset),
            said.reason,
            letter.state,
            said.message[:80],
        )
    _print(table)
    if len(found) > len(shown):
        say(f"{len(found) - len(shown)} older ones; -n 0 shows all")
    last = shown[-1].said
    say(f"one of them: penstock dlq show {last.topic} {last.partition} {last.offset}")


@app.command()
def show(
    topic: TopicArgument,
    partition: Annotated[int, typer.Argument(help="The refused record's partition.")],
    offset: Annotated[int, typer.Argument(help="Its offset there.")],
    as_json: JsonOption = False,
) -> None:
    """Print one dead letter: where it came from, why it was refused, its headers and its bytes."""
    from features.wire import own_headers
    from streaming.dead_letters import OPEN, record_of

    letter = _letter(_topic(topic), partition, offset)
    message = record_of(letter)
    value, key = message.value(), message.key()
    headers = [(name, _text(held)) for name, held in own_headers(message.headers() or [])]
    if as_json:
        facts = _facts(letter) | {
            "key": _text(key),
            "headers": headers,
            "payload": _text(value),
            "payload_base64": None if value is None else base64.b64encode(value).decode(),
        }
        print(json.dumps(facts, indent=2))
        return
    for name, fact in _facts(letter).items():
        if fact is not None:
            print(f"{name:<12} {fact}")
    print(f"{'key':<12} {'∅' if key is None else _text(key)}")
    for name, header in headers:
        print(f"{'header':<12} {name}: {'∅' if header is None else header}")
    print("∅ (no value)" if value is None else _text(value))
    if letter.state == OPEN:
        place = f"{letter.said.topic} {partition} {offset}"
        say(f"after a mend: penstock dlq replay {place}; to be done with it: penstock dlq drop …")


@app.command()
def replay(
    topic: TopicArgument,
    partition: PartitionArgument = None,
    offset: OffsetArgument = None,
    reason: ReasonOption = "",
    since: SinceOption = "",
    again: Annotated[
        bool, typer.Option("--again", help="Also what was replayed or dropped before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send refused records to their topic again, each once, with their own key and bytes.

    They go through the same door: what it refuses still becomes a new dead letter, an event that
    was folded meanwhile is a duplicate, and one that is late by now goes to the late topic.
    """
    from streaming import dead_letters

    name, wanted = _chosen(topic, partition, offset, reason, since, again)
    dealings = dead_letters.replay(name, wanted, again)
    _tell(name, REPLAYED, dealings, as_json)


@app.command()
def drop(
    topic: TopicArgument,
    partition: PartitionArgument = None,
    offset: OffsetArgument = None,
    reason: ReasonOption = "",
    since: SinceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Mark dead letters as dealt with; nothing is deleted."""
    from streaming import dead_letters

    name, wanted = _chosen(topic, partition, offset, reason, since, again=False)
    dealings = dead_letters.drop(name, wanted)
    _tell(name, DROPPED, dealings, as_json)


def _topic(name: str) -> str:
    """A raw topic of the feature set; the name of its dead-letter topic will do."""
    plan = load_plan(settings().feature_set)
    for topic in plan.raw_topics:
        if name in (topic, dead_letter_topic(topic)):
            return topic
    raise PenstockError(
        f"{plan.name} has no dead letters of a topic {name!r}; "
        f"{did_you_mean(name, list(plan.raw_topics))}"
    )


def _letter(topic: str, partition: int, offset: int) -> Letter:
    from streaming.dead_letters import letters

    for letter in letters(topic):
        if (letter.said.partition, letter.said.offset) == (partition, offset):
            return letter
    raise PenstockError(
        f"there is no dead letter of {topic}, partition {partition}, offset {offset}; "
        f"`penstock dlq list --topic {topic}` shows what there is"
    )


def _chosen(
    topic: str, partition: int | None, offset: int | None, reason: str, since: str, again: bool
) -> tuple[str, Callable[[DeadLetter], bool]]:
    """The topic, and which of its letters are meant."""
    from streaming.dead_letters import OPEN

    name = _topic(topic)
    if partition is None:
        return name, _wanted(reason, since)
    if offset is None:
        raise typer.BadParameter("give the record's OFFSET too, or neither")
    if reason or since:
        raise typer.BadParameter("PARTITION and OFFSET name one letter: leave out the filters")
    letter = _letter(name, partition, offset)
    if letter.state != OPEN and not again:
        raise PenstockError(
            f"the dead letter of {letter.origin} was {letter.state} at {_time(letter.dealt_ms)}; "
            "`penstock dlq replay … --again` sends it once more"
        )
    return name, lambda said: (said.partition, said.offset) == (partition, offset)


def _wanted(reason: str, since: str) -> Callable[[DeadLetter], bool]:
    from features.contract import FRAMED_REASONS, REASONS

    known = [*REASONS, *FRAMED_REASONS]
    if reason and reason not in known:
        raise PenstockError(f"no record is refused for {reason!r}; {did_you_mean(reason, known)}")
    first_ms = _since_ms(since) if since else 0
    return lambda said: said.timestamp_ms >= first_ms and said.reason == (reason or said.reason)


def _since_ms(since: str) -> float:
    span = re.fullmatch(r"(\d{1,9})([smhd])", since)
    if span:
        back = timedelta(**{_SPANS[span[2]]: int(span[1])})
        return datetime.now(UTC).timestamp() * 1000 - back.total_seconds() * 1000
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise typer.BadParameter(
            f"{since!r} is neither a span such as 30m, 12h or 7d nor a time such as "
            "2026-01-05T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000


def _counts(found: list[Letter]) -> list[dict[str, Any]]:
    states: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for letter in found:
        group = (letter.said.topic, letter.said.reason)
        states[group][letter.state] += 1
        times[group].append(letter.said.timestamp_ms)
    return [
        {
            "topic": topic,
            "reason": reason,
            "letters": held.total(),
            "open": held["open"],
            REPLAYED: held[REPLAYED],
            DROPPED: held[DROPPED],
            "first": _time(min(times[topic, reason])),
            "last": _time(max(times[topic, reason])),
        }
        for (topic, reason), held in sorted(states.items())
    ]


def _facts(letter: Letter) -> dict[str, Any]:
    said = letter.said
    return {
        "topic": said.topic,
        "partition": said.partition,
        "offset": said.offset,
        "time": _time(said.timestamp_ms),
        "reason": said.reason,
        "message": said.message,
        "state": letter.state,
        "dealt_time": _time(letter.dealt_ms),
        "replay_of": letter.replay_of or None,
    }


def _tell(topic: str, how: str, dealings: Dealings, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"topic": topic, how: dealings.done} | _left(dealings)))
        return
    print(f"{len(dealings.done)} dead letters of {topic} {how}")
    if dealings.skipped:
        more = "; --again sends them once more" if how == REPLAYED else ""
        say(f"{len(dealings.skipped)} were dealt with before and are skipped{more}")
    if dealings.cut:
        say(
            f"{len(dealings.cut)} hold only the beginning of a record that was too large, and "
            "cannot be replayed: have their producers send them again, smaller"
        )
    if how == REPLAYED and dealings.done:
        say(f"what is refused still: penstock dlq list --topic {topic}")


def _left(dealings: Dealings) -> dict[str, list[str]]:
    return {"skipped": dealings.skipped, "cut": dealings.cut}


def _time(ms: int | None) -> str | None:
    if ms is None:
        return None
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(held: bytes | None) -> str | None:
    return None if held is None else bytes(held).decode(errors="backslashreplace")


def _print(table: Table) -> None:
    Console().print(table, markup=False, highlight=False)

"""The chaos run: load, one fault a round, then quiet, and a judgement of everything."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from features import failpoints, lake
from features.errors import PenstockError
from features.failpoints import FAILPOINTS
from penstock.chaos.chain import SERVICES, Chain
from penstock.chaos.collect import collect, packed_rows, raw_records, scores
from penstock.chaos.faults import FAULTS, Deck, Field, Undo, has_room, meet
from penstock.chaos.judge import KINDS, Champion, Judgement, judge, outcomes
from penstock.chaos.load import Load
from serving.bundle import load as load_bundle
from serving.settings import ServingSettings
from streaming.tokenise import Tokeniser

RATE = 50.0
"""Orders a second: enough for every step to be at work, few enough for the plain reference."""

PAUSE_S = (1.5, 4.0)
"""Between faults. A restart takes longer, so faults meet recoveries."""

_LEFTOVER_S = 60.0
"""How long armed failpoints may take to be met; at the end of few rounds less."""

_QUIET_S = 120.0
"""A chain that drains nothing for so long will not."""

_SHOWN = 20

_STEPS = ("rows", "scores", "stored scores", "events", "letters", "labels", "unread")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a user can change about a run."""

    rounds: int
    seed: int
    rate: float = RATE


def run(home: Path, project: Path, options: Options, say: Say) -> dict[str, Any]:
    """Break a chain so many times and judge what it made.

    Returns:
        The report; `holds` tells whether nothing differs.
    """
    began = time.monotonic()
    chain = Chain(home, project)
    try:
        version = chain.start(say)
        load = Load(chain.plan, options.seed, options.rate)
        at = Field(chain, load, random.Random(f"faults {options.seed}"))
        load.start()
        _wait_for_scores(chain, say)
        done = _rounds(at, options.rounds, say)
        load.stop()
        say("the load has ended; waiting until everything is scored and stored")
        _drain(chain, say)
        seen = collect(chain.plan, at.flushes)
        ends = chain.supervisor.ends()
    finally:
        chain.end()
    say("computing what had to come of it")
    bundle = load_bundle(chain.bundle, chain.plan, version, ServingSettings())
    champion = Champion(bundle.engine, bundle.decisions, version)
    judgement = judge(chain.plan, Tokeniser.from_settings(), champion, seen)
    fired = failpoints.hits(chain.failpoints)
    hits = Counter(name for name, action in fired if action == "kill")
    return {
        "seed": options.seed,
        "rounds": options.rounds,
        "seconds": round(time.monotonic() - began, 1),
        "faults": {fault.name: done[fault.name] for fault in FAULTS},
        "failpoints": {name: hits[name] for name in FAILPOINTS},
        "writes_without_space": sum(action == "enospc" for _, action in fired),
        "ends": {name: ends.get(name, 0) for name in SERVICES},
        "revived": chain.revived,
        "load_stalls": load.stalls,
        **_found(judgement),
    }


def _found(judgement: Judgement) -> dict[str, Any]:
    return {
        "records": dict(sorted(judgement.outcomes.items())),
        "compared": dict(judgement.compared),
        "sent_again": dict(judgement.repeated),
        **{kind: judgement.count(kind) for kind in KINDS},
        "holds": not judgement.differences,
        "differences": [asdict(each) for each in judgement.differences[:_SHOWN]],
    }


def _rounds(at: Field, rounds: int, say: Say) -> Counter[str]:
    """Inject a fault a round; what is to be undone is undone in its time."""
    done: Counter[str] = Counter()
    deck = Deck(at.draw)
    due: list[tuple[float, Undo]] = []
    began = time.monotonic()
    for number in range(1, rounds + 1):
        injected = None
        while injected is None:
            # Of some kinds what they need is not there at this moment.
            fault = deck.next()
            until = time.monotonic() + _LEFTOVER_S
            while fault.point and not has_room(at, fault.point) and time.monotonic() < until:
                meet(at)
                _wait(at, due, 0.5)
            injected = fault.inject(at)
        done[fault.name] += 1
        what = fault.point or fault.name
        say(
            f"round {number} of {rounds}, {time.monotonic() - began:.0f} s: "
            f"{what} ({injected.target})"
        )
        due += [(time.monotonic() + after_s, undo) for after_s, undo in injected.undo]
        _wait(at, due, at.draw.uniform(*PAUSE_S))
    until = time.monotonic() + min(_LEFTOVER_S, 2.0 * rounds)
    while failpoints.waiting(at.chain.failpoints) and time.monotonic() < until:
        meet(at)
        _wait(at, due, 1.0)
    for _, undo in due:
        undo()
    at.chain.failpoints.unlink(missing_ok=True)
    return done


def _wait(at: Field, due: list[tuple[float, Undo]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for entry in [entry for entry in due if entry[0] <= time.monotonic()]:
            due.remove(entry)
            entry[1]()
        at.chain.revive()
        time.sleep(0.2)


def _wait_for_scores(chain: Chain, say: Say) -> None:
    until = time.monotonic() + _QUIET_S
    while not scores(chain.plan):
        if time.monotonic() > until:
            raise PenstockError(
                f"nothing was scored within {_QUIET_S:.0f} s; read the logs in {chain.home}/logs"
            )
        time.sleep(1)
    say("the chain scores")


def _drain(chain: Chain, say: Say) -> None:
    """Wait until every record has its outcome everywhere, or nothing has moved for long."""
    plan = chain.plan
    raw = {topic: raw_records(topic) for topic in plan.raw_topics}
    wanted = Counter(o.verdict for o in outcomes(plan, raw, Tokeniser.from_settings()).values())
    passing = wanted["folded"] + wanted["duplicate"] + wanted["label"] + wanted["version"]
    goal = [
        passing,
        wanted["folded"],
        wanted["folded"],
        wanted["folded"] + wanted["duplicate"] + wanted["late"],
        wanted["dead"],
        wanted["label"],
        0,
    ]
    before: list[int] = []
    moved = time.monotonic()
    while True:
        chain.revive()
        try:
            now = _progress(chain)
        except (KafkaException, PenstockError) as error:
            now = before
            say(f"not yet: {error}")
        say(f"{', '.join(_STEPS)}: {now} of {goal}")
        if now and now[-1] <= 0 and all(n >= g for n, g in zip(now, goal, strict=True)):
            return
        if now != before:
            before, moved = now, time.monotonic()
        if time.monotonic() - moved > _QUIET_S:
            say("nothing has moved for long; judging what there is")
            return
        time.sleep(3)


def _progress(chain: Chain) -> list[int]:
    plan = chain.plan
    rows = packed_rows(plan, plan.features_topic)
    origins = {(r["origin_log"], r["origin_partition"], r["origin_offset"]) for r in rows}
    unread = sum(chain.finished().values()) - sum(chain.online_progress().values())
    tables = [_stored(name) for name in ("scores", "events", "dead_letters", "labels")]
    return [len(origins), len(scores(plan)), *tables, unread]


def _stored(table: str) -> int:
    found = lake.open_table(table)
    return 0 if found is None else int(found.to_pyarrow_dataset().count_rows())

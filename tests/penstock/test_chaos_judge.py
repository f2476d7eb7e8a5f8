"""The judge of penstock chaos: content with an honest chain, and not with any other."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock.chaos.definitions.orders as definition
from features.fold import Fold
from features.plan import Plan, compile_plan
from features.wire import DeadLetter, partition_of, seq_of
from penstock.chaos.judge import (
    Champion,
    Flush,
    Origin,
    Outcome,
    Raw,
    Seen,
    Stored,
    judge,
    outcomes,
)
from penstock.chaos.model import write_bundle
from serving.bundle import load
from serving.settings import ServingSettings
from streaming.tokenise import Tokeniser
from tests.features.rows import batch

PLAN = compile_plan(definition.chaos)
TOKENISER = Tokeniser(bytes(range(32)))
NOW_S = 1_767_571_200.0  # 2026-01-05T00:00Z
KIND = {"label": 1, "version": 2}


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    folder = write_bundle(tmp_path_factory.mktemp("bundle"), PLAN)
    bundle = load(folder, PLAN, "1", ServingSettings())
    return Champion(bundle.engine, bundle.decisions, "1")


@pytest.fixture(scope="module")
def honest(champion: Champion) -> Seen:
    return chain(PLAN, champion, records(random.Random(3)))


def moment(second: float) -> str:
    return datetime.fromtimestamp(NOW_S + second, UTC).isoformat()


def order(number: int, second: float, person: str = "p1", **changed: Any) -> dict[str, Any]:
    return {
        "order_id": f"o{number}",
        "at": moment(second),
        "person_id": person,
        "shop_id": f"s{number % 3}",
        "price": {"minor": 100 + number, "currency": "EUR"},
    } | changed


class Log:
    """Raw records as the broker would keep them."""

    def __init__(self) -> None:
        self.raw: dict[str, list[Raw]] = {topic: [] for topic in PLAN.raw_topics}

    def add(self, topic: str, key: str, value: Any, second: float) -> Origin:
        partition = partition_of(key, PLAN.partitions)
        offset = sum(record.partition == partition for record in self.raw[topic])
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        time_us = round((NOW_S + second) * 1e6)
        self.raw[topic].append(Raw(topic, partition, offset, time_us, content))
        log = {PLAN.event_topic: 0, PLAN.label_topic: 1}.get(topic, 64)
        return log, partition, offset


def records(draw: random.Random) -> dict[str, list[Raw]]:
    log = Log()
    for number in range(150):
        person = f"p{draw.randrange(6)}"
        made = order(number, number - draw.choice([0, 0, 0, 5, 12, 60]), person)
        log.add(PLAN.event_topic, person, made, number)
        if draw.random() < 0.1:
            log.add(PLAN.event_topic, person, made, number)
        if draw.random() < 0.1:
            log.add(PLAN.event_topic, person, b"{", number)
        if draw.random() < 0.3:
            label = {name: made[name] for name in ("order_id", "at", "shop_id")}
            log.add(PLAN.label_topic, made["shop_id"], label | {"returned": True}, number)
        if draw.random() < 0.1:
            version = {"shop_id": "s1", "since": moment(number), "rate": 1.5, "kind": "toys"}
            log.add(PLAN.references[0].topic, "s1", version, number)
    return log.raw


def chain(plan: Plan, champion: Champion, raw: dict[str, list[Raw]]) -> Seen:
    """What the product's own folds and model make of a raw log, without a broker."""
    verdicts = outcomes(plan, raw, TOKENISER)
    seen = Seen(raw=raw)
    waiting: list[list[dict[str, Any]]] = [[] for _ in plan.stages]
    for origin, outcome in sorted(verdicts.items(), key=lambda item: item[1].raw.broker_time_us):
        if outcome.verdict == "dead":
            seen.letters.append(letter(outcome))
            continue
        row = raw_row(origin, outcome)
        if outcome.verdict == "late":
            seen.late.append(row)
            continue
        waiting[0 if origin[0] == 0 else 1].append(row)
    for stage in plan.stages:
        folds = [Fold(plan, stage.index) for _ in range(plan.partitions)]
        for row in waiting[stage.index]:
            partition = partition_of(row[stage.key_column], plan.partitions)
            offset = folds[partition].offset + 1
            [made] = folds[partition].fold(batch(plan, [row]), partition, offset).to_pylist()
            if stage.index + 1 < len(plan.stages):
                waiting[stage.index + 1].append(made)
            else:
                seen.rows.append(made | {"log_partition": partition, "log_offset": offset})
    fill_stores(plan, champion, seen)
    return seen


def raw_row(origin: Origin, outcome: Outcome) -> dict[str, Any]:
    log, partition, offset = origin
    values = {n: int(v) if isinstance(v, bool) else v for n, v in outcome.values.items()}
    return values | {
        "kind": KIND.get(outcome.verdict, 0),
        "event_id": outcome.values.get("event_id", outcome.values["shop_id"]),
        "origin_log": log,
        "origin_partition": partition,
        "origin_offset": offset,
        "position_log": log,
        "position_partition": partition,
        "position_seq": seq_of(offset, 0),
        "broker_time_us": outcome.raw.broker_time_us,
    }


def letter(outcome: Outcome) -> DeadLetter:
    raw = outcome.raw
    return DeadLetter(
        raw.topic, raw.partition, raw.offset, outcome.reason, "", raw.broker_time_us // 1000
    )


def fill_stores(plan: Plan, champion: Champion, seen: Seen) -> None:
    folded = [row for row in seen.rows if row["kind"] == 0 and row["verdict"] == 0]
    matrix = np.array([[row[name] for name in plan.column_names] for row in folded])
    scores = champion.engine.score(matrix.astype(np.float32))
    for row, score, decision in zip(folded, scores, champion.decisions.of(scores), strict=True):
        seen.scored.append(
            {
                "order_id": row["event_id"],
                "score": float(score),
                "decision": decision,
                "model_version": "1",
                "fingerprint": plan.fingerprint,
                "origin": {"partition": row["origin_partition"], "offset": row["origin_offset"]},
                "broker_time_us": row["broker_time_us"],
                "key": row["person_id"],
            }
        )
    verdicts = ("folded", "duplicate")
    events = [row | {"verdict": verdicts[row["verdict"]]} for row in seen.rows if row["kind"] == 0]
    seen.lake = {
        "events": events + [row | {"verdict": "late"} for row in seen.late],
        "features": [{n: v for n, v in row.items() if n != "verdict"} for row in folded],
        "scores": [record | origin_of(record) for record in seen.scored],
        "labels": [row | {"verdict": "label"} for row in seen.rows if row["kind"] == 1],
        "reference_shop": [row | {"verdict": "version"} for row in seen.rows if row["kind"] == 2],
        "dead_letters": [
            {
                "topic": e.topic,
                "origin_partition": e.partition,
                "origin_offset": e.offset,
                "reason": e.reason,
                "payload": b"{",
            }
            for e in seen.letters
        ],
    }
    for stage in plan.stages:
        held = seen.online[stage.name] = {}
        for row in sorted(folded, key=lambda row: (row["event_time_us"], row[stage.seq_column])):
            values = tuple(float(row[name]) for name in stage.outputs)
            held[row[stage.key_column]] = Stored(row["event_time_us"], values)


def origin_of(record: dict[str, Any]) -> dict[str, int]:
    partition, offset = record["origin"]["partition"], record["origin"]["offset"]
    return {"origin_partition": partition, "origin_offset": offset}


def test_an_honest_chain_differs_in_nothing(champion: Champion, honest: Seen) -> None:
    result = judge(PLAN, TOKENISER, champion, honest)
    assert result.differences == []
    assert min(result.outcomes[v] for v in ("folded", "duplicate", "late", "label", "dead")) > 5
    assert result.compared[PLAN.scored_topic] == len(honest.scored) > 100


def first_folded(seen: Seen) -> dict[str, Any]:
    return next(row for row in seen.rows if row["kind"] == 0 and row["verdict"] == 0)


def lose_score(seen: Seen) -> None:
    del seen.scored[7]


def double_score(seen: Seen) -> None:
    seen.scored.append(seen.scored[7])


def alter_score(seen: Seen) -> None:
    seen.scored[7] |= {"score": seen.scored[7]["score"] + 1e-4}


def alter_decision(seen: Seen) -> None:
    flipped = {"approve": "block", "block": "approve", "review": "approve"}
    seen.scored[7] |= {"decision": flipped[seen.scored[7]["decision"]]}


def score_of_another_model(seen: Seen) -> None:
    seen.scored[7] |= {"model_version": "2"}


def score_a_duplicate(seen: Seen) -> None:
    repeat = next(row for row in seen.rows if row["kind"] == 0 and row["verdict"] == 1)
    origin = {"partition": repeat["origin_partition"], "offset": repeat["origin_offset"]}
    seen.scored.append(seen.scored[7] | {"origin": origin})


def lose_row(seen: Seen) -> None:
    seen.rows.remove(first_folded(seen))


def alter_feature(seen: Seen) -> None:
    row = first_folded(seen)
    row[PLAN.stages[0].columns[0]] += 1.0


def alter_field(seen: Seen) -> None:
    first_folded(seen)["price"] += 1


def alter_verdict(seen: Seen) -> None:
    first_folded(seen)["verdict"] = 1


def row_again_with_another_value(seen: Seen) -> None:
    row = first_folded(seen)
    seen.rows.append(row | {"price": row["price"] + 1})


def row_again_at_a_new_place(seen: Seen) -> None:
    row = first_folded(seen)
    seen.rows.append(row | {"position_seq": 1 << 60, "log_offset": 10_000})


def swap_order(seen: Seen) -> None:
    """Two events of one raw partition change places in the first stage's log."""
    rows = [r for r in seen.rows if r["kind"] == 0 and r["log_partition"] == 0]
    first = rows[0]
    same = [r for r in rows[1:] if r["origin_partition"] == first["origin_partition"]]
    name = PLAN.stages[0].seq_column
    first[name], same[0][name] = same[0][name], first[name]


def lose_late(seen: Seen) -> None:
    del seen.late[0]


def late_that_is_not(seen: Seen) -> None:
    seen.late.append(first_folded(seen))


def lose_letter(seen: Seen) -> None:
    del seen.letters[0]


def letter_of_a_good_record(seen: Seen) -> None:
    row = first_folded(seen)
    partition, offset = row["origin_partition"], row["origin_offset"]
    seen.letters.append(DeadLetter(PLAN.event_topic, partition, offset, "not_json", "", 0))


def letter_with_another_reason(seen: Seen) -> None:
    seen.letters[0] = replace(seen.letters[0], reason="oversize")


def lose_from_lake(seen: Seen) -> None:
    del seen.lake["events"][3]


def double_in_lake(seen: Seen) -> None:
    seen.lake["features"].append(seen.lake["features"][3])


def alter_in_lake(seen: Seen) -> None:
    seen.lake["features"][3] |= {PLAN.stages[1].outputs[0]: 1e6}


def alter_score_in_lake(seen: Seen) -> None:
    seen.lake["scores"][3] |= {"score": 0.123}


def letter_twice_in_lake(seen: Seen) -> None:
    seen.lake["dead_letters"].append(seen.lake["dead_letters"][0])


def letter_of_other_bytes_in_lake(seen: Seen) -> None:
    seen.lake["dead_letters"][0] |= {"payload": b"}"}


def lose_online(seen: Seen) -> None:
    held = seen.online[PLAN.stages[0].name]
    del held[next(iter(held))]


def older_online(seen: Seen) -> None:
    held = seen.online[PLAN.stages[1].name]
    key = next(iter(held))
    held[key] = replace(held[key], event_time_us=held[key].event_time_us - 1)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lose_score, "missing"),
        (double_score, "duplicated"),
        (alter_score, "different"),
        (alter_decision, "different"),
        (score_of_another_model, "different"),
        (score_a_duplicate, "unexplained"),
        (lose_row, "missing"),
        (alter_feature, "different"),
        (alter_field, "different"),
        (alter_verdict, "different"),
        (row_again_with_another_value, "different"),
        (row_again_at_a_new_place, "duplicated"),
        (swap_order, "different"),
        (lose_late, "missing"),
        (late_that_is_not, "unexplained"),
        (lose_letter, "missing"),
        (letter_of_a_good_record, "unexplained"),
        (letter_with_another_reason, "different"),
        (lose_from_lake, "missing"),
        (double_in_lake, "duplicated"),
        (alter_in_lake, "different"),
        (alter_score_in_lake, "different"),
        (letter_twice_in_lake, "duplicated"),
        (letter_of_other_bytes_in_lake, "different"),
        (lose_online, "missing"),
        (older_online, "different"),
    ],
)
def test_a_chain_that_errs_is_found_out(
    champion: Champion, honest: Seen, change: Callable[[Seen], None], kind: str
) -> None:
    seen = copy.deepcopy(honest)
    change(seen)
    assert judge(PLAN, TOKENISER, champion, seen).count(kind) > 0


def test_rows_sent_again_as_they_were_are_no_difference(champion: Champion, honest: Seen) -> None:
    seen = copy.deepcopy(honest)
    seen.rows += seen.rows[-20:]
    result = judge(PLAN, TOKENISER, champion, seen)
    assert result.differences == []
    assert result.repeated[PLAN.features_topic] == 20


def test_after_a_flush_only_keys_of_later_events_are_missed(
    champion: Champion, honest: Seen
) -> None:
    seen = copy.deepcopy(honest)
    ends = dict.fromkeys(range(PLAN.partitions), 10_000)
    seen.online = {stage.name: {} for stage in PLAN.stages}
    seen.flushes = [Flush(ends, ends)]
    assert judge(PLAN, TOKENISER, champion, seen).differences == []
    seen.flushes = [Flush({}, {})]
    assert judge(PLAN, TOKENISER, champion, seen).count("missing") > 0


def verdicts(*values: tuple[Any, float]) -> list[str]:
    """The verdicts of one person's orders; each with its broker's time."""
    log = Log()
    origins = [log.add(PLAN.event_topic, "p1", value, second) for value, second in values]
    found = outcomes(PLAN, log.raw, TOKENISER)
    return [found[origin].reason or found[origin].verdict for origin in origins]


def test_lateness_is_judged_against_what_came_before() -> None:
    assert verdicts(
        (order(1, 100), 100), (order(2, 80), 100), (order(3, 79.9), 100), (order(4, 101), 101)
    ) == ["folded", "folded", "late", "folded"]


def test_an_id_is_a_duplicate_within_the_lateness_only() -> None:
    assert verdicts(
        (order(1, 100), 100), (order(1, 110, price={"minor": 1, "currency": "EUR"}), 110),
        (order(1, 120), 120), (order(1, 121), 121), (order(1, 130, "p1"), 130),
    ) == ["folded", "duplicate", "duplicate", "folded", "duplicate"]  # fmt: skip


def test_a_refused_record_moves_no_clock() -> None:
    assert verdicts(
        (order(1, 100), 100), (order(2, 5000), 100), (b"{", 100), (order(3, 90), 100)
    ) == ["folded", "time_in_future", "not_json", "folded"]


def test_the_model_tells_every_column_apart(tmp_path: Path) -> None:
    bundle = load(write_bundle(tmp_path, PLAN), PLAN, "1", ServingSettings())
    usual = np.full((1, len(PLAN.columns)), 3.0, np.float32)
    score = bundle.engine.score(usual)
    for column in range(len(PLAN.columns)):
        other = usual.copy()
        other[0, column] += 1
        assert abs(bundle.engine.score(other) - score) > 1e-4

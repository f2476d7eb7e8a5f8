"""What a chain should have made of its raw topics, and where it differs.

The raw log alone tells every verdict: refused by the contract, late behind the highest time of its
partition, a repeat of an id, or to be folded. From each stage's log only the order is taken
(`<stage>_seq`), and checked against the order its upstream had. Features come from the plain
reference, scores from the bundle's model. Nothing is taken from another run of the chain.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from features import reference
from features.contract import Contract
from features.errors import ContractError
from features.plan import Plan, StagePlan
from features.reference import Fact
from features.wire import (
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LOG_EVENTS,
    LOG_LABELS,
    LOG_REFERENCES,
    NEVER_US,
    VERDICTS,
    DeadLetter,
    partition_of,
)
from serving.decision import Decisions
from serving.engines import OnnxEngine
from streaming.tokenise import Tokeniser

Origin = tuple[int, int, int]
"""(log, raw partition, raw offset); `log` as in a row's `origin_log`."""

SCORE_TOLERANCE = 1e-6
"""A model may round differently in a batch of another size; features may not differ at all."""

KINDS = ("missing", "duplicated", "different", "unexplained")


@dataclass(frozen=True)
class Raw:
    """A record of a users' topic."""

    topic: str
    partition: int
    offset: int
    broker_time_us: int
    value: bytes | None


@dataclass(frozen=True)
class Stored:
    """A key's vector in the online store."""

    event_time_us: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Flush:
    """The online store was emptied: what was written before `surely_before` is gone.

    Both hold the next offset by partition of the features topic; rows from `surely_after` on were
    written after the flush, of those between nobody knows.
    """

    surely_before: Mapping[int, int]
    surely_after: Mapping[int, int]


@dataclass
class Seen:
    """What a chain was given and what it made of it.

    Attributes:
        raw: of each users' topic, every record in the order of its partition.
        rows: of the features topic, each partition's in order, with `log_partition` and
            `log_offset`, repeats included.
        late: of the late topic, likewise.
        letters: dead letters, repeats included.
        scored: records of the scored topic as a `read_committed` consumer sees them, with `key`.
        lake: by table, its rows.
        online: by stage and key, what the online store holds.
        flushes: of the online store.
    """

    raw: dict[str, list[Raw]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    scored: list[dict[str, Any]] = field(default_factory=list)
    lake: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    online: dict[str, dict[Any, Stored]] = field(default_factory=dict)
    flushes: list[Flush] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What must become of a raw record.

    `verdict` is one of `VERDICTS`, or `label`, `version` or `dead`; `values` are the row's own.
    """

    verdict: str
    raw: Raw
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it must be; `kind` is one of `KINDS`, `where` a topic or a store."""

    kind: str
    where: str
    what: str
    expected: Any = None
    found: Any = None


@dataclass
class Judgement:
    """What was compared, and every difference."""

    outcomes: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """How many differences are of a kind."""
        return sum(each.kind == kind for each in self.differences)


@dataclass(frozen=True)
class Champion:
    """What scores: the model, its thresholds and its version."""

    engine: OnnxEngine
    decisions: Decisions
    version: str


def outcomes(
    plan: Plan, raw: Mapping[str, Sequence[Raw]], tokeniser: Tokeniser
) -> dict[Origin, Outcome]:
    """What must become of every raw record, from the raw log alone."""
    found: dict[Origin, Outcome] = {}
    for topic in plan.raw_topics:
        contract = Contract(plan, topic)
        log, kind = _log_of(plan, topic)
        newest_us: dict[int, int] = defaultdict(lambda: NEVER_US)
        folded: dict[tuple[str, str], list[int]] = defaultdict(list)
        for record in raw.get(topic, ()):
            origin = (log, record.partition, record.offset)
            try:
                values = contract.read(record.value)
                if kind != KIND_REFERENCE:
                    contract.check_not_future(values[1], record.broker_time_us)
            except ContractError as refusal:
                found[origin] = Outcome("dead", record, refusal.reason)
                continue
            row = _row(plan, topic, contract.names, values, tokeniser)
            verdict = {KIND_LABEL: "label", KIND_REFERENCE: "version"}.get(kind, "folded")
            if kind == KIND_EVENT:
                time_us = row["event_time_us"]
                if time_us < newest_us[record.partition] - plan.lateness_us:
                    verdict = "late"
                newest_us[record.partition] = max(newest_us[record.partition], time_us)
                # A key keeps to one raw partition, so the raw log orders its events.
                times = folded[row[plan.key_field], row["event_id"]]
                if verdict == "folded":
                    if any(abs(time_us - each) <= plan.lateness_us for each in times):
                        verdict = "duplicate"
                    else:
                        times.append(time_us)
            found[origin] = Outcome(verdict, record, values=row)
    return found


def _log_of(plan: Plan, topic: str) -> tuple[int, int]:
    spec = plan.reference_on(topic)
    if spec is not None:
        return LOG_REFERENCES + plan.references.index(spec), KIND_REFERENCE
    return (LOG_EVENTS, KIND_EVENT) if topic == plan.event_topic else (LOG_LABELS, KIND_LABEL)


def _row(
    plan: Plan,
    topic: str,
    names: tuple[str, ...],
    values: tuple[Any, ...],
    tokeniser: Tokeniser,
) -> dict[str, Any]:
    """A record's values under the names they have in a row."""
    own = dict(zip(names, values, strict=True))
    spec = plan.reference_on(topic)
    tokens = {each.name for each in plan.fields if each.token}
    if spec is not None:
        tokens = (tokens & set(spec.key_fields)) | {f.name for f in spec.fields if f.token}
    own = {n: tokeniser.token(v) if n in tokens else v for n, v in own.items()}
    if spec is None:
        own["event_id"], own["event_time_us"] = own.pop(names[0]), own.pop(names[1])
        return own
    fields = {
        column: own[each.name] for column, each in zip(spec.columns, spec.fields, strict=True)
    }
    keys = {name: own[name] for name in spec.key_fields}
    return {"event_time_us": own[spec.time_field], **keys, **fields}


def judge(plan: Plan, tokeniser: Tokeniser, champion: Champion, seen: Seen) -> Judgement:
    """Compare everything a chain made with what it had to make."""
    return _Judge(plan, champion, seen, outcomes(plan, seen.raw, tokeniser)).judge()


class _Judge:
    def __init__(
        self, plan: Plan, champion: Champion, seen: Seen, expected: dict[Origin, Outcome]
    ) -> None:
        self._plan = plan
        self._champion = champion
        self._seen = seen
        self._expected = expected
        self._result = Judgement(Counter(outcome.verdict for outcome in expected.values()))
        self._rows: dict[Origin, dict[str, Any]] = {}
        self._columns: dict[Origin, dict[str, Any]] = {}
        self._expected_scores: dict[Origin, tuple[float, str]] = {}

    def judge(self) -> Judgement:
        self._take_rows()
        self._check_order()
        self._compute()
        self._check_features()
        self._check_late()
        self._check_letters()
        self._check_scores()
        self._check_lake()
        self._check_online()
        return self._result

    def _differ(self, kind: str, where: str, what: Any, *values: Any) -> None:
        self._result.differences.append(Difference(kind, where, str(what), *values))

    def _of(self, *verdicts: str) -> dict[Origin, Outcome]:
        return {o: outcome for o, outcome in self._expected.items() if outcome.verdict in verdicts}

    def _take_rows(self) -> None:
        """The features topic as its readers take it: rows above the mark of their partition."""
        topic = self._plan.features_topic
        marks: dict[int, int] = defaultdict(lambda: -1)
        stamps = ("log_offset", "log_partition")
        for row in self._seen.rows:
            origin = _origin(row)
            if row["position_seq"] > marks[row["log_partition"]]:
                marks[row["log_partition"]] = row["position_seq"]
                if origin in self._rows:
                    self._differ("duplicated", topic, origin)
                else:
                    self._rows[origin] = row
                continue
            self._result.repeated[topic] += 1
            first = self._rows.get(origin)
            if first is None:
                # No reader takes it: it came after rows that were behind it.
                self._differ("different", topic, f"{origin} is out of its order")
            elif any(not _same(first[n], row[n]) for n in row if n not in stamps):
                names = [n for n in row if n not in stamps and not _same(first[n], row[n])]
                self._differ(
                    "different", topic, f"{origin} was sent again with other {', '.join(names)}",
                    {n: first[n] for n in names}, {n: row[n] for n in names},
                )  # fmt: skip
        wanted = self._of("folded", "duplicate", "label", "version")
        self._match(topic, wanted, Counter(self._rows.keys()))
        for origin, row in self._rows.items():
            outcome = self._expected.get(origin)
            if outcome is not None and outcome.verdict in ("folded", "duplicate"):
                found = VERDICTS[row["verdict"]]
                if found != outcome.verdict:
                    self._differ("different", topic, f"{origin} verdict", outcome.verdict, found)
            if outcome is not None:
                self._match_values(topic, origin, outcome.values, row)
                if row["broker_time_us"] != outcome.raw.broker_time_us:
                    self._differ("different", topic, f"{origin} broker_time_us")

    def _match(
        self, where: str, wanted: Mapping[Origin, Outcome], found: Mapping[Origin, int]
    ) -> None:
        """Each wanted origin is there once, and nothing else."""
        self._result.compared[where] += len(wanted)
        for origin in wanted:
            if origin not in found:
                self._differ("missing", where, origin, wanted[origin].verdict)
        for origin, times in found.items():
            if origin not in wanted:
                outcome = self._expected.get(origin)
                said = outcome.verdict if outcome else "no such record"
                self._differ("unexplained", where, f"{origin}, which is {said}")
            elif times > 1:
                self._differ("duplicated", where, origin, 1, times)

    def _match_values(
        self, where: str, what: Any, wanted: Mapping[str, Any], found: Mapping[str, Any]
    ) -> None:
        for name, value in wanted.items():
            if name in found and not _same(value, found[name]):
                self._differ("different", where, f"{what} {name}", value, found[name])

    def _check_order(self) -> None:
        """Every stage's log keeps the order of each of its upstream partitions."""
        for stage in self._plan.stages:
            place: dict[tuple[Any, ...], int] = {}
            for row in sorted(
                (row for row in self._rows.values() if row[stage.seq_column] is not None),
                key=lambda row: row[stage.seq_column],
            ):
                partition = self._partition(stage, row)
                upstream, position = self._upstream(stage, row)
                if place.get((partition, *upstream), -1) >= position:
                    self._differ("different", stage.topic, f"{_origin(row)} is out of its order")
                place[partition, *upstream] = position

    def _upstream(self, stage: StagePlan, row: dict[str, Any]) -> tuple[tuple[Any, ...], int]:
        if stage.index:
            before = self._plan.stages[stage.index - 1]
            if row[before.seq_column] is not None:
                return ("stage", self._partition(before, row)), row[before.seq_column]
        return (row["origin_log"], row["origin_partition"]), row["origin_offset"]

    def _partition(self, stage: StagePlan, row: dict[str, Any]) -> int:
        key = row[stage.key_column]
        # What has no such key stays in the partition of its number.
        return row["log_partition"] if key is None else partition_of(key, self._plan.partitions)

    def _compute(self) -> None:
        """Every column of every folded event, by the plain reference."""
        columns: dict[Origin, dict[str, Any]] = defaultdict(dict)
        for stage in self._plan.stages:
            log: dict[tuple[Any, ...], list[tuple[int, Origin, Fact]]] = defaultdict(list)
            for origin, row in self._rows.items():
                outcome = self._expected.get(origin)
                seq = row[stage.seq_column]
                if seq is None or outcome is None or any(
                    name not in outcome.values for name in stage.key_fields
                ):  # fmt: skip
                    continue
                fact = self._fact(stage, outcome)
                log[tuple(fact.key)].append((seq, origin, fact))
            for entries in log.values():
                entries.sort(key=lambda entry: entry[0])
                made = reference.stage_columns(self._plan, stage, [fact for _, _, fact in entries])
                for (_, origin, _), values in zip(entries, made, strict=True):
                    columns[origin] |= values
        for origin, outcome in self._of("folded").items():
            if origin not in self._rows:
                continue
            known = outcome.values | columns[origin]
            for column in self._plan.columns:
                if column.formula:
                    value = reference.expression(
                        column.formula, known, outcome.values["event_time_us"]
                    )
                    columns[origin][column.name] = value + 0.0
            self._columns[origin] = outcome.values | columns[origin]

    def _fact(self, stage: StagePlan, outcome: Outcome) -> Fact:
        values = outcome.values
        label = None
        version_of = ""
        if outcome.verdict == "label" and self._plan.label:
            label = bool(values[self._plan.label.field])
        elif outcome.verdict == "version":
            spec = self._plan.reference_on(outcome.raw.topic)
            version_of = spec.name if spec else ""
            values = {name: values[name] for name in spec.columns} if spec else values
        return Fact(
            outcome.values.get("event_id", ""),
            outcome.values["event_time_us"],
            tuple(outcome.values[name] for name in stage.key_fields),
            values,
            label,
            duplicate=outcome.verdict == "duplicate",
            version_of=version_of,
        )

    def _vector(self, origin: Origin) -> list[float]:
        return [float(self._columns[origin][name]) for name in self._plan.column_names]

    def _check_features(self) -> None:
        for origin, columns in self._columns.items():
            self._match_values(self._plan.features_topic, origin, columns, self._rows[origin])

    def _check_late(self) -> None:
        where = f"{self._plan.event_topic}.late"
        found = {_origin(row): row for row in self._seen.late}
        self._result.repeated[where] += len(self._seen.late) - len(found)
        self._match(where, self._of("late"), Counter(found.keys()))
        for origin, row in found.items():
            if origin in self._expected:
                self._match_values(where, origin, self._expected[origin].values, row)

    def _check_letters(self) -> None:
        logs = {topic: _log_of(self._plan, topic)[0] for topic in self._plan.raw_topics}
        found = {(logs[e.topic], e.partition, e.offset): e.reason for e in self._seen.letters}
        identities = {(e.topic, e.partition, e.offset, e.reason) for e in self._seen.letters}
        self._result.repeated["dead letters"] += len(self._seen.letters) - len(identities)
        dead = self._of("dead")
        per_origin = Counter((logs[t], p, o) for t, p, o, _ in identities)
        self._match("dead letters", dead, per_origin)
        for origin, reason in found.items():
            if origin in dead and dead[origin].reason != reason:
                self._differ("different", "dead letters", origin, dead[origin].reason, reason)

    def _scores(self) -> dict[Origin, tuple[float, str]]:
        origins = list(self._columns)
        if not origins:
            return {}
        vectors = np.array([self._vector(origin) for origin in origins], np.float64)
        scores = self._champion.engine.score(vectors.astype(np.float32))
        decisions = self._champion.decisions.of(scores)
        return dict(zip(origins, zip(scores.tolist(), decisions, strict=True), strict=True))

    def _check_scores(self) -> None:
        plan, where = self._plan, self._plan.scored_topic
        found: dict[Origin, dict[str, Any]] = {}
        times: Counter[Origin] = Counter()
        for record in self._seen.scored:
            origin = (LOG_EVENTS, record["origin"]["partition"], record["origin"]["offset"])
            found[origin] = record
            times[origin] += 1
        self._match(where, self._of("folded"), times)
        self._expected_scores = self._scores()
        for origin, (score, decision) in self._expected_scores.items():
            record = found.get(origin, {})
            if not record:
                continue
            outcome = self._expected[origin]
            wanted = {
                plan.id_field: outcome.values["event_id"],
                "model_version": self._champion.version,
                "fingerprint": plan.fingerprint,
                "broker_time_us": outcome.raw.broker_time_us,
                "key": outcome.values[plan.key_field],
            }
            self._match_score(where, origin, score, decision, record)
            self._match_values(where, origin, wanted, record)

    def _match_score(
        self, where: str, origin: Origin, score: float, decision: str, found: Mapping[str, Any]
    ) -> None:
        if not math.isclose(score, found["score"], abs_tol=SCORE_TOLERANCE):
            self._differ("different", where, f"{origin} score", score, found["score"])
        edges = self._champion.decisions.of(
            np.array([score - SCORE_TOLERANCE, score + SCORE_TOLERANCE])
        )
        if found["decision"] not in (decision, *edges):
            self._differ("different", where, f"{origin} decision", decision, found["decision"])

    def _check_lake(self) -> None:
        plan, lake = self._plan, self._seen.lake
        tables: list[tuple[str, int, tuple[str, ...]]] = [
            ("events", LOG_EVENTS, VERDICTS),
            ("features", LOG_EVENTS, ("folded",)),
            ("scores", LOG_EVENTS, ("folded",)),
        ]
        if plan.label:
            tables.append(("labels", LOG_LABELS, ("label",)))
        for index, spec in enumerate(plan.references):
            tables.append((spec.table, LOG_REFERENCES + index, ("version",)))
        for table, log, verdicts in tables:
            where = f"lake.{table}"
            rows = lake.get(table, [])
            times = Counter((log, r["origin_partition"], r["origin_offset"]) for r in rows)
            wanted = {o: out for o, out in self._of(*verdicts).items() if o[0] == log}
            self._match(where, wanted, times)
            for row in rows:
                origin = (log, row["origin_partition"], row["origin_offset"])
                outcome = self._expected.get(origin)
                if outcome is None:
                    continue
                self._match_values(where, origin, {"verdict": outcome.verdict}, row)
                if table == "features" and origin in self._columns:
                    names = plan.column_names
                    vector = dict(zip(names, self._vector(origin), strict=True))
                    self._match_values(where, origin, vector, row)
                if table == "scores" and origin in self._expected_scores:
                    self._match_score(where, origin, *self._expected_scores[origin], row)
        letters: Counter[Origin] = Counter()
        for row in lake.get("dead_letters", []):
            log, _ = _log_of(plan, row["topic"])
            origin = (log, row["origin_partition"], row["origin_offset"])
            letters[origin] += 1
            outcome = self._expected.get(origin)
            if outcome is not None and outcome.verdict == "dead":
                self._match_values(
                    "lake.dead_letters",
                    origin,
                    {"reason": outcome.reason, "payload": outcome.raw.value or b""},
                    {"reason": row["reason"], "payload": row["payload"] or b""},
                )
        self._match("lake.dead_letters", self._of("dead"), letters)

    def _check_online(self) -> None:
        for stage in self._plan.stages:
            if not stage.outputs:
                continue
            where = f"online store, {stage.name}"
            by_key: dict[Any, list[Origin]] = defaultdict(list)
            for origin in self._columns:
                values = self._expected[origin].values
                key = tuple(values[name] for name in stage.key_fields)
                by_key[key if len(key) > 1 else key[0]].append(origin)
            held = self._seen.online.get(stage.name, {})
            self._result.compared[where] += len(by_key)
            for key, origins in by_key.items():
                allowed = self._newest(stage, origins)
                found = held.get(key)
                if any(_same_vector(each, found) for each in allowed):
                    continue
                kind = "missing" if found is None else "different"
                self._differ(kind, where, key, allowed[0], found)

    def _newest(self, stage: StagePlan, origins: Iterable[Origin]) -> list[Stored | None]:
        """The vectors a key may have: one, unless the store was emptied while rows were on the way.

        None stands for a key that may be absent.
        """
        ordered = sorted(
            origins,
            key=lambda o: (self._columns[o]["event_time_us"], self._rows[o][stage.seq_column]),
        )
        surely, perhaps = [], []
        for origin in ordered:
            row = self._rows[origin]
            partition, offset = row["log_partition"], row["log_offset"]
            flushes = self._seen.flushes
            if all(offset >= each.surely_after.get(partition, 0) for each in flushes):
                surely.append(origin)
            elif all(offset >= each.surely_before.get(partition, 0) for each in flushes):
                perhaps.append(origin)
        at = {origin: place for place, origin in enumerate(ordered)}
        last = surely[-1] if surely else None
        allowed: list[Stored | None] = [self._stored(stage, last) if last else None]
        allowed += [
            self._stored(stage, each) for each in perhaps if last is None or at[each] > at[last]
        ]
        return allowed

    def _stored(self, stage: StagePlan, origin: Origin) -> Stored:
        columns = self._columns[origin]
        values = tuple(float(columns[name]) for name in stage.outputs)
        return Stored(columns["event_time_us"], values)


def _origin(row: Mapping[str, Any]) -> Origin:
    return row["origin_log"], row["origin_partition"], row["origin_offset"]


def _same(a: Any, b: Any) -> bool:
    """Equal to the last bit; numbers by value, for a table may hold an integer as a float64."""
    if a is None or b is None:
        return a is b
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return bool(a == b)


def _same_vector(a: Stored | None, b: Stored | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.event_time_us == b.event_time_us and all(map(_same, a.values, b.values))

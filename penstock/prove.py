"""`penstock parity prove`: random feature sets over random logs, computed in every way there is.

A case is drawn from its number alone: a feature set of a few windows and references, and a log of
events, repeats, late events, labels and versions of references. Four executors compute every
feature of it:

- the plain reference (`features/reference.py`), which shares no code with the others;
- the kernel: every stage folds its whole log in one batch;
- the stream: envelopes of random sizes through the wire's codec, some of them delivered again, with
  a snapshot taken and restored on the way;
- Spark, for a sample of the cases: the backfill's own stages.

All must agree bit for bit. A case that does not is shrunk to the fewest log entries that still
disagree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import statistics
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import reference
from features.aggregations import aggregations
from features.coding import composite_key, derived_columns, pack_position, unpack_position
from features.fold import Fold
from features.layout import Layout
from features.plan import Plan, ReferencePlan, compile_plan
from features.reference import Fact
from features.types import (
    Boolean,
    Category,
    FieldType,
    Float,
    Integer,
    List,
    Money,
    Position,
    Text,
    Timestamp,
)
from features.vocabulary import (
    Aggregate,
    Condition,
    Entity,
    Event,
    Expression,
    Feature,
    FeatureSet,
    Label,
    Reference,
    age_seconds,
    bucket,
    category_hash,
    clip,
    count,
    days,
    hour_of_day,
    hours,
    is_known,
    is_weekend,
    length,
    log1p,
    mean,
    minutes,
    seconds,
    std,
    velocity_ratio,
)
from features.wire import (
    DUPLICATE,
    FOLDED,
    KIND_EVENT,
    KIND_LABEL,
    KIND_REFERENCE,
    LOG_REFERENCES,
    decode,
    encode,
    row_schema,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Row = dict[str, Any]

START_US = 1_767_225_600_000_000
"""2026-01-01; only differences matter."""

OVERS = (seconds(30), minutes(1), minutes(7), hours(1), hours(5), days(1), days(40))
DELAYS = (0, 0, 0, seconds(1), minutes(3), hours(2))
RESOLUTIONS = (0, 0, 0, 0, seconds(10), minutes(1), hours(1), days(2))
LATENESS_US = hours(1)
AWKWARD = ("", "a", "aa", "1:a", "1:", ":a", "a:", "3:a", "ż", "żż", "s0")
"""Texts that run into each other where keys are put together carelessly."""
KINDS = ("food", "fuel", "toys", "zażółć")
ARGUMENTS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "last_k": lambda chance: {"k": chance.randrange(1, 5)},
    "top_k": lambda chance: {"k": chance.randrange(1, 6)},
    "percentile": lambda chance: {"p": chance.choice([1, 50, 90, 99.9, 100])},
    "histogram": lambda chance: {"edges": sorted(chance.sample(range(-5, 15), 3))},
    "decay": lambda chance: {"half_life": chance.choice([seconds(20), hours(2), days(3)])},
    # Past a cap of 2 nearly every window is an estimate.
    "distinct": lambda chance: {"cap": chance.choice([2, 5, 1024])},
}
"""What aggregations take beside a window."""

CONDITIONS = (
    "out of order",
    "duplicate",
    "late",
    "equal times",
    "label before its event",
    "label after its event",
    "label changed",
    "expiry",
    "growth",
    "hot key",
    "entries merged",
    "condition on a field",
    "empty window",
    "coarse window",
    "row expression",
    "key of several fields",
    "awkward keys",
    "reference",
    "several references",
    "version out of order",
    "version replaced",
    "version from the future",
    "version after its events",
    "no version known",
)


@dataclass(frozen=True)
class Case:
    """A plan and the rows that ingest lets in, with what makes them hard."""

    number: int
    plan: Plan
    rows: list[Row]
    met: Counter[str]


@dataclass(frozen=True)
class Mismatch:
    """One value on which two executors disagree."""

    case: int
    executor: str
    row: int
    column: str
    expected: Any
    found: Any
    rows: list[Row]


def draw(number: int) -> Case:
    """The case of a number."""
    chance = random.Random(number)
    # With chances of their own, references leave the rest of the case as it was without them.
    apart = random.Random(f"references of {number}")
    plan = _draw_plan(chance, apart)
    met: Counter[str] = Counter()
    rows = _draw_log(chance, apart, plan, met)
    windows = [window for stage in plan.stages for window in stage.windows]
    met["condition on a field"] += any(window.where >= 0 for window in windows)
    met["empty window"] += any(window.delay_us for window in windows)
    met["coarse window"] += any(window.resolution_us for window in windows)
    met["key of several fields"] += any(len(stage.key_fields) > 1 for stage in plan.stages)
    met["row expression"] += any(column.formula for column in plan.columns)
    return Case(number, plan, rows, met)


def _draw_plan(chance: random.Random, apart: random.Random) -> Plan:
    who, shop = Entity("who_id"), Entity("shop_id")
    pair = Entity(*chance.sample(["who_id", "shop_id", "till"], chance.choice([2, 2, 3])))
    largest = chance.choice([10, 10**6, 9 * 10**12])
    sale = Event(
        "proof.sale.v1",
        id="sale_id",
        time="at",
        key=who,
        lateness=LATENESS_US,
        fields={
            "who_id": Text(),
            "shop_id": Text(),
            "till": Text(),
            "price": Money("EUR", min=-largest, max=largest),
            "items": Integer(min=0, max=9),
            "sort": Category(*KINDS),
            "weight": Float(decimals=2, min=-50, max=50),
            "heat": Float(),
            "online": Boolean(),
            "place": Position(),
        },
    )
    refund = Label("proof.refund.v1", of=sale, field="refunded", known_after=days(1))
    numbers = [sale.price, sale.items, sale.weight, sale.online]
    of: dict[str, list[Any]] = {
        "nothing": [None],
        "number": numbers,
        "category": [sale.sort],
        "any": [*numbers, sale.sort, sale.shop_id, sale.place],
        "position": [sale.place],
        "label": [refund.refunded],
    }
    wanted: dict[str, Feature] = {}
    for _ in range(chance.randrange(6, 14)):
        word = chance.choice(sorted(aggregations()))
        where: Condition | None = None
        if chance.random() < 0.3:
            where = chance.choice(
                [
                    sale.items >= 5,
                    sale.price < 0,
                    sale.heat > 0.5,
                    (sale.items > 1) & sale.shop_id.is_in("s0", "s2"),
                    sale.sort.is_in("fuel") & sale.online.is_in(True),
                ]
            )
        delay = chance.choice(DELAYS)
        over = chance.choice(OVERS)
        coarse = chance.choice(RESOLUTIONS)
        made = Aggregate(word)(
            chance.choice(of[aggregations()[word].takes]),
            by=chance.choice([who, shop, pair]),
            over=over,
            delay=delay,
            where=where,
            resolution=coarse if coarse <= over and coarse <= (delay or coarse) else 0,
            **(ARGUMENTS[word](chance) if word in ARGUMENTS else {}),
        )
        wanted[made.name] = made
    columns: list[Feature] = [*chance.sample(_expressions(sale, who, shop), chance.randrange(3))]
    for of_one in apart.sample(_references(who, shop, pair), apart.choice([0, 0, 1, 2, 4])):
        columns += apart.sample(_looked_up(sale, of_one), apart.randrange(1, 5))
    wanted |= {column.name: column for column in columns}
    feature_set = FeatureSet("proof", event=sale, label=refund, features=[*wanted.values()])
    return dataclasses.replace(compile_plan(feature_set), partitions=1)


def _expressions(sale: Event, who: Entity, shop: Entity) -> list[Expression]:
    usual = mean(sale.price, by=who, over=days(40), delay=hours(2))
    spread = std(sale.price, by=who, over=days(40), delay=hours(2))
    return [
        ((sale.price - usual) / spread).named("deviation"),
        log1p(sale.items * 3 - 4.5).named("log_items"),
        clip(sale.heat * count(by=shop, over=hours(1)), -2, 7.5).named("clipped"),
        bucket(sale.weight / 7, [-300, 0, 12.5]).named("weight_bucket"),
        category_hash(sale.shop_id, 17),
        hour_of_day(sale),
        is_weekend(sale),
        velocity_ratio(by=who, short=minutes(1), long=hours(5)),
        ((count(by=who, over=hours(1)) >= 3) * sale.sort).named("busy_sort"),
        (sale.price > 5).named("dear"),
    ]


def _references(who: Entity, shop: Entity, pair: Entity) -> list[Reference]:
    """One on each entity, and two on one of them."""
    numbers: dict[str, FieldType] = {"rate": Float(decimals=4, min=0, max=100), "heat": Float()}
    others: dict[str, FieldType] = {
        "sort": Category(*KINDS),
        "note": Text(),
        "open": Boolean(),
        "since": Timestamp(),
        "words": List(),
        "place": Position(),
        "fee": Money("EUR", max=10**9),
    }
    return [
        Reference("proof.person.v1", key=who, time="from", fields=numbers | others),
        Reference("proof.shop.v1", key=shop, time="from", fields=others),
        Reference("proof.rent.v2", key=shop, time="at", fields=numbers, name="lease"),
        Reference("proof.deal.v1", key=pair, time="from", fields=numbers),
    ]


def _looked_up(sale: Event, of: Reference) -> list[Feature]:
    found: list[Feature] = [is_known(of)]
    name = of.name
    if "rate" in of.fields:
        found += [of.rate, of["heat"], (sale.price * of.rate).named(f"{name}_price")]
        found.append((sale.heat - of.heat).named(f"{name}_warmer"))
        found.append((of.rate >= 50).named(f"{name}_is_high"))
    if "sort" in of.fields:
        found += [of.sort, of.open, of.fee, category_hash(of.note, 13), age_seconds(of.since)]
        found += [length(of.words), (of.sort * 2 + of.open).named(f"{name}_mix")]
        found.append(of.sort.is_in("fuel").named(f"{name}_is_fuel"))
    return found


def _draw_log(
    chance: random.Random, apart: random.Random, plan: Plan, met: Counter[str]
) -> list[Row]:
    """Rows as ingest stamps them: late events have been taken out."""
    events: list[Row] = []
    rows: list[Row] = []
    pace_us = chance.choice([seconds(1), seconds(40), minutes(20), hours(9)])
    people, shops = ([f"{letter}{n}" for n in range(6)] for letter in "ws")
    people, shops = people[: chance.randrange(1, 6)], shops[: chance.randrange(1, 5)]
    if chance.random() < 0.5:
        people, shops = chance.sample(AWKWARD, 6), chance.sample(AWKWARD, 4)
        met["awkward keys"] += 1
    hot = chance.random() < 0.3
    price = next(f for f in plan.fields if f.name == "price")
    now_us, newest_us = START_US, START_US
    labelled: dict[str, int] = {}
    arrived: set[str] = set()
    versions: list[Row] = []
    looked_at: set[tuple[Any, ...]] = set()
    keys = {"who_id": people, "shop_id": shops, "till": shops[:2]}
    for number in range(chance.randrange(180, 260)):
        now_us += chance.choice([0, 0, 1, pace_us, pace_us, 3 * pace_us])
        # The last one rests for a long time, and then is back.
        awake = people[:-1] if len(people) > 1 and 60 <= number < 160 else people
        fate = chance.random()
        if fate < 0.05 and events:
            event = chance.choice(events[-5:])
        else:
            back_us = 0
            if fate < 0.2:
                back_us = chance.choice([1, pace_us, chance.randrange(LATENESS_US)])
            elif fate < 0.23:
                back_us = LATENESS_US + chance.randrange(1, days(2))
            event = {
                "kind": KIND_EVENT,
                "event_id": f"e{number}",
                "event_time_us": now_us - back_us,
                "who_id": people[0] if hot and chance.random() < 0.8 else chance.choice(awake),
                "shop_id": chance.choice(shops),
                "till": chance.choice(shops[:2]),
                "price": chance.choice([0, price.minimum, price.maximum])
                if chance.random() < 0.1
                else chance.randint(int(price.minimum or 0), int(price.maximum or 0)),
                "items": chance.randrange(10),
                "sort": chance.choice(KINDS),
                "weight": chance.randint(-5000, 5000),
                "heat": chance.uniform(-2, 2),
                "online": chance.random() < 0.5,
                "place": pack_position(
                    chance.choice([-90_000_000, 0, 48_137_154, 90_000_000]),
                    chance.choice([-180_000_000, 11_576_124, chance.randrange(180_000_000)]),
                ),
            }
            events.append(event)
        if chance.random() < 0.06:
            # Nobody waits for the event: a refund may be known first.
            rows.append(_label(event, chance.randrange(2)))
            labelled[event["event_id"]] = rows[-1]["refunded"]
            met["label before its event"] += event["event_id"] not in arrived
        if plan.references and apart.random() < 0.12:
            version = _draw_version(apart, plan, versions, keys, now_us, pace_us)
            from_us, chain = version["event_time_us"], _chain(plan, version)
            others = [e["event_time_us"] for e in versions if chain == _chain(plan, e)]
            met["version out of order"] += any(other > from_us for other in others)
            met["version replaced"] += from_us in others
            met["version from the future"] += from_us > now_us
            met["version after its events"] += chain in looked_at
            versions.append(version)
            rows.append(version)
        newest_us = max(newest_us, event["event_time_us"])
        if event["event_time_us"] < newest_us - LATENESS_US:
            met["late"] += 1
            continue
        met["out of order"] += event["event_time_us"] < newest_us
        met["duplicate"] += event["event_id"] in arrived
        met["equal times"] += any(
            e is not event and e["event_time_us"] == event["event_time_us"] for e in events[-4:]
        )
        arrived.add(event["event_id"])
        rows.append(event | {"watermark_us": newest_us})
        for index, of_one in enumerate(plan.references):
            chain = (LOG_REFERENCES + index, *(event[name] for name in of_one.key_fields))
            looked_at.add(chain)
            met["no version known"] += not any(
                chain == _chain(plan, e) and e["event_time_us"] <= event["event_time_us"]
                for e in versions
            )
        if chance.random() < 0.3:
            # Some speak of what every window has left behind.
            about = chance.choice(events if chance.random() < 0.2 else events[-40:])
            verdict = chance.randrange(2)
            met["label after its event"] += about["event_id"] in arrived
            met["label changed"] += labelled.get(about["event_id"], verdict) != verdict
            labelled[about["event_id"]] = verdict
            rows.append(_label(about, verdict))
    met["hot key"] += hot
    met["entries merged"] += _merges(plan, rows, newest_us)
    longest_us = max(stage.retention_us for stage in plan.stages)
    met["expiry"] += newest_us - START_US > longest_us + LATENESS_US
    met["growth"] += len(rows) > 100
    met["reference"] += bool(versions)
    met["several references"] += len({row["origin_log"] for row in versions}) > 1
    return [
        {"origin_log": row["kind"], "position_log": row.get("origin_log", row["kind"])}
        | row
        | {
            "origin_partition": 0,
            "origin_offset": offset,
            "position_partition": 0,
            "position_seq": offset << 20,
        }
        for offset, row in enumerate(rows)
    ]


def _merges(plan: Plan, rows: list[Row], newest_us: int) -> bool:
    """Whether a stage can keep two of the events as one row (`resolution=`)."""
    for stage in plan.stages:
        spec = Layout(stage).spec
        seen = set()
        for row in rows:
            settled = row["event_time_us"] <= newest_us - LATENESS_US - spec.exact_us
            if row["kind"] == KIND_EVENT and spec.block_us and settled:
                fields = (row[name] for name in stage.key_fields)
                block = (*fields, -(-row["event_time_us"] // spec.block_us))
                if block in seen:
                    return True
                seen.add(block)
    return False


def _draw_version(
    chance: random.Random,
    plan: Plan,
    versions: list[Row],
    keys: dict[str, list[str]],
    now_us: int,
    pace_us: int,
) -> Row:
    index = chance.randrange(len(plan.references))
    of_one = plan.references[index]
    key = {name: chance.choice([*keys[name], "nobody"]) for name in of_one.key_fields}
    from_us = now_us + chance.choice([0, pace_us, days(1)]) * chance.choice([-2, -1, 0, 0, 0, 1])
    if versions and chance.random() < 0.2:
        from_us = chance.choice(versions)["event_time_us"]
    drawn: dict[str, Any] = {
        "rate": chance.randrange(10**6),
        "heat": chance.uniform(-2, 2),
        "sort": chance.choice(KINDS),
        "note": chance.choice(["", "a", "zażółć", f"n{chance.randrange(99)}"]),
        "open": chance.random() < 0.5,
        "since": START_US - chance.randrange(days(900)),
        "words": ["w"] * chance.randrange(4),
        "place": pack_position(chance.randrange(90), 0),
        "fee": chance.randrange(-(10**9), 10**9),
    }
    own = zip(of_one.columns, of_one.fields, strict=True)
    return {column: drawn[field.name] for column, field in own} | {
        **key,
        "kind": KIND_REFERENCE,
        "origin_log": LOG_REFERENCES + index,
        "event_id": composite_key(list(key.values())),
        "event_time_us": from_us,
        "watermark_us": 0,
    }


def _chain(plan: Plan, version: Row) -> tuple[Any, ...]:
    key = (version[name] for name in _reference_of(plan, version).key_fields)
    return version["origin_log"], *key


def _label(about: Row, verdict: int) -> Row:
    names = ("event_id", "event_time_us", "who_id", "shop_id", "till")
    kept = {name: about[name] for name in names}
    return kept | {"kind": KIND_LABEL, "refunded": verdict, "watermark_us": 0}


def _batch(plan: Plan, rows: list[Row]) -> pa.RecordBatch:
    schema = row_schema(plan)
    zero = {"verdict": FOLDED, "broker_time_us": 0}
    batch = pa.RecordBatch.from_pylist(
        [dict.fromkeys(schema.names) | zero | row for row in rows], schema=schema
    )
    columns = dict(zip(schema.names, batch.columns, strict=True))
    columns |= derived_columns(plan.derived_keys(plan.field_names), columns)
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def by_reference(plan: Plan, rows: list[Row]) -> list[Row]:
    """Every window and reference of every row, in plain Python."""
    made = [_own_values(plan, row) for row in rows]
    repeats: list[bool] = []
    for stage in plan.stages:
        log: list[Fact] = []
        for at, row in enumerate(rows):
            is_event = row["kind"] == KIND_EVENT
            fact = Fact(
                row["event_id"],
                row["event_time_us"],
                # The fields themselves: were their text ambiguous, it would show.
                tuple(row.get(name, "") for name in stage.key_fields),
                _plain(plan, row) if is_event else _own_values(plan, row),
                bool(row["refunded"]) if row["kind"] == KIND_LABEL else None,
                version_of=_reference_of(plan, row).name if row["kind"] == KIND_REFERENCE else "",
            )
            log.append(fact)
            if stage.index == 0:
                repeats.append(is_event and reference.is_duplicate(log, at, plan.lateness_us))
            log[at] = dataclasses.replace(fact, duplicate=repeats[at])
        for row, columns in zip(made, reference.stage_columns(plan, stage, log), strict=True):
            row |= columns
    for row, columns, repeated in zip(rows, made, repeats, strict=True):
        columns["verdict"] = DUPLICATE if repeated else FOLDED
        for column in plan.columns:
            if column.formula and row["kind"] == KIND_EVENT and not repeated:
                value = reference.expression(
                    column.formula, _plain(plan, row) | columns, row["event_time_us"]
                )
                columns[column.name] = value + 0.0
    return made


def _reference_of(plan: Plan, version: Row) -> ReferencePlan:
    return plan.references[version["origin_log"] - LOG_REFERENCES]


def _own_values(plan: Plan, row: Row) -> Row:
    """The columns of a version's reference; of other rows none."""
    if row["kind"] != KIND_REFERENCE:
        return {}
    return {name: row[name] for name in _reference_of(plan, row).columns}


def _plain(plan: Plan, row: Row) -> Row:
    """The event's fields as the reference sees them."""
    return {
        field.name: unpack_position(row[field.name])
        if field.type == "position"
        else row[field.name]
        for field in plan.fields
    }


def by_kernel(plan: Plan, rows: list[Row]) -> list[Row]:
    """Every stage folds the whole log at once."""
    batch = _batch(plan, rows)
    for stage in plan.stages:
        batch = Fold(plan, stage.index).fold_history(batch)
    return batch.to_pylist()


def by_stream(plan: Plan, rows: list[Row], seed: int = 0) -> list[Row]:
    """Envelopes through the codec, some delivered twice, and a restart from a snapshot."""
    chance = random.Random(seed)
    sent = [_batch(plan, part) for part in _parts(chance, rows)]
    for stage in plan.stages:
        fold, out, log = Fold(plan, stage.index), [], []
        restart_at = chance.randrange(len(sent) + 1)
        whole_at = chance.randrange(restart_at + 1)
        for offset, envelope in enumerate(encode(plan, rows) for rows in sent):
            log.append(envelope)
            if offset == whole_at:
                snapshot, mark = fold.snapshot(), fold.mark()
            if offset == restart_at:
                changes = fold.changes(mark)
                if changes is None:
                    snapshot = fold.snapshot()
                fold = Fold(plan, stage.index)
                fold.restore(snapshot)
                if changes is not None:
                    fold.take(changes)
                # After a restart the log is read again from before the snapshot.
                again = chance.randrange(offset + 1)
                for repeated in range(again, offset):
                    left = fold.fold(decode(plan, log[repeated]), 0, repeated)
                    out.append(left)
            out.append(fold.fold(decode(plan, envelope), 0, offset))
        whole = pa.Table.from_batches(out).combine_chunks().to_batches()
        # The next stage's producer groups rows as it likes.
        sent = [
            piece
            for batch in whole
            for piece in (
                batch.slice(begin, length) for begin, length in _cuts(chance, batch.num_rows)
            )
        ]
    return pa.Table.from_batches(sent).to_pylist() if sent else []


def _cuts(chance: random.Random, rows: int) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin < rows:
        length = min(chance.choice([1, 3, 20, 90]), rows - begin)
        yield begin, length
        begin += length


def _parts(chance: random.Random, rows: list[Row]) -> list[list[Row]]:
    return [rows[begin : begin + length] for begin, length in _cuts(chance, len(rows))]


_ROWS_PER_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"


def by_spark(plan: Plan, rows: list[Row], spark: SparkSession) -> list[Row]:
    """The backfill's stages over a table of the rows, in the order of their log."""
    from features.backfill import fold_stage

    columns = [
        *("kind", "verdict", "origin_log", "origin_partition", "origin_offset"),
        *("event_id", "event_time_us"),
        *plan.field_names,
        *plan.derived_keys(plan.field_names),
        *(column for each in plan.references for column in each.columns),
        *([plan.label.field] if plan.label else []),
    ]
    table = pa.Table.from_batches([_batch(plan, rows)]).select(columns)
    for name in ("arrival_us", *(stage.seq_column for stage in plan.stages)):
        table = table.append_column(name, table["origin_offset"])
    # There is one partition: what has been heard of it is what every stage has heard.
    stamps = np.maximum.accumulate([row.get("watermark_us", 0) for row in rows])
    table = table.append_column("watermark_us", pa.array(stamps, pa.int64()))
    # Through files, as the lake's rows come and go.
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, f"{folder}/rows.parquet")
        frame = spark.read.parquet(f"{folder}/rows.parquet")
        for stage in plan.stages:
            frame = fold_stage(frame, plan, stage, first_logged_us=0)
        # Keys go on from batch to batch.
        usual = spark.conf.get(_ROWS_PER_BATCH)
        spark.conf.set(_ROWS_PER_BATCH, "20")
        frame.write.parquet(f"{folder}/folded")
        spark.conf.set(_ROWS_PER_BATCH, usual)
        folded = pq.read_table(f"{folder}/folded")
    return folded.sort_by("origin_offset").to_pylist()


Executor = Callable[[Plan, list[Row]], list[Row]]
EXECUTORS: dict[str, Executor] = {"kernel": by_kernel, "stream": by_stream}
"""What every case is computed with; Spark takes seconds for one, and gets a sample of them."""


def compare(case: Case, executors: dict[str, Executor] | None = None) -> Mismatch | None:
    """The first value on which an executor differs from the reference, or None."""
    expected = by_reference(case.plan, case.rows)
    looked_up = [column for each in case.plan.references for column in each.columns]
    for name, run in (executors or EXECUTORS).items():
        found = run(case.plan, case.rows)
        if len(found) != len(expected):
            return Mismatch(case.number, name, -1, "rows", len(expected), len(found), case.rows)
        for at, (want, got) in enumerate(zip(expected, found, strict=True)):
            for column in ("verdict", *case.plan.column_names, *looked_up):
                if not _same(want.get(column), got.get(column)):
                    return Mismatch(
                        case.number, name, at, column, want.get(column), got.get(column), case.rows
                    )
    return None


def _same(a: Any, b: Any) -> bool:
    """Equal to the last bit: −0.0 is not 0.0, and a NaN equals the same NaN."""
    if a is None or b is None:
        return a is b
    if not isinstance(a, float) and not isinstance(b, float):
        return bool(a == b)
    return struct.pack("<d", a) == struct.pack("<d", b)


def shrink(mismatch: Mismatch) -> Mismatch:
    """The same disagreement with as few rows as can be."""
    case = draw(mismatch.case)
    if mismatch.executor not in EXECUTORS:
        return mismatch
    executor = {mismatch.executor: EXECUTORS[mismatch.executor]}
    smallest, size = mismatch, len(mismatch.rows) // 2
    while size:
        begin = 0
        while begin < len(smallest.rows):
            fewer = smallest.rows[:begin] + smallest.rows[begin + size :]
            found = compare(dataclasses.replace(case, rows=fewer), executor) if fewer else None
            if found is None:
                begin += size
            else:
                smallest = found
        size //= 2
    return smallest


def snippet(mismatch: Mismatch) -> str:
    """Python that shows the disagreement again."""
    rows = ",\n    ".join(repr(row) for row in mismatch.rows)
    return (
        "from penstock.prove import by_reference, EXECUTORS, draw\n\n"
        f"plan = draw({mismatch.case}).plan\n"
        f"rows = [\n    {rows},\n]\n"
        f"at, column = {mismatch.row}, {mismatch.column!r}\n"
        "print(by_reference(plan, rows)[at].get(column))\n"
        f"print(EXECUTORS[{mismatch.executor!r}](plan, rows)[at].get(column))\n"
    )


@dataclass(frozen=True)
class Outcome:
    """What came of one case: which conditions it met and which aggregations it used."""

    met: frozenset[str]
    used: frozenset[str]
    events: int
    features: int
    mismatch: Mismatch | None


def outcome(number: int) -> Outcome:
    """Draw a case and compare its executors."""
    case = draw(number)
    windows = [window for stage in case.plan.stages for window in stage.windows]
    return Outcome(
        met=frozenset(condition for condition, times in case.met.items() if times),
        used=frozenset(window.aggregation for window in windows),
        events=sum(row["kind"] == KIND_EVENT for row in case.rows),
        features=len(windows),
        mismatch=compare(case),
    )


def prove(
    cases: int,
    first: int = 0,
    say: Callable[[int], None] = lambda _: None,
    spark: SparkSession | None = None,
    spark_cases: int = 0,
    processes: int = 1,
) -> dict[str, Any]:
    """Compare cases `first` to `first + cases`; stops at the first disagreement.

    With a Spark session, `spark_cases` of them, spread evenly, are computed there too.

    Returns:
        `cases`, `events` and `features` (medians), `values` compared, `executors`, `coverage` (in
        how many cases each condition was met), `aggregations` (in how many cases each was used),
        `mismatches`, and `counterexample`: the shrunk case as a snippet, or None.
    """
    in_spark: list[int] = []
    if spark is not None:
        in_spark = [first + n * cases // spark_cases for n in range(spark_cases)]
    coverage: Counter[str] = Counter(dict.fromkeys(CONDITIONS, 0))
    used: Counter[str] = Counter(dict.fromkeys(aggregations(), 0))
    events: list[int] = []
    features: list[int] = []
    values = 0
    bad: Mismatch | None = None
    with _outcomes(range(first, first + cases), processes) as outcomes:
        # The others are at work while Spark is.
        for number in in_spark:
            case = draw(number)
            bad = bad or compare(case, {"spark": functools.partial(by_spark, spark=spark)})
        for done, found in enumerate(outcomes, 1):
            coverage.update(found.met)
            used.update(found.used)
            events.append(found.events)
            features.append(found.features)
            executors = len(EXECUTORS) + (first + done - 1 in in_spark)
            values += found.events * found.features * executors
            say(done)
            bad = bad or found.mismatch
            if bad is not None:
                break
    return {
        "cases": len(events),
        "events": statistics.median(events),
        "features": statistics.median(features),
        "values": values,
        "executors": ["reference", *EXECUTORS, *(["spark"] if in_spark else [])],
        "spark_cases": len(in_spark),
        "coverage": dict(coverage),
        "aggregations": dict(used),
        "mismatches": int(bad is not None),
        "counterexample": snippet(shrink(bad)) if bad is not None else None,
    }


@contextlib.contextmanager
def _outcomes(numbers: range, processes: int) -> Iterator[Iterator[Outcome]]:
    """The outcome of each case, in order; work begins at once where there are processes for it."""
    if processes == 1:
        yield map(outcome, numbers)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"))
    try:
        yield pool.map(outcome, numbers, chunksize=10)
    finally:
        pool.shutdown(cancel_futures=True)

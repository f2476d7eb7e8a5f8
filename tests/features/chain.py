"""Runs a plan's stages over raw events and labels as the stream does, and fills a lake with it.

Everything is the real code (`Fold`, `lake.append`); only the topics between the stages are lists.
"""

import dataclasses
import random
from collections import defaultdict
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features import lake
from features.coding import composite_key
from features.fold import Fold
from features.plan import Plan
from features.wire import KIND_EVENT, KIND_LABEL, LATE, NEVER_US, VERDICTS, partition_of, row_schema
from tests.features.rows import batch

Raw = dict[str, Any]
START_US = 1_700_000_000_000_000
MINUTE_US = 60_000_000
DAY_US = 1440 * MINUTE_US
ENVELOPE_ROWS = 40


@dataclasses.dataclass
class Arrivals:
    """What happened: history, then a log of live events and labels in order of arrival."""

    history: list[Raw]
    history_labels: list[Raw]
    live: list[Raw]


def payments(seed: int, history: int = 400, live: int = 600) -> Arrivals:
    """Card payments with duplicates, out-of-order and late events, and labels that change."""
    draw = random.Random(seed)

    def event(number: int, time_us: int) -> Raw:
        return {
            "kind": KIND_EVENT,
            "event_id": f"t{number:06d}",
            "event_time_us": time_us,
            "customer_id": f"c{draw.randrange(12)}",
            "terminal_id": f"m{draw.randrange(8)}",
            "amount": draw.randrange(1, 50_000),
        }

    def label(about: Raw, verdict: int) -> Raw:
        names = ("event_id", "event_time_us", "customer_id", "terminal_id")
        kept = {name: about[name] for name in names}
        return kept | {"kind": KIND_LABEL, "is_fraud": verdict}

    # Four instants a day: events of one key meet, also with labels known seven days later.
    past = sorted(360 * draw.randrange(30 * 4) for _ in range(history))
    events = [event(i, START_US + minute * MINUTE_US) for i, minute in enumerate(past)]
    labels = [
        label(e, draw.randrange(2)) | {"known_us": e["event_time_us"] + 7 * DAY_US} for e in events
    ]
    log: list[Raw] = []
    sent: list[Raw] = []
    for number in range(live):
        now = START_US + (30 * 1440 + number * 30) * MINUTE_US
        fate = draw.random()
        if fate < 0.1 and sent:
            log.append(dict(draw.choice(sent[-3:])))
            continue
        back = draw.randrange(1, 50) if fate < 0.3 else draw.randrange(90, 600) * (fate < 0.35)
        sent.append(event(history + number, now - back * MINUTE_US))
        log.append(sent[-1])
        if draw.random() < 0.5:
            log.append(label(draw.choice((events + sent)[-500:]), draw.randrange(2)))
    return Arrivals(events, labels, log)


def stream(plan: Plan, arrivals: Arrivals) -> None:
    """Fold history and the live log through every stage, and append it all to the lake."""
    folds = [
        defaultdict(lambda i=stage.index: Fold(plan, i))
        for stage in plan.stages  # type: ignore[misc]
    ]
    offsets: list[dict[int, int]] = [defaultdict(int) for _ in plan.stages]
    past = [e | _origin(-1, i) for i, e in enumerate(arrivals.history)]
    past_labels = [e | _origin(-1, i) for i, e in enumerate(arrivals.history_labels)]
    _bootstrap(plan, folds, past, past_labels)
    done: list[pa.RecordBatch] = []
    late: list[Raw] = []
    waiting: list[Raw] = []
    newest: dict[int, int] = defaultdict(lambda: -(2**62))
    raw_offsets: dict[tuple[int, int], int] = defaultdict(int)
    for entry in arrivals.live:
        is_event = entry["kind"] == KIND_EVENT
        key = entry[plan.key_field] if is_event else entry["event_id"]
        partition = partition_of(key, plan.partitions)
        at = (entry["kind"], partition)
        row = entry | _origin(partition, raw_offsets[at])
        row |= {"origin_log": entry["kind"], "position_log": entry["kind"]}
        raw_offsets[at] += 1
        if is_event:
            newest[partition] = max(newest[partition], entry["event_time_us"])
            row["watermark_us"] = newest[partition]
            if entry["event_time_us"] < newest[partition] - plan.lateness_us:
                late.append(row | {"verdict": LATE})
                continue
        waiting.append(row)
        if len(waiting) == ENVELOPE_ROWS:
            done += _pass(plan, folds, offsets, waiting)
            waiting = []
    done += _pass(plan, folds, offsets, waiting)
    rows = pa.Table.from_batches([*done, batch(plan, late)], schema=row_schema(plan))
    is_event = pc.equal(rows["kind"], KIND_EVENT)
    write_events(plan, rows.filter(is_event))
    write_labels(plan, rows.filter(pc.invert(is_event)))
    write_events(plan, pa.Table.from_batches([batch(plan, past)]))
    known = pa.array([e["known_us"] for e in past_labels], pa.int64())
    write_labels(plan, pa.Table.from_batches([batch(plan, past_labels)]), known)
    folded = rows.filter(pc.and_(is_event, pc.equal(rows["verdict"], 0)))
    lake.append("features", _as(lake.schema("features", plan), folded, plan))


def _origin(partition: int, offset: int) -> Raw:
    return {
        "origin_partition": partition,
        "origin_offset": offset,
        "position_partition": partition,
        "position_seq": offset << 20,
    }


def _bootstrap(plan: Plan, folds: list[Any], events: list[Raw], labels: list[Raw]) -> None:
    rows = sorted(events, key=lambda e: (e["event_time_us"], e["event_id"]))
    for stage in plan.stages:
        if plan.label is not None and stage.index == plan.label.stage:
            rows = sorted(
                [*rows, *labels],
                key=lambda e: (
                    e.get("known_us") or e["event_time_us"],
                    -int(e["kind"]),
                    e["event_id"],
                ),
            )
        keys = [
            partition_of(composite_key([row[f] for f in stage.key_fields]), plan.partitions)
            for row in rows
        ]
        for partition in sorted(set(keys)):
            own = [row for row, p in zip(rows, keys, strict=True) if p == partition]
            folds[stage.index][partition].fold_history(batch(plan, [_known(plan, e) for e in own]))


def _known(plan: Plan, row: Raw) -> Raw:
    names = set(row_schema(plan).names)
    return {name: value for name, value in row.items() if name in names}


def _pass(
    plan: Plan, folds: list[Any], offsets: list[dict[int, int]], entries: list[Raw]
) -> list[pa.RecordBatch]:
    """Some arrivals through every stage; labels enter at the stage the plan routes them into."""
    events = [e for e in entries if e["kind"] == KIND_EVENT]
    rows = pa.Table.from_batches([batch(plan, events)], schema=row_schema(plan))
    for stage in plan.stages:
        if plan.label is not None and stage.index == plan.label.stage:
            labels = batch(plan, [e for e in entries if e["kind"] == KIND_LABEL])
            rows = pa.concat_tables([rows, pa.Table.from_batches([labels])])
        partitions = [
            partition_of(key, plan.partitions) for key in rows[stage.key_column].to_pylist()
        ]
        out = []
        for partition in sorted(set(partitions)):
            own = rows.filter(pa.array([p == partition for p in partitions])).combine_chunks()
            offset = offsets[stage.index][partition]
            offsets[stage.index][partition] += 1
            envelope = own.to_batches()[0]
            out.append(folds[stage.index][partition].fold(envelope, partition, offset))
        rows = pa.Table.from_batches(out, schema=row_schema(plan))
    return list(rows.to_batches())


def write_events(plan: Plan, rows: pa.Table) -> None:
    lake.append("events", _as(lake.schema("events", plan), rows, plan))


def write_labels(plan: Plan, rows: pa.Table, known_us: pa.Array | None = None) -> None:
    rows = rows.append_column(
        "known_time_us", known_us if known_us is not None else rows["broker_time_us"]
    )
    lake.append("labels", _as(lake.schema("labels", plan), rows, plan))


def _as(schema: pa.Schema, rows: pa.Table, plan: Plan) -> pa.Table:
    """Wire rows as rows of a lake table."""
    columns = []
    for field in schema:
        if field.name == "event_date":
            days = pc.divide(rows["event_time_us"], DAY_US).cast(pa.int32())
            columns.append(days.cast(pa.date32()))
        elif field.name == "verdict":
            columns.append(pa.array([VERDICTS[v] for v in rows["verdict"].to_pylist()]))
        elif field.name == "fingerprint":
            columns.append(pa.array([plan.fingerprint] * rows.num_rows))
        elif field.name == "watermark":
            stamps = rows["watermark_us"]
            unknown = pc.or_kleene(pc.equal(stamps, NEVER_US), pc.equal(rows["verdict"], LATE))
            columns.append(pc.if_else(unknown, None, stamps).cast(field.type))
        elif f"{field.name}_us" in rows.schema.names:
            columns.append(rows[f"{field.name}_us"].cast(field.type))
        else:
            columns.append(rows[field.name].cast(field.type))
    return pa.table(columns, schema=schema)


def day_of(time_us: int) -> date:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date()

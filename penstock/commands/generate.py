"""`penstock generate history|live` and `penstock import-handbook`: where payments come from."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from features.catalog import load_plan
from features.errors import PenstockError
from features.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.generator.live import LiveReport

app = typer.Typer(help="Make card payments: history in the lake, or a live stream.")

DEFAULT_START = "2026-01-05"
DEFAULT_SCALE = 21_600.0
"""A day of event time every four seconds: weeks and their labels pass in minutes."""

DEFAULT_RATE = 500.0

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def history(
    days: Annotated[int, typer.Option(min=1, help="Days of event time.")] = 45,
    customers: Annotated[int, typer.Option(min=1, help="How many cards.")] = 1000,
    terminals: Annotated[
        int, typer.Option(min=0, help="How many shops; 0 for half as many as cards.")
    ] = 0,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Payments a real second of the live run to follow.")
    ] = DEFAULT_RATE,
    scale: Annotated[
        float, typer.Option(min=1.0, help="Seconds of event time a second of that run.")
    ] = DEFAULT_SCALE,
    payments_per_day: Annotated[
        float, typer.Option(min=0.0, help="Payments a day of event time, instead of the rate.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same payments.")] = 1,
    start: Annotated[str, typer.Option(help="First day, UTC.")] = DEFAULT_START,
    as_json: JsonOption = False,
) -> None:
    """Write a history of payments and labels into the lake."""
    from penstock.generator import history as writing
    from penstock.generator.payments import PaymentWorld

    plan = load_plan(settings().feature_set)
    per_day = payments_per_day or writing.payments_per_day(rate, scale)
    first = _day(start)
    until = first + timedelta(days=days)
    if until > datetime.now(UTC):
        raise PenstockError(f"the history would end on {until:%Y-%m-%d}, which lies ahead")
    world = PaymentWorld(seed, customers, terminals or None, per_day, first)
    written = writing.write_history(world, plan, until, _row_progress("payments"))
    writing.save_world(world, until)
    found = {
        **written.__dict__,
        "start": first.isoformat(),
        "until": until.isoformat(),
        "payments_per_day": per_day,
    }
    if as_json:
        print(json.dumps(found))
    else:
        print(
            f"{written.events} payments ({written.frauds} fraud) and {written.labels} labels, "
            f"{first:%Y-%m-%d} to {until:%Y-%m-%d}"
        )


@app.command()
def live(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long, in real seconds.")] = 60.0,
    scale: Annotated[
        float, typer.Option(min=1.0, help="Seconds of event time a real second.")
    ] = DEFAULT_SCALE,
    rate: Annotated[
        float,
        typer.Option(
            min=0.0, help="Payments a real second; follows from the history where there is one."
        ),
    ] = 0.0,
    customers: Annotated[
        int, typer.Option(min=1, help="How many cards, where there is no history.")
    ] = 1000,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the faults, and of the payments without a history.")
    ] = 1,
    start: Annotated[
        str, typer.Option(help="First day, UTC, where there is no history.")
    ] = DEFAULT_START,
    drift_after: Annotated[
        float, typer.Option(help="Real seconds until spending and fraud change; below 0 for never.")
    ] = -1.0,
    faults: Annotated[
        bool, typer.Option(help="Mix in broken, late, repeated and out-of-order records.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send payments and labels to Kafka on a scaled clock, from where the history ends."""
    from penstock.generator import history as writing
    from penstock.generator.faults import NO_FAULTS, Faults
    from penstock.generator.live import LiveRun
    from penstock.generator.payments import PaymentWorld

    plan = load_plan(settings().feature_set)
    saved = writing.load_world()
    if saved is None:
        per_day = writing.payments_per_day(rate or DEFAULT_RATE, scale)
        world, begin = PaymentWorld(seed, customers, None, per_day, _day(start)), _day(start)
    else:
        world, begin = saved.world, saved.until
        natural = world.payments_per_day * scale / 86_400
        if rate and abs(rate / natural - 1) > 0.01:
            raise PenstockError(
                f"the history has {world.payments_per_day:g} payments a day, which is "
                f"{natural:g} a second at scale {scale:g}, not {rate:g}; leave --rate out, or take "
                f"--scale {rate * 86_400 / world.payments_per_day:g}"
            )
    if drift_after >= 0:
        world = world.with_drift(begin + timedelta(seconds=drift_after * scale))
    run = LiveRun(world, plan, begin, scale, seconds, Faults() if faults else NO_FAULTS, seed)
    try:
        report = run.run(_live_progress())
    finally:
        print(file=sys.stderr)
    writing.save_world(run.world, report.until)
    if as_json:
        print(json.dumps(live_summary(report)))
    else:
        print(
            f"{report.payments} payments ({report.out_of_order} out of order, {report.late} late), "
            f"{report.duplicates} copies, {report.broken.total()} broken, {report.labels} labels, "
            f"up to {report.until:%Y-%m-%d %H:%M}"
        )


def import_handbook(
    path: Annotated[Path, typer.Argument(help="The data set's Parquet or CSV file, or a folder.")],
    as_json: JsonOption = False,
) -> None:
    """Load the public card payments of the Fraud Detection Handbook into the lake."""
    from penstock.handbook import import_handbook as load

    written = load(path, load_plan(settings().feature_set), _row_progress("payments"))
    if as_json:
        print(json.dumps(written.__dict__))
    else:
        print(f"{written.events} payments and {written.labels} labels")


def live_summary(report: LiveReport) -> dict[str, object]:
    """A live report as plain data."""
    return {
        "payments": report.payments,
        "out_of_order": report.out_of_order,
        "late": report.late,
        "duplicates": report.duplicates,
        "broken": dict(sorted(report.broken.items())),
        "labels": report.labels,
        "labels_changed": report.labels_changed,
        "until": report.until.isoformat(),
        "drift_at": report.drift_at.isoformat() if report.drift_at else None,
        "seconds": round(report.elapsed_s, 3),
    }


def _day(text: str) -> datetime:
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise PenstockError(f"{text!r} is no date; write it like {DEFAULT_START}") from None
    return day.replace(tzinfo=UTC) if day.tzinfo is None else day.astimezone(UTC)


def _row_progress(noun: str) -> Callable[[int, float], None]:
    def show(rows: int, done: float) -> None:
        end = "\n" if done >= 1 else ""
        print(f"\r{rows:>12,} {noun}  {done:4.0%}", end=end, file=sys.stderr, flush=True)

    return show


def _live_progress() -> Callable[[LiveReport], None]:
    def show(report: LiveReport) -> None:
        print(
            f"\r{report.event_time:%Y-%m-%d %H:%M}  {report.records:>9,} records, "
            f"{report.unacknowledged} on the way   ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    return show

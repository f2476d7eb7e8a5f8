"""`penstock run`, `penstock bootstrap`, `penstock demo`: our own services and the demonstration."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from typing import Annotated

import typer

from features.place import did_you_mean

SERVICES = {
    "ingest": "streaming.ingest",
    "stages": "streaming.worker",
    "online-store": "streaming.online_store",
    "lake-sink": "streaming.lake_sink",
    "scorer": "serving.scorer",
    "page-recorder": "serving.page_recorder",
}
"""Service by name, and the module whose `main()` it is."""


def run(
    service: Annotated[str, typer.Argument(help=f"One of: {', '.join(SERVICES)}.")],
) -> None:
    """Run one service in the foreground, as the supervisor does."""
    if service not in SERVICES:
        raise typer.BadParameter(
            f"no service {service!r}; {did_you_mean(service, sorted(SERVICES))}"
        )
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    importlib.import_module(SERVICES[service]).main()


def bootstrap(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fold the lake's history into stage snapshots, so that live windows are complete at once."""
    from features.catalog import load_plan
    from features.settings import settings
    from streaming.bootstrap import bootstrap as fold_history

    result = fold_history(load_plan(settings().feature_set))
    print(json.dumps(result) if as_json else f"bootstrapped: {result}")


def demo(
    seed: Annotated[
        int, typer.Option(help="Seed of the payments; the same seed, the same run.")
    ] = 7,
    customers: Annotated[int, typer.Option(min=10, help="How many customers pay.")] = 1000,
    rate: Annotated[int, typer.Option(min=1, help="Live payments per second.")] = 300,
    live_seconds: Annotated[
        int, typer.Option("--seconds", min=0, help="Least live time, in seconds.")
    ] = 120,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show the whole job on real parts: history, training, live payments, drift, retraining.

    Begins by removing what an earlier demo left in `.penstock/`; downloads stay.
    """
    from penstock.demo.run import Options, run_demo

    report = run_demo(Options(seed, customers, rate, live_seconds, keep))
    if as_json:
        print(json.dumps(report, indent=2))

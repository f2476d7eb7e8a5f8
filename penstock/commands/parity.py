"""`penstock parity measure` and `prove`: that every way of computing a feature gives one number."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from features.catalog import load_plan
from features.settings import settings
from penstock.commands import say

app = typer.Typer(help="Prove that the stream, the backfill and the reference agree bit for bit.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def measure(
    as_json: JsonOption = False,
    again: Annotated[
        bool, typer.Option("--backfill/--no-backfill", help="Run the backfill first.")
    ] = True,
) -> None:
    """Compare what the stream computed with the backfill; exit code 1 on a mismatch."""
    from features import backfill as spark_backfill
    from features import parity

    plan = load_plan(settings().feature_set)
    if again:
        spark_backfill.backfill(plan, say=say)
    result = parity.measure(plan)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{result['rows']} rows compared, {result['mismatches']} mismatches")
        if result["missing_in_backfill"] and not again:
            say(
                f"{result['missing_in_backfill']} rows of the stream are not in the backfill: "
                "leave --no-backfill out to make it anew"
            )
        if result["examples"]:
            table = Table("event", "column", "stream", "backfill")
            for example in result["examples"]:
                table.add_row(*(str(value) for value in example.values()))
            Console().print(table)
    if result["mismatches"]:
        raise typer.Exit(1)


@app.command()
def prove(
    cases: Annotated[int, typer.Option(min=1, help="How many random cases.")] = 500,
    first: Annotated[int, typer.Option(min=0, help="The number of the first case.")] = 0,
    spark: Annotated[int, typer.Option(min=0, help="How many of them run in Spark too.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compute random feature sets over random logs in every way; exit code 1 on a mismatch.

    A case that disagrees is shrunk and printed as Python that shows it again.
    """
    from penstock.prove import prove as run

    # A process takes seconds to be ready.
    processes = 1 if cases < 100 else os.cpu_count() or 1
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        task = progress.add_task("cases", total=cases)

        def show(done: int) -> None:
            progress.update(task, completed=done)

        if spark:
            from features.spark import session

            with session("penstock parity prove") as own:
                result = run(cases, first, show, own, min(spark, cases), processes)
        else:
            result = run(cases, first, show, processes=processes)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{result['cases']} cases of {result['events']:g} events and {result['features']:g} "
            f"features (medians), {result['spark_cases']} of them in Spark too, "
            f"{result['values']:,} values compared: "
            f"{result['mismatches']} mismatches"
        )
        table = Table("condition", "cases that met it")
        for condition, met in result["coverage"].items():
            table.add_row(condition, str(met))
        Console().print(table)
        if result["counterexample"]:
            print(result["counterexample"])
    if result["mismatches"]:
        raise typer.Exit(1)

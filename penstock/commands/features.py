"""`penstock backfill` and `penstock parity`: features of history, and the proof of the stream's."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from features.plan import load_plan
from features.settings import settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def backfill(as_json: JsonOption = False) -> None:
    """Compute every event's features from the lake with Spark, check them and publish them."""
    from features import backfill as spark_backfill
    from features import quality

    plan = load_plan(settings().feature_set)
    result = spark_backfill.backfill(plan, say=_say)
    _say("checking the rows against the suite made from the definition")
    result["checked"] = quality.check(plan)
    result["published"] = spark_backfill.publish(plan)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{result['rows']} rows in {result['seconds']:.0f} s, checked and published")


def parity(
    as_json: JsonOption = False,
    again: Annotated[
        bool, typer.Option("--backfill/--no-backfill", help="Run the backfill first.")
    ] = True,
) -> None:
    """Compare what the stream computed with the backfill, bit for bit; fails on a mismatch."""
    from features import backfill as spark_backfill
    from features import parity as stream_parity

    plan = load_plan(settings().feature_set)
    if again:
        spark_backfill.backfill(plan, say=_say)
    result = stream_parity.measure(plan)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{result['rows']} rows compared, {result['mismatches']} mismatches")
        if result["missing_in_backfill"] and not again:
            _say(
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


def _say(line: str) -> None:
    print(line, file=sys.stderr)

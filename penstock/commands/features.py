"""`penstock backfill`: features of history."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from features.catalog import load_plan
from features.settings import settings
from penstock.commands import say

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def backfill(as_json: JsonOption = False) -> None:
    """Compute every event's features from the lake with Spark, check them and publish them."""
    from features import backfill as spark_backfill
    from features import quality

    plan = load_plan(settings().feature_set)
    result = spark_backfill.backfill(plan, say=say)
    say("checking the rows against the suite made from the definition")
    result["checked"] = quality.check(plan)
    result["published"] = spark_backfill.publish(plan)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{result['rows']} rows in {result['seconds']:.0f} s, checked and published")

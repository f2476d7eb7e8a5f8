"""`penstock backfill` and `penstock features get`: features of history, and of this moment."""

from __future__ import annotations

import json
import math
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from features.catalog import load_plan
from features.duration import duration_name
from features.errors import PenstockError
from features.place import did_you_mean
from features.plan import Plan, StagePlan
from features.settings import settings
from penstock.commands import say

app = typer.Typer(help="Look at what the online store holds.", no_args_is_help=True)

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


@app.command()
def get(
    entity: Annotated[
        str,
        typer.Argument(help="An entity of the feature set, such as customer.", metavar="ENTITY"),
    ],
    key: Annotated[
        list[str],
        typer.Argument(
            help="Its key as producers send it, such as c-1; of an entity of several fields one "
            "for each, in the order of its name.",
            metavar="KEY...",
        ),
    ],
    is_token: Annotated[
        bool, typer.Option("--token", help="KEY is a token already, as `penstock sql` shows it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the newest features of one key, how old they are and which definition made them.

    Keys of a field that is declared with token=True are stored as tokens: KEY is made one first,
    which needs PENSTOCK_TOKEN_KEY. Exit code 1 where the online store has nothing to serve.
    """
    plan = load_plan(settings().feature_set)
    stage = _stage(plan, entity)
    if len(key) != len(stage.key_fields):
        raise typer.BadParameter(
            f"a key of {entity!r} is {' and '.join(stage.key_fields)}: give {len(stage.key_fields)}"
            f", not {len(key)}"
        )
    stored = [
        _stored_key(plan, field, part, is_token)
        for field, part in zip(stage.key_fields, key, strict=True)
    ]
    found = _found(plan, stage, key, stored)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found["result"] == "hit":
        _show(plan, found)
    else:
        say(_why_not(plan, found))
    if found["result"] != "hit":
        raise typer.Exit(1)
    if found["fingerprint"] not in ("", plan.fingerprint):
        say(f"the definition in use is another: {plan.fingerprint}")


def _stage(plan: Plan, entity: str) -> StagePlan:
    stored = {stage.name: stage for stage in plan.stages if stage.outputs}
    if entity not in stored:
        raise typer.BadParameter(
            f"{plan.name} has no features of {entity!r}; {did_you_mean(entity, list(stored))}"
        )
    return stored[entity]


def _stored_key(plan: Plan, field: str, key: str, is_token: bool) -> str:
    """The field of a key as the stream knows it, after ingest."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("KEY is no UTF-8") from None
    tokens = {each.name for each in plan.fields if each.token}
    if is_token or field not in tokens:
        return key
    from streaming.tokenise import Tokeniser

    try:
        return Tokeniser.from_settings().token(key)
    except PenstockError as error:
        raise PenstockError(
            f"{field} is stored as a token, and no token can be made of {key!r}: "
            f"{error}; or give the token itself with --token"
        ) from error


def _found(plan: Plan, stage: StagePlan, key: list[str], stored: list[str]) -> dict[str, Any]:
    """What the online store says, as JSON can hold it; a key of several fields is a list."""
    from features.online import MISS, RESULTS, OnlineStore

    with closing(OnlineStore(plan)) as online:
        wanted = stored[0] if len(stored) == 1 else tuple(stored)
        vectors = online.read({stage.name: [wanted]})[stage.name]
    found: dict[str, Any] = {
        "entity": stage.name,
        "key": key[0] if len(key) == 1 else key,
        "stored_key": stored[0] if len(stored) == 1 else stored,
        "result": RESULTS[vectors.result[0]],
    }
    if vectors.result[0] == MISS:
        return found
    time_us = int(vectors.event_time_us[0])
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    values = zip(vectors.columns, vectors.values[0].tolist(), strict=True)
    return found | {
        "event_time": moment.isoformat().replace("+00:00", "Z"),
        "age_s": float(vectors.age_s[0]),
        "version": int(vectors.version[0]),
        "fingerprint": vectors.fingerprint[0],
        "values": {name: value if math.isfinite(value) else None for name, value in values},
    }


def _show(plan: Plan, found: dict[str, Any]) -> None:
    units = {column.name: column.unit for column in plan.columns}
    table = Table("column", "value", "unit")
    for name, value in found["values"].items():
        table.add_row(name, "∅" if value is None else repr(value), units[name])
    Console().print(table, markup=False, highlight=False)
    if found["stored_key"] != found["key"]:
        key, stored = (" ".join(_parts(found[each])) for each in ("key", "stored_key"))
        print(f"key          {key}, stored as {stored}")
    print(f"event time   {found['event_time']}")
    print(f"age          {_shown_age(found['age_s'])}")
    print(f"version      {found['version'] or 'unknown: written through Feast'}")
    print(f"fingerprint  {found['fingerprint'] or 'unknown: written through Feast'}")


def _parts(key: str | list[str]) -> list[str]:
    return [key] if isinstance(key, str) else key


def _why_not(plan: Plan, found: dict[str, Any]) -> str:
    name = " ".join([found["entity"], *map(repr, _parts(found["key"]))])
    if found["result"] == "expired":
        return (
            f"the newest features of {name} are of {found['event_time']}, "
            f"{_shown_age(found['age_s'])} old: they are served for {duration_name(plan.ttl_us)}"
        )
    lately = f" in the last {duration_name(plan.ttl_us)}" if plan.ttl_us else ""
    return f"the online store has no features of {name}: it has seen no event of it{lately}"


def _shown_age(age_s: float) -> str:
    return f"{age_s:.1f} s" if age_s < 60 else str(timedelta(seconds=round(age_s)))

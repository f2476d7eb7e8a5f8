"""`penstock new`, `plan` and `apply`: begin a definition, see what it compiles to, make it so."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from features.catalog import load_plan
from features.plan import Plan
from features.settings import settings
from features.wire import dead_letter_topic, late_topic

NameArgument = Annotated[
    str, typer.Argument(help="The feature set; default PENSTOCK_FEATURE_SET.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def new(
    name: Annotated[str, typer.Argument(help="Of the feature set; small letters, digits and _.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to write it; by default the first folder of PENSTOCK_DEFINITIONS, or "
            "definitions.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a definitions file to begin with; it works as it is."""
    from penstock import starter

    target = folder or next(iter(settings().definition_folders), Path("definitions"))
    file = starter.write(name, target)
    variables = starter.exports(name, target)
    following = [f"penstock plan {name}", "penstock up", f"penstock apply {name}"]
    if as_json:
        print(json.dumps({"path": str(file.resolve()), "export": variables, "next": following}))
        return
    print(f"wrote {file}\n\nNext:")
    assigned = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
    for command in [f"export {assigned}", *following]:
        print(f"  {command}")


def plan(name: NameArgument = "", as_json: JsonOption = False) -> None:
    """Show what a definition compiles to and what `apply` would change."""
    compiled = load_plan(name or settings().feature_set)
    summary = summarise(compiled)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    console = Console()
    console.print(
        f"[bold]{compiled.name}[/] v{compiled.version}, fingerprint {compiled.fingerprint}"
    )
    console.print(f"owner {compiled.owner or '—'}, {len(compiled.columns)} columns\n")
    stages = Table("stage", "by", "topic", "columns", "state per event", title="Stages")
    for stage in summary["stages"]:
        stages.add_row(
            stage["name"],
            stage["key"],
            stage["topic"],
            str(len(stage["columns"])),
            f"{stage['bytes_per_event']} B for {stage['retention_days']:g} d",
        )
    console.print(stages)
    columns = Table("column", "unit", "stage", "meaning", title="Columns, in the model's order")
    for column in compiled.columns:
        columns.add_row(column.name, column.unit, column.stage, column.meaning)
    console.print(columns)
    console.print("[bold]Topics[/] " + ", ".join(summary["topics"]))
    console.print("[bold]Feast[/] " + ", ".join(summary["feast"]))
    console.print("\n[bold]Would change[/]")
    for line in summary["changes"] or ["nothing: this plan is applied"]:
        console.print(f"  {line}", highlight=False)


def apply(name: NameArgument = "", as_json: JsonOption = False) -> None:
    """Create the topics, register the schemas and the Feast objects of a plan."""
    from features import store
    from streaming import topics

    compiled = load_plan(name or settings().feature_set)
    summary = summarise(compiled)
    topics.ensure(compiled)
    store.apply(compiled)
    record = _applied_path(compiled.name)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(compiled.to_dict(), indent=2))
    if as_json:
        print(json.dumps({"applied": compiled.fingerprint, "changes": summary["changes"]}))
    else:
        print(f"applied {compiled.name} v{compiled.version} ({compiled.fingerprint})")


def summarise(compiled: Plan) -> dict[str, Any]:
    """The plan, its targets and its difference from what is applied, as plain data."""
    raw = [compiled.event_topic, *([compiled.label_topic] if compiled.label else [])]
    return {
        "name": compiled.name,
        "version": compiled.version,
        "fingerprint": compiled.fingerprint,
        "stages": [
            {
                "name": stage.name,
                "key": stage.key_column,
                "topic": stage.topic,
                "columns": list(stage.columns),
                "retention_days": stage.retention_us / 8.64e10,
                # time, flags, identity where labels look for it, values (kernels/windows.py)
                "bytes_per_event": 8 + 2 + 8 * stage.uses_label + 8 * len(stage.values),
            }
            for stage in compiled.stages
        ],
        "columns": [column.__dict__ for column in compiled.columns],
        "topics": [
            *raw,
            *(dead_letter_topic(topic) for topic in raw),
            late_topic(compiled.event_topic),
            *(stage.topic for stage in compiled.stages),
            compiled.features_topic,
            compiled.scored_topic,
            compiled.drift_topic,
        ],
        "feast": [
            *(f"entity {stage.name}" for stage in compiled.stages),
            *(f"view {compiled.name}_{stage.name}" for stage in compiled.stages),
            f"service {compiled.name}",
        ],
        "changes": _changes(compiled),
    }


def _applied_path(name: str) -> Path:
    return settings().home / "applied" / f"{name}.json"


def _changes(compiled: Plan) -> list[str]:
    """What differs from the plan that was applied last, a line each."""
    record = _applied_path(compiled.name)
    if not record.is_file():
        return [f"+ feature set {compiled.name} v{compiled.version} (not applied yet)"]
    before = json.loads(record.read_text())
    if before["fingerprint"] == compiled.fingerprint:
        return []
    now = json.loads(json.dumps(compiled.to_dict()))
    changes = [f"~ fingerprint {before['fingerprint']} → {compiled.fingerprint}"]
    old = {column["name"]: column for column in before["columns"]}
    new = {column["name"]: column for column in now["columns"]}
    changes += [f"- column {name}" for name in old if name not in new]
    changes += [f"+ column {name}" for name in new if name not in old]
    changes += [f"~ column {name}" for name in new if name in old and new[name] != old[name]]
    changes += [
        f"~ {key}: {before[key]} → {now[key]}"
        for key in ("version", "event_topic", "lateness_us", "partitions")
        if before[key] != now[key]
    ]
    return changes

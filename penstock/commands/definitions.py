"""`penstock new`, `plan`, `docs` and `apply`: begin a definition, look at it, make it so."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.catalog import load_plan
from features.changes import changes, refusal
from features.errors import PenstockError
from features.layout import Layout
from features.plan import Plan
from features.settings import settings
from features.vocabulary import Entity
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
    before = _applied(compiled.name)
    summary = summarise(compiled, before)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    found = changes(before, compiled.to_dict())
    console = Console()
    console.print(
        f"[bold]{compiled.name}[/] v{compiled.version}, fingerprint {compiled.fingerprint}"
    )
    about = [f"owner {compiled.owner or '—'}", f"{len(compiled.columns)} columns", *compiled.tags]
    console.print(", ".join(about), markup=False)
    console.print(f"{compiled.description}\n", markup=False)
    stages = Table("stage", "by", "topic", "columns", "state per event", title="Stages")
    for stage in summary["stages"]:
        stages.add_row(
            stage["name"],
            ", ".join(stage["key_fields"]),
            stage["topic"],
            str(len(stage["columns"])),
            f"{stage['bytes_per_event']} B for {stage['retention_days']:g} d",
        )
    console.print(stages)
    if summary["references"]:
        references = Table("reference", "by", "topic", "table", "fields", title="References")
        for each in summary["references"]:
            cells = (each["name"], ", ".join(each["key_fields"]), each["topic"], each["table"])
            references.add_row(*cells, ", ".join(each["fields"]))
        console.print(references)
    columns = Table(title="Columns, in the model's order")
    # A name that is cut short is none.
    columns.add_column("column", overflow="fold")
    for heading in ("unit", "stage", "meaning"):
        columns.add_column(heading)
    for column in compiled.columns:
        columns.add_row(column.name, column.unit, column.stage, column.meaning)
    console.print(columns)
    console.print("[bold]Topics[/] " + ", ".join(summary["topics"]))
    console.print("[bold]Feast[/] " + ", ".join(summary["feast"]))
    console.print("\n[bold]Would change[/]")
    for change in found:
        console.print(f"  {change}", highlight=False, markup=False, soft_wrap=True)
    if not found:
        console.print("  nothing: this plan is applied")
    if summary["refused"]:
        console.print(f"\n[bold]Would be refused[/] {escape(summary['refused'])}", highlight=False)


def docs(
    name: NameArgument = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write, or - for standard output; by default docs/NAME.html in "
            "PENSTOCK_HOME.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the page of a feature set: its contract, its stages, and what every column means."""
    from penstock import page

    compiled = load_plan(name or settings().feature_set)
    html = page.render(compiled)
    if str(out) == "-":
        print(html)
        return
    file = out or settings().home / "docs" / f"{compiled.name}.html"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(html)
    except OSError as error:
        raise PenstockError(f"{file} cannot be written: {error.strerror}") from error
    print(json.dumps({"path": str(file.resolve())}) if as_json else f"wrote {file}")


def apply(name: NameArgument = "", as_json: JsonOption = False) -> None:
    """Create the topics, register the schemas and the Feast objects of a plan.

    Refused where it would alter the values of a version that is applied.
    """
    from features import store
    from streaming import topics

    compiled = load_plan(name or settings().feature_set)
    before, now = _applied(compiled.name), compiled.to_dict()
    refused = refusal(before, now)
    if refused:
        raise PenstockError(refused)
    topics.ensure(compiled)
    store.apply(compiled)
    record = _applied_path(compiled.name)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(now, indent=2))
    made = changes(before, now)
    if as_json:
        told = [change.to_dict() for change in made]
        print(json.dumps({"applied": compiled.fingerprint, "changes": told}))
        return
    print(f"applied {compiled.name} v{compiled.version} ({compiled.fingerprint})")
    for change in made:
        print(f"  {change}")


def summarise(compiled: Plan, applied: dict[str, Any] | None) -> dict[str, Any]:
    """The plan, its targets and its difference from the applied one, as plain data."""
    raw = compiled.raw_topics
    return {
        "name": compiled.name,
        "version": compiled.version,
        "fingerprint": compiled.fingerprint,
        "owner": compiled.owner,
        "description": compiled.description,
        "tags": list(compiled.tags),
        "stages": [
            {
                "name": stage.name,
                "key": stage.key_column,
                "key_fields": list(stage.key_fields),
                "topic": stage.topic,
                "columns": list(stage.columns),
                "retention_days": stage.retention_us / 8.64e10,
                "bytes_per_event": Layout(stage).entry_bytes,
            }
            for stage in compiled.stages
        ],
        "references": [
            {
                "name": each.name,
                "key_fields": list(each.key_fields),
                "stage": compiled.stages[each.stage].name,
                "topic": each.topic,
                "table": each.table,
                "fields": [field.name for field in each.fields],
            }
            for each in compiled.references
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
            *(f"entity {name}" for name in _feast_entities(compiled)),
            *(f"view {compiled.name}_{stage.name}" for stage in compiled.stages),
            f"service {compiled.name}",
        ],
        "applied": applied and {name: applied[name] for name in ("version", "fingerprint")},
        "changes": [change.to_dict() for change in changes(applied, compiled.to_dict())],
        "refused": refusal(applied, compiled.to_dict()),
    }


def _feast_entities(compiled: Plan) -> list[str]:
    """An entity for each field that is a key or part of one."""
    fields = (field for stage in compiled.stages for field in stage.key_fields)
    return list(dict.fromkeys(Entity(field).name for field in fields))


def _applied_path(name: str) -> Path:
    return settings().home / "applied" / f"{name}.json"


def _applied(name: str) -> dict[str, Any] | None:
    """The plan that was applied last; only its version or a higher one is ever applied after it."""
    record = _applied_path(name)
    found: dict[str, Any] | None = json.loads(record.read_text()) if record.is_file() else None
    return found

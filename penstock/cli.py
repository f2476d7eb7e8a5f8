"""The command line: one word for each thing a user does. Heavy imports wait for their command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer
from pydantic import ValidationError

from features.errors import PenstockError
from penstock.commands import (
    chaos,
    dead_letters,
    definitions,
    features,
    generate,
    parity,
    services,
    sql,
    stack,
    topics,
    train,
)

app = typer.Typer(
    name="penstock",
    help=(
        "One declared feature set, computed the same in the stream, the backfill, the online "
        "store, training and scoring.\n\n"
        "Start with `penstock up`, look with `penstock status`, and see everything at work with "
        "`penstock demo`."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

STACK, DEFINE, FEED, MODEL, READ = (
    "The local stack",
    "Definitions",
    "Events and history",
    "Models",
    "Results",
)

app.command(rich_help_panel=STACK)(stack.up)
app.command(rich_help_panel=STACK)(stack.down)
app.command(rich_help_panel=STACK)(stack.status)
app.command(rich_help_panel=STACK)(stack.logs)
app.command(rich_help_panel=STACK)(services.run)
app.command(rich_help_panel=STACK)(services.demo)
app.command(rich_help_panel=STACK)(chaos.chaos)
app.command(rich_help_panel=DEFINE)(definitions.new)
app.command(rich_help_panel=DEFINE)(definitions.plan)
app.command(rich_help_panel=DEFINE)(definitions.docs)
app.command(rich_help_panel=DEFINE)(definitions.apply)
app.add_typer(generate.app, name="generate", rich_help_panel=FEED)
app.command("import-handbook", rich_help_panel=FEED)(generate.import_handbook)
app.command(rich_help_panel=FEED)(topics.produce)
app.command(rich_help_panel=FEED)(features.backfill)
app.command(rich_help_panel=FEED)(services.bootstrap)
app.command(rich_help_panel=MODEL)(train.train)
app.command(rich_help_panel=READ)(topics.tail)
app.add_typer(dead_letters.app, name="dlq", rich_help_panel=READ)
app.command(rich_help_panel=READ)(sql.sql)
app.add_typer(features.app, name="features", rich_help_panel=READ)
app.add_typer(parity.app, name="parity", rich_help_panel=READ)


def load_environment(home: Path) -> None:
    """Fill unset `PENSTOCK_*` variables from what `penstock up` wrote."""
    written = home / "env"
    if not written.is_file():
        return
    for line in written.read_text().splitlines():
        name, _, value = line.partition("=")
        if name and not name.startswith("#"):
            os.environ.setdefault(name, value)


def bypass_proxy() -> None:
    """Keep a proxy of the environment from standing between parts of the local stack."""
    for name in ("NO_PROXY", "no_proxy"):
        outside = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [outside, "127.0.0.1", "localhost"]))


def main() -> None:
    """Run a command; a mistake of the user's is one sentence, not a traceback."""
    load_environment(Path(os.environ.get("PENSTOCK_HOME", ".penstock")))
    bypass_proxy()
    try:
        app()
    except ValidationError as error:
        wrong = "; ".join(
            f"PENSTOCK_{'_'.join(map(str, found['loc'])).upper()} is {found['input']!r}: "
            f"{found['msg']}"
            for found in error.errors()
        )
        print(f"penstock: {wrong}", file=sys.stderr)
        sys.exit(1)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

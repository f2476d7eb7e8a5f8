"""`penstock up`, `down`, `status`, `logs`: the local stack at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.stack.logs import follow, last_lines

if TYPE_CHECKING:
    from penstock.stack.stack import Stack

PARTS_HELP = "Parts or groups (infra, airflow, services); all without one. See `penstock status`."


def local_stack() -> Stack:
    """The stack of `PENSTOCK_HOME`, for the packages this command runs from."""
    import penstock
    from features.settings import settings
    from penstock.stack.stack import Stack

    return Stack(settings().home, Path(str(penstock.__file__)).parents[1])


def up(
    parts: Annotated[list[str] | None, typer.Argument(metavar="[PART]…", help=PARTS_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
) -> None:
    """Start the local stack, or the named parts with what they need; what is up stays up."""
    with _progress("starting the local stack") as say:
        stack = local_stack()
        stack.up(parts or (), say)
    addresses = {part.title: part.url for part in stack.status().parts if part.url}
    if as_json:
        print(json.dumps(addresses))
        return
    for title, url in addresses.items():
        print(f"{title}: {url}")


def down() -> None:
    """Stop every part. No process is left; all state stays in `.penstock/`."""
    with _progress("stopping the local stack") as say:
        local_stack().down(say)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell how every part is: state, readiness, address, restarts, memory."""
    now = local_stack().status()
    if as_json:
        print(json.dumps(asdict(now), indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "state", "ready", "address", "pid", "restarts", "PSS MiB", box=None)
    for part in now.parts:
        ports = ", ".join(f"{name} {number}" for name, number in part.ports.items())
        table.add_row(
            part.name,
            part.state,
            "yes" if part.ready else "no",
            part.url or ports,
            str(part.pid or ""),
            str(part.restarts),
            f"{part.pss_mib:.0f}" if part.pid else "",
        )
    table.add_row("all", "", "", "", "", "", f"{now.pss_mib:.0f}")
    Console(width=None if Console().is_terminal else 140).print(table)


def logs(
    part: Annotated[str, typer.Argument(help="A part; see `penstock status`.")],
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as the log grows.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines back.")] = 100,
) -> None:
    """Print the end of a part's log."""
    log = local_stack().log(part)
    print(last_lines(log, lines))
    if following:
        for text in follow(log):
            print(text, end="", flush=True)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str], None]]:
    """Lines of progress on standard error, under a spinner where it is a terminal."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status(title):
        yield lambda line: console.print(escape(line))

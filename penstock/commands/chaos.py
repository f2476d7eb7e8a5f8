"""`penstock chaos`: break the chain again and again, and judge what it made."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.commands import say


def chaos(
    rounds: Annotated[int, typer.Option(min=0, help="How many faults.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Draws load and faults.")] = 1,
    home: Annotated[
        Path | None,
        typer.Option(help="A new folder for the stack, kept; by default one that is removed."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Break a running chain, then compare its scores with the raw log; exit code 1 on a difference.

    Brings up a stack of its own and ends it. Each round injects one fault while others may still be
    recovering: processes die, at any moment or at a named point, freeze and come back; the broker,
    Redis, snapshots and the disk fail; input repeats, is mixed up, is poisoned.
    """
    import penstock
    from features.errors import PenstockError
    from penstock.chaos.run import Options, run

    # Told to end, it still ends its stack.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = home or Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    if home is not None and home.exists() and any(home.iterdir()):
        raise PenstockError(f"{home} is not empty; chaos begins with nothing")
    report = run(folder, Path(str(penstock.__file__)).parents[1], Options(rounds, seed), say)
    if home is None and report["holds"]:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        say(f"topics, snapshots, lake and logs are left in {folder}")
    print(json.dumps(report, indent=2, default=str)) if as_json else _show(report)
    if not report["holds"]:
        raise typer.Exit(1)


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, counts in (("fault", report["faults"]), ("failpoint", report["failpoints"])):
        table = Table(title, "times")
        for name, times in counts.items():
            table.add_row(name, str(times))
        console.print(table)
    records = ", ".join(f"{times} {verdict}" for verdict, times in report["records"].items())
    print(
        f"{report['rounds']} rounds with seed {report['seed']} in {report['seconds']} s; "
        f"raw records: {records}"
    )
    print(
        f"{report['missing']} missing, {report['duplicated']} duplicated, "
        f"{report['different']} different, {report['unexplained']} unexplained"
    )
    for each in report["differences"]:
        print(
            f"{each['kind']} in {each['where']}: {each['what']}, "
            f"expected {each['expected']}, found {each['found']}"
        )

"""The demo's results as `report.json`, as a page with plots, and as a summary on the terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Lines of one plot by name: (seconds since live payments began, value)."""

PAGE = Path(__file__).with_name("report.html")


def promises(report: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """What the demo promises for any seed: name, figure, whether it holds."""
    events, letters, parity = report["events"], report["dead_letters"], report["parity"]
    quality = report["quality"]
    triggers = {run["trigger"] for run in report["airflow"]["runs"] if run["state"] == "success"}
    conditions = parity["conditions"]
    return [
        (
            "raw records without an outcome",
            f"{events['missing']} of {events['produced']}",
            events["missing"] == 0 and events["produced"] > 0,
        ),
        ("records with two outcomes", str(events["duplicated"]), events["duplicated"] == 0),
        (
            "broken records found as dead letters",
            f"{letters['found']} of {letters['sent']}",
            letters["found"] == letters["sent"] >= 10,
        ),
        (
            "stream vectors that differ from the backfill",
            f"{parity['mismatches']} of {parity['rows']}",
            parity["mismatches"] == 0 and parity["rows"] >= 10_000,
        ),
        (
            "out of order, duplicate, late, label changed",
            ", ".join(str(n) for n in conditions.values()),
            all(n >= 100 for n in conditions.values()),
        ),
        (
            "average precision, live; the rule amount > 220",
            f"{quality['average_precision']:.3f}, {quality['rule_average_precision']:.3f}",
            quality["average_precision"] > quality["rule_average_precision"],
        ),
        (
            "Airflow runs by hand or schedule, and by event",
            ", ".join(sorted(triggers, reverse=True)),
            bool(triggers & {"manual", "scheduled"}) and "asset_triggered" in triggers,
        ),
        (
            "drift seen, and paged",
            f"{report['drift']['first_seen']}, {report['drift']['alert_received']}",
            bool(report["drift"]["first_seen"]) and bool(report["drift"]["alert_received"]),
        ),
        (
            "decision about the new model",
            str(report["champion"]["decision"]),
            bool(report["champion"]["reason"]),
        ),
        ("memory, MiB", f"{report['stack']['pss_mib']:.0f}", report["stack"]["pss_mib"] < 6144),
    ]


def write(folder: Path, report: Mapping[str, Any], plots: Mapping[str, Series]) -> Path:
    """Write `report.json` and `report.html`; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    template = Environment(autoescape=True).from_string(PAGE.read_text())
    page = folder / "report.html"
    page.write_text(
        template.render(
            report=report,
            verdict=verdict(report),
            promises=promises(report),
            plots=[(title, _plot(series)) for title, series in plots.items() if series],
        )
    )
    return page


def verdict(report: Mapping[str, Any]) -> str:
    """The run in one sentence."""
    events = report["events"]
    champion = report["champion"]
    outcome = (
        f"version {champion['after']} replaced version {champion['before']}"
        if champion["after"] != champion["before"]
        else f"version {champion['before']} stayed"
    )
    return (
        f"{events['produced']} raw records, {events['scored']} scored, half of them within "
        f"{report['latency_ms']['p50']:.0f} ms; after the drift {outcome}."
    )


def print_summary(console: Console, report: Mapping[str, Any], page: Path) -> None:
    """The promises, and where to look next."""
    table = Table(title="Penstock demo", title_justify="left", show_header=False)
    for name, value, holds in promises(report):
        table.add_row("[green]✓[/]" if holds else "[red]✗[/]", name, value)
    console.print(table)
    console.print(verdict(report))
    console.print(report["champion"]["reason"])
    console.print(f"\nReport   {page}", soft_wrap=True, highlight=False)
    for name, url in report["urls"].items():
        console.print(f"{name:<8} {url}", soft_wrap=True, highlight=False)


def _plot(series: Series) -> str:
    """One SVG picture, to stand inside a page."""
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds since live payments began")
    axes.set_ylim(bottom=0)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize="small", ncols=3)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    _, opening, rest = text.getvalue().partition("<svg")  # without the XML prologue
    return opening + rest

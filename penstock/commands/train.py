"""`penstock train`: the whole training pipeline in one process, as Airflow runs it in tasks."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from features.settings import settings
from penstock.commands import say


def train(
    feature_set: Annotated[str, typer.Option(help="The feature set to train for.")] = "",
    as_of: Annotated[
        str, typer.Option(help="ISO time up to which events and labels are known; newest event.")
    ] = "",
    train_days: Annotated[float, typer.Option(help="Days to learn from.")] = 14,
    validation_days: Annotated[float, typer.Option(help="Days to measure on.")] = 7,
    gap_days: Annotated[
        float | None, typer.Option(help="Days between them; as long as a label takes.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 12,
    processes: Annotated[int, typer.Option(min=1, help="Processes under torchrun.")] = 2,
    seed: Annotated[int, typer.Option(help="Decides weights, order and held-out rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print every step's result.")] = False,
) -> None:
    """Train a model from the feature table, compare it with the champion, and promote it if better.

    Example: penstock train --train-days 14 --validation-days 7
    """
    from training import pipeline

    say("building the point-in-time training set")
    result = pipeline.build_dataset(
        feature_set or settings().feature_set,
        as_of=as_of or None,
        train_days=train_days,
        validation_days=validation_days,
        gap_days=gap_days,
    )
    built = result["dataset"]
    say(
        f"training on {built['rows']['train']} rows with {built['positives']['train']} positives "
        f"in {processes} processes"
    )
    result = pipeline.train(result, epochs=epochs, processes=processes, seed=seed)
    say("calibrating, measuring and packing the bundle")
    result = pipeline.evaluate(result)
    say("comparing with the champion")
    result = pipeline.promote(result)
    say("compiling engines")
    result = pipeline.compile_engines(result)
    print(json.dumps(result, indent=2) if as_json else _summary(result))


def _summary(result: dict[str, Any]) -> str:
    verdict = "promoted" if result["promoted"] else "refused"
    model = f"version {result['version']} of {result['dataset']['feature_set']}"
    lines = [
        f"{model} was {verdict}: {result['reason']}",
        *(f"  {name} {value:.4f}" for name, value in result["metrics"].items()),
        f"champion: version {result['champion_after'] or 'none'}",
    ]
    return "\n".join(lines)

"""The steps from a feature table to a champion, as a scheduler runs them.

    build_dataset → train → evaluate → promote → compile_engines

Each step takes the small dictionary its predecessor returned (folders, run ids, numbers; never
rows), adds its own result and returns it, so any of them can be run again alone. Everything large
lies in `PENSTOCK_HOME/training/<run key>` or in MLflow. Importing this module loads neither torch
nor MLflow's client: torch is loaded in the processes that train, the client by `Registry`.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from features import bundle
from features.catalog import load_plan
from features.errors import BundleError
from features.plan import Plan
from training import dataset as datasets
from training.compile import compile_bundle
from training.dataset import Dataset, RowSource
from training.errors import TrainingError
from training.evaluate import decision_thresholds, measure, measure_decisions
from training.gate import Decision, PromotionRule, decide
from training.graph import onnx_scores
from training.job import Job
from training.launch import launch
from training.models.recipes import recipe_of
from training.packing import environment, git_commit, write_bundle
from training.registry import Registry, Version
from training.settings import settings
from training.tracking import Tracker

Result = dict[str, Any]


def build_dataset(
    feature_set: str,
    *,
    as_of: str | None = None,
    train_days: float = 14,
    validation_days: float = 7,
    gap_days: float | None = None,
    run_key: str | None = None,
    source: RowSource | None = None,
) -> Result:
    """Write the point-in-time training set.

    Args:
        feature_set: its name.
        as_of: ISO time up to which events and labels are known; by default now: the newest event
            time of the feature table, and every label of the lake.
        train_days: length of the training part.
        validation_days: length of the validation part.
        gap_days: between them; by default as long as a label takes to be known.
        run_key: names the work folder; by default the feature set and `as_of`.
        source: where feature rows come from; by default the backfill table of the lake.

    Returns:
        `{"dataset": …}`, a `Dataset`.
    """
    plan = load_plan(feature_set)
    known = datasets.latest_event_time(plan) if as_of is None else _parse_time(as_of)
    key = run_key or f"{plan.name}-{datasets.utc(known):%Y%m%dT%H%M%SZ}"
    built = datasets.build(
        plan,
        settings().work_folder / key,
        as_of=known,
        train_days=train_days,
        validation_days=validation_days,
        gap_days=gap_days,
        source=source,
        carry=recipe_of(plan.name).carried_fields,
        every_label=as_of is None,
    )
    return {"dataset": msgspec.to_builtins(built)}


def train(previous: Result, *, epochs: int = 12, processes: int = 2, seed: int = 0) -> Result:
    """Train under torchrun, tracked in a new MLflow run, to a calibrated and exported model.

    Returns:
        `previous` with `run_id` and `outcome`.
    """
    built, plan = _dataset(previous)
    config = recipe_of(plan.name).config
    tracker = Tracker.start(
        settings().mlflow_uri,
        plan.name,
        Path(built.folder).name,
        params={
            **{f"model.{name}": value for name, value in msgspec.to_builtins(config).items()},
            **msgspec.to_builtins(built.split),
            **{f"rows.{part}": count for part, count in built.rows.items()},
            **{f"positives.{part}": count for part, count in built.positives.items()},
            **{f"version.{name}": value for name, value in environment().items()},
            "epochs": epochs,
            "processes": processes,
            "seed": seed,
        },
        tags={
            "feature_set": plan.name,
            "feature_fingerprint": plan.fingerprint,
            "dataset_fingerprint": built.dataset_fingerprint,
            "git_commit": git_commit(),
        },
    )
    job = Job(
        folder=built.folder,
        columns=built.columns,
        config=config,
        epochs=epochs,
        seed=seed,
        mlflow_uri=tracker.uri,
        run_id=tracker.run_id,
    )
    try:
        outcome = launch(job, processes)
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.metrics(
        {
            "best_epoch": outcome.best_epoch,
            "train_s": outcome.seconds,
            "onnx_max_difference": outcome.onnx_max_difference,
        }
    )
    tracker.end("FINISHED")
    return {**previous, "run_id": tracker.run_id, "outcome": msgspec.to_builtins(outcome)}


def evaluate(previous: Result) -> Result:
    """Measure the exported model beside the champion on the same rows, and pack the bundle.

    Returns:
        `previous` with `bundle` (a folder), `metrics`, `thresholds`, `champion_before` (a version
        or None), `champion_metrics`, and `why_no_champion` where none could be compared.
    """
    built, plan = _dataset(previous)
    recipe, folder = recipe_of(plan.name), Path(built.folder)
    rows, train_rows = (datasets.read_part(folder, part) for part in ("validation", "train"))
    features = datasets.matrix(rows, plan.column_names)
    scores = onnx_scores(folder / bundle.MODEL, features)
    thresholds = decision_thresholds(scores, recipe.decision_shares)
    metrics = {
        **measure(rows, scores, recipe),
        **measure_decisions(rows, scores, thresholds),
    }
    bundle_folder = folder / "bundle"
    write_bundle(
        bundle_folder,
        plan,
        folder,
        train_features=np.column_stack([train_rows[name].to_numpy() for name in plan.column_names]),
        train_scores=onnx_scores(
            folder / bundle.MODEL, datasets.matrix(train_rows, plan.column_names)
        ),
        thresholds=thresholds,
        metrics=metrics,
        dataset_fingerprint=built.dataset_fingerprint,
    )
    tracker = Tracker(settings().mlflow_uri, previous["run_id"])
    tracker.metrics(metrics)
    registry = Registry()
    champion = registry.champion(plan.name)
    champion_scores, why = _champion_scores(registry, champion, plan, folder, features)
    champion_metrics = None if champion_scores is None else measure(rows, champion_scores, recipe)
    if champion_metrics is not None:
        tracker.metrics({f"champion_{name}": value for name, value in champion_metrics.items()})
    _write_scores(_scores_file(previous), scores, champion_scores)
    return {
        **previous,
        "bundle": str(bundle_folder),
        "metrics": metrics,
        "thresholds": thresholds,
        "champion_before": None if champion is None else champion.version,
        "champion_metrics": champion_metrics,
        "why_no_champion": why,
    }


def promote(previous: Result, *, rule: PromotionRule | None = None) -> Result:
    """Register the bundle, apply the promotion rule, record the verdict, move the alias if earned.

    A verdict is given once: a second run of the step finds the version and its recorded verdict,
    and at most finishes what the first left undone.

    Returns:
        `previous` with `version`, `promoted`, `reason`, `champion_after`.

    Raises:
        TrainingError: another version became champion since the evaluation.
    """
    built, plan = _dataset(previous)
    before = previous["champion_before"]
    registry = Registry()
    bundle.verify(Path(previous["bundle"]), plan)
    version = registry.register(
        plan.name,
        previous["run_id"],
        Path(previous["bundle"]),
        tags={
            "feature_fingerprint": plan.fingerprint,
            "dataset_fingerprint": built.dataset_fingerprint,
        },
    )
    champion = registry.champion(plan.name)
    now = None if champion is None else champion.version
    if version.verdict is None:
        if now != before:
            raise TrainingError(
                f"version {now} of {plan.name} became champion while version {version.version} "
                f"was compared with {before or 'none'}; evaluate again"
            )
        decision = _decide(Path(built.folder), previous, rule or PromotionRule())
        version = registry.record(version, decision.promote, decision.reason, before)
    promoted, reason, replaced = version.verdict or (False, "", None)
    if promoted and now == replaced:
        registry.promote(version)
        now = version.version
    Tracker(registry.uri, previous["run_id"]).tag(
        {
            "model_version": version.version,
            "decision": "promoted" if promoted else "refused",
            "decision_reason": reason,
        }
    )
    return {
        **previous,
        "version": version.version,
        "promoted": promoted,
        "reason": reason,
        "champion_after": now,
    }


def compile_engines(previous: Result) -> Result:
    """Build engines for the version, from its registered bundle, and attach them to it.

    Returns:
        `previous` with `engines`; a version that was refused gets none, and it says so.
    """
    if not previous["promoted"]:
        reason = f"version {previous['version']} was refused, so nothing will run it"
        return {**previous, "engines": {"status": "absent", "reason": reason}}
    built, plan = _dataset(previous)
    registry, folder = Registry(), Path(built.folder)
    fetched = registry.download(plan.name, previous["version"], folder / "registered")
    bundle.verify(fetched, plan)
    engines = compile_bundle(fetched, folder / "engines")
    version = registry.get(plan.name, previous["version"])
    registry.attach_engines(version, folder / "engines")
    registry.tag(version, {f"engine.{name}": engine.status for name, engine in engines.items()})
    return {**previous, "engines": msgspec.to_builtins(engines)}


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise TrainingError(
            f"as_of is {text!r}; give an ISO time such as 2025-03-01T00:00:00+00:00"
        ) from None


def _dataset(previous: Result) -> tuple[Dataset, Plan]:
    """The dataset a step works on and its plan, refused when the definition has changed since."""
    built = msgspec.convert(previous["dataset"], Dataset)
    plan = load_plan(built.feature_set)
    if plan.fingerprint != built.fingerprint:
        raise TrainingError(
            f"the dataset in {built.folder} was built for fingerprint {built.fingerprint}, the "
            f"definition of {plan.name} now has {plan.fingerprint}; start from build_dataset"
        )
    return built, plan


def _champion_scores(
    registry: Registry, champion: Version | None, plan: Plan, folder: Path, features: Any
) -> tuple[Any, str]:
    """The champion's scores of the same rows, or None and why there are none."""
    if champion is None:
        return None, "there is no champion"
    fetched = registry.download(plan.name, champion.version, folder / "champion")
    packed = bundle.read_manifest(fetched)
    if packed.fingerprint != plan.fingerprint:
        return None, (
            f"champion version {champion.version} was trained for fingerprint "
            f"{packed.fingerprint}, not {plan.fingerprint}, and cannot score these rows"
        )
    try:
        bundle.verify(fetched, plan)
    except BundleError as error:
        raise TrainingError(
            f"the champion, version {champion.version} of {plan.name}, fails its checks: {error}"
        ) from error
    return onnx_scores(fetched / bundle.MODEL, features), ""


def _scores_file(previous: Result) -> Path:
    return Path(previous["dataset"]["folder"]) / f"scores-{previous['run_id']}.arrow"


def _write_scores(path: Path, challenger: Any, champion: Any) -> None:
    columns = {"challenger": challenger}
    if champion is not None:
        columns["champion"] = champion
    datasets.write_table(pa.table(columns), path)


def _decide(folder: Path, previous: Result, rule: PromotionRule) -> Decision:
    rows = datasets.read_part(folder, "validation")
    scores = datasets.read_part(folder, _scores_file(previous).stem)
    return decide(
        datasets.labels_of(rows),
        datasets.days_of(rows),
        scores["challenger"].to_numpy(),
        scores["champion"].to_numpy() if "champion" in scores.column_names else None,
        rule,
        previous["why_no_champion"],
    )

"""The one chain of tasks that trains a feature set: history, gate, model, champion, engines.

Both DAGs of a feature set run it. Airflow parses this module every few seconds, so it imports
nothing heavy: every task imports what it calls inside its own process, and what passes between
tasks is small; rows and weights lie in the lake and in the run's folder.
"""

import logging
import re
from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule, XComArg, chain, task

from features.catalog import load_catalog
from features.errors import PenstockError, ServiceUnavailableError
from features.plan import Plan

log = logging.getLogger(__name__)

# What Penstock raises on purpose will not go away by trying again; a part that is down comes back.
_RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=ServiceUnavailableError, action=RetryAction.RETRY),
        RetryRule(exception=PenstockError, action=RetryAction.FAIL),
    ]
)

TRAINING_PARAMS = {
    "as_of": Param(
        None,
        type=["null", "string"],
        format="date-time",
        description="Train on what was known at this instant (event time, RFC 3339 with an "
        "offset); empty: at the newest event of the feature table.",
    ),
    "train_days": Param(
        14.0, type="number", exclusiveMinimum=0, description="Days (event time) to learn from."
    ),
    "validation_days": Param(
        7.0,
        type="number",
        exclusiveMinimum=0,
        description="Days after those, on which champion and challenger are compared.",
    ),
    "gap_days": Param(
        None,
        type=["null", "number"],
        minimum=0,
        description="Days left out between the two; empty: as long as a label takes.",
    ),
    "epochs": Param(12, type="integer", minimum=1, description="Passes over the training rows."),
    "seed": Param(0, type="integer", minimum=0, description="Seed of weights and order of rows."),
}


def trainable_plans() -> list[Plan]:
    """The plan of every feature set that declares a label; without one nothing can be learned."""
    found = load_catalog()
    for error in found.broken.values():
        # Raised here it would take the DAGs of the others away.
        log.warning("%s", error)
    return [plan for plan in found.plans.values() if plan.label is not None]


def default_args(plan: Plan) -> dict[str, Any]:
    """What every task of a feature set's DAGs has in common."""
    return {
        "owner": plan.owner,
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_policy": _RETRY_POLICY,
        "execution_timeout": timedelta(hours=1),
    }


def describe(plan: Plan, how: str) -> str:
    """The text Airflow shows about a DAG of this feature set."""
    return f"""### {plan.name}

{how}

Events come from `{plan.event_topic}`, labels from `{plan.label_topic}`; the {len(plan.columns)}
features have the fingerprint `{plan.fingerprint}`.

| task | what it does | when it fails |
|---|---|---|
| `backfill` | computes every feature of the lake's events with Spark | nothing has changed |
| `gate` | checks them against the suite made from the definition | the log names the rule and the \
rows; the last good features stay in use |
| `publish` | puts them in use | the last good features stay in use |
| `dataset` | joins the labels known at `as_of` | |
| `train` | trains with torchrun, one process per device | |
| `evaluate` | compares challenger and champion on the validation days | |
| `promote` | moves the alias `champion`, or says why not | the champion stays |
| `compile_engines` | builds the engines of the new champion | the scorer runs the ONNX model |
"""


@task
def backfill(feature_set: str) -> dict[str, Any]:
    """Compute every feature of the lake's events with Spark, aside from those in use."""
    from features.backfill import backfill as run
    from features.catalog import load_plan

    return run(load_plan(feature_set), say=print)


@task
def gate(feature_set: str) -> dict[str, Any]:
    """Check the candidate rows; a failure names the rule and how many rows break it.

    Returns:
        What was checked, with the `version` of the candidate table.
    """
    from features import lake
    from features.backfill import CANDIDATE
    from features.catalog import load_plan
    from features.quality import check

    candidate = lake.open_table(CANDIDATE)
    version = candidate.version() if candidate else -1
    return check(load_plan(feature_set)) | {"version": version}


@task
def publish(feature_set: str, checked: dict[str, Any]) -> dict[str, Any]:
    """Put the checked rows in the place of those in use."""
    from features import lake
    from features.backfill import CANDIDATE
    from features.backfill import publish as run
    from features.catalog import load_plan

    candidate = lake.open_table(CANDIDATE)
    if candidate is None or candidate.version() != checked["version"]:
        raise PenstockError(
            f"{CANDIDATE} was written again after its check, by another run of this feature set; "
            "start this run again"
        )
    return run(load_plan(feature_set))


@task
def dataset(
    feature_set: str, params: dict[str, Any] | None = None, run_id: str | None = None
) -> dict[str, Any]:
    """Join features with the labels known at `as_of`."""
    from training.pipeline import build_dataset

    wanted = params or {}
    return build_dataset(
        feature_set,
        as_of=wanted["as_of"],
        train_days=wanted["train_days"],
        validation_days=wanted["validation_days"],
        gap_days=wanted["gap_days"],
        # Runs never share a folder, attempts of one run do.
        run_key=re.sub(r"[^\w.-]+", "-", f"{feature_set}-{run_id}"),
    )


@task(execution_timeout=timedelta(hours=12))
def train(built: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train with torchrun, one process per device."""
    from training.pipeline import train as run

    wanted = params or {}
    return run(built, epochs=wanted["epochs"], seed=wanted["seed"])


@task
def evaluate(trained: dict[str, Any]) -> dict[str, Any]:
    """Compare challenger and champion on the validation days."""
    from training.pipeline import evaluate as run

    return run(trained)


@task
def promote(evaluated: dict[str, Any]) -> dict[str, Any]:
    """Move the alias `champion`, or record why not."""
    from training.pipeline import promote as run

    promoted = run(evaluated)
    verdict = "promoted" if promoted["promoted"] else "refused"
    print(f"version {promoted['version']} is {verdict}: {promoted['reason']}")
    return promoted


@task
def compile_engines(promoted: dict[str, Any]) -> dict[str, Any]:
    """Build the engines of the new champion; a challenger that was refused gets none."""
    from training.pipeline import compile_engines as run

    return run(promoted)


def training_chain(plan: Plan) -> XComArg:
    """Add the tasks to the DAG under construction; returns the first."""
    first = backfill(plan.name)
    checked = gate(plan.name)
    published = publish(plan.name, checked)
    built = dataset(plan.name)
    trained = train(built)
    evaluated = evaluate(trained)
    promoted = promote(evaluated)
    chain(first, checked, published, built, trained, evaluated, promoted)
    compile_engines(promoted)
    return first

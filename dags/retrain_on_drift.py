"""`<feature set>_retrain_on_drift`: woken by a drift event on Kafka, trains on what came after it.

The event only wakes the DAG. What to do is read from the drift topic and from the model registry,
because Airflow joins a burst of events into one run and repeats events after a crash.
"""

import re
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator, Context, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from dags.chain import (
    TRAINING_PARAMS,
    default_args,
    describe,
    trainable_plans,
    training_chain,
)
from dags.triggers import DriftOf, LakeReaches
from features.plan import Plan

LABELS_TIMEOUT = timedelta(days=60)
"""A stream that has stopped brings no labels; after this the run fails and says so."""

POLL_S = 2.0

DRIFT_PARAMS = TRAINING_PARAMS | {
    "drift_days": Param(
        7.0,
        type="number",
        exclusiveMinimum=0,
        description="Days (event time) of labelled events to wait for after the drift was seen.",
    ),
    # The few days after the drift must serve both parts: most of them to learn from, without a
    # gap, and the last ones to compare on.
    "validation_days": Param(
        3.0,
        type="number",
        exclusiveMinimum=0,
        description="The last of those days, on which champion and challenger are compared.",
    ),
    "gap_days": Param(
        0.0,
        type=["null", "number"],
        minimum=0,
        description="Days left out before them; empty: as long as a label takes.",
    ),
}

DOC = """Woken by an event of `{plan.drift_topic}` that names this feature set. It waits until the
lake holds `drift_days` of events after the drift whose labels are known, and then runs the same
tasks as `{plan.name}_training`. A drift that a newer champion has answered is skipped."""


@task(retries=5, execution_timeout=timedelta(minutes=5))
def read_drift(feature_set: str) -> dict[str, Any]:
    """The newest drift event of this feature set; skips the run when it has been answered."""
    from dags.drift import answered_by, newest_drift
    from features.catalog import load_plan
    from training.registry import Registry

    plan = load_plan(feature_set)
    event = newest_drift(plan)
    if event is None:
        raise AirflowSkipException(f"{plan.drift_topic} holds no drift event of {plan.name}")
    champion = Registry().champion(plan.name)
    reason = answered_by(event, champion.version if champion else "")
    if reason:
        raise AirflowSkipException(reason)
    return event


@task(execution_timeout=timedelta(minutes=15))
def drift_report(feature_set: str, event: dict[str, Any]) -> dict[str, Any]:
    """Evidently's page about the week of the drift, under `PENSTOCK_HOME/reports`."""
    from dags.drift import write_report
    from features.catalog import load_plan

    report = write_report(load_plan(feature_set), event)
    print(f"{report['drifted']} columns drifted; the report is {report['path']}")
    return report


class AwaitLabels(BaseOperator):  # type: ignore[misc]  # Airflow ships no types we follow
    """Waits in the triggerer until enough events after the drift have labels.

    Args:
        event: the drift event.
        drift_days: how many days (event time) of labelled events are wanted.
        known_after_s: how long a label takes.
    """

    template_fields = ("event", "drift_days")

    def __init__(self, *, event: Any, drift_days: str, known_after_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event = event
        self.drift_days = drift_days
        self.known_after_s = known_after_s

    def execute(self, context: Context) -> None:
        """Hand the wait to the triggerer."""
        seen = datetime.fromisoformat(self.event["first_seen"]["event_time"])
        until = seen + timedelta(days=float(self.drift_days), seconds=self.known_after_s)
        self.log.info("waiting until the lake holds events of %s", until)
        self.defer(
            trigger=LakeReaches(until.isoformat(), POLL_S),
            method_name="resume",
            timeout=LABELS_TIMEOUT,
        )

    def resume(self, context: Context, event: str) -> str:
        """The newest event time, once it is young enough."""
        self.log.info("the lake holds events up to %s", event)
        return event


def retrain_dag(plan: Plan) -> DAG:
    """The DAG of one feature set."""
    known_after_s = plan.label.known_after_us / 1e6 if plan.label else 0.0
    drift = Asset(
        f"{plan.name}_drift",
        watchers=[
            AssetWatcher(
                name=f"{plan.name}_drift_events",
                # As a pattern the topic may be made later; by its name the watcher would fail
                # every second until then.
                trigger=DriftOf(feature_set=plan.name, topics=[f"^{re.escape(plan.drift_topic)}$"]),
            )
        ],
    )
    with DAG(
        dag_id=f"{plan.name}_retrain_on_drift",
        description=f"Train {plan.name} anew on what came after a drift.",
        doc_md=describe(plan, DOC.format(plan=plan)),
        schedule=[drift],
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        default_args=default_args(plan),
        params=DRIFT_PARAMS,
        tags=["penstock", plan.name, "drift"],
    ) as dag:
        event = read_drift(plan.name)
        report = drift_report(plan.name, event)
        labels = AwaitLabels(
            task_id="await_labels",
            event=event,
            drift_days="{{ params.drift_days }}",
            known_after_s=known_after_s,
            # The wait has its own limit, and no attempt of it runs long.
            execution_timeout=None,
        )
        event >> report
        event >> labels >> training_chain(plan)
    return dag


for plan in trainable_plans():
    dag = retrain_dag(plan)
    globals()[dag.dag_id] = dag

"""The DAGs in the stack's own Airflow: run by hand, seen in a browser, woken by Kafka, gated."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from mlflow import MlflowClient
from playwright.sync_api import expect, sync_playwright

from features import lake
from features.plan import Plan, load_plan
from penstock.demo.airflow import Airflow
from penstock.generator.history import write_history
from penstock.generator.payments import PaymentWorld
from tests.conftest import PROJECT, SessionStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

START = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 24
CONF = {"train_days": 10, "validation_days": 3, "gap_days": 0, "epochs": 4}
TRAINING, RETRAINING = "card_fraud_training", "card_fraud_retrain_on_drift"
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Trained:
    """A stack in which one training run has succeeded."""

    airflow: Airflow
    url: str
    run_id: str
    plan: Plan
    mlflow: MlflowClient
    bootstrap: str


def wait_for(what: str, condition: Callable[[], Any], within_s: float = 400) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(2)
    return found


def ended(airflow: Airflow, dag: str, run_id: str) -> str | None:
    """The state of a run that has ended."""
    try:
        runs = airflow.runs(dag)
    except httpx.TimeoutException:
        # The machine is busy with the run itself.
        return None
    [run] = [run for run in runs if run["dag_run_id"] == run_id]
    return run["state"] if run["state"] in ("success", "failed") else None


@pytest.fixture(scope="module")
def trained(stack: SessionStack) -> Iterator[Trained]:
    environment = stack.require("kafka", "mlflow", "airflow").environment()
    plan = load_plan("card_fraud")
    lake_folder = Path(environment["PENSTOCK_LAKE_URI"])
    shutil.rmtree(lake_folder, ignore_errors=True)
    write_history(PaymentWorld(3, 300, None, 1500, START), plan, START + timedelta(days=DAYS))
    url = stack.url("airflow-api-server")
    airflow = Airflow(url)
    run_id = airflow.trigger(TRAINING, CONF)
    state = wait_for("the end of the run", lambda: ended(airflow, TRAINING, run_id))
    assert (state, airflow.tasks(TRAINING, run_id)) == (
        "success",
        dict.fromkeys(airflow.tasks(TRAINING, run_id), "success"),
    )
    client = MlflowClient(environment["PENSTOCK_MLFLOW_URI"])
    bootstrap = environment["PENSTOCK_KAFKA_BOOTSTRAP"]
    yield Trained(airflow, url, run_id, plan, client, bootstrap)
    client.delete_registered_model(plan.name)
    shutil.rmtree(lake_folder)


def test_training_run_registers_a_judged_version(trained: Trained) -> None:
    assert list(trained.airflow.tasks(TRAINING, trained.run_id)) == [
        "backfill",
        "gate",
        "publish",
        "dataset",
        "train",
        "evaluate",
        "promote",
        "compile_engines",
    ]
    [version] = trained.mlflow.search_model_versions(f"name = '{trained.plan.name}'")
    assert version.tags["decision"] in ("promoted", "refused")
    assert version.tags["feature_fingerprint"] == trained.plan.fingerprint
    events = lake.read("events", columns=["event_id"])
    assert lake.read("feature_backfill", columns=["event_id"]).num_rows == events.num_rows


def test_browser_shows_both_dags_and_a_green_run(trained: Trained, tmp_path: Path) -> None:
    folder = PROJECT / ".penstock" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            headless=True,
            args=list(FLAGS),
            viewport={"width": 1400, "height": 900},
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{trained.url}/dags")
        for dag in (TRAINING, RETRAINING):
            expect(page.get_by_text(dag).first).to_be_visible(timeout=60_000)
        page.screenshot(path=folder / "airflow-dags.png")
        page.goto(f"{trained.url}/dags/{TRAINING}/runs/{trained.run_id}")
        expect(page.get_by_text("Success").first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("compile_engines").first).to_be_visible(timeout=60_000)
        page.screenshot(path=folder / "airflow-run.png")
        context.close()
    assert (folder / "airflow-dags.png").stat().st_size > 10_000
    assert (folder / "airflow-run.png").stat().st_size > 10_000


def test_drift_event_starts_retraining_which_waits_for_labels(trained: Trained) -> None:
    plan, airflow = trained.plan, trained.airflow
    newest = START + timedelta(days=DAYS)
    backfill = lake.read("feature_backfill")
    lake.append("features", backfill.cast(lake.schema("features", plan)))
    admin = AdminClient({"bootstrap.servers": trained.bootstrap})
    if plan.drift_topic not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(plan.drift_topic, 1, 1)])[plan.drift_topic].result(10)
    seen = {"event_time": newest.isoformat(), "wall_time": datetime.now(UTC).isoformat()}
    producer = Producer({"bootstrap.servers": trained.bootstrap})
    runs_before = {run["dag_run_id"] for run in airflow.runs(RETRAINING)}
    champion = trained.mlflow.search_model_versions(f"name = '{plan.name}'")[0].version
    for feature_set in ("another_set", plan.name):
        event = {"feature_set": feature_set, "model_version": champion, "first_seen": seen}
        producer.produce(plan.drift_topic, json.dumps(event).encode())
    assert producer.flush(20) == 0

    def started() -> dict[str, Any] | None:
        new = [run for run in airflow.runs(RETRAINING) if run["dag_run_id"] not in runs_before]
        return new[0] if new else None

    run = wait_for("a run started by the event", started, 60)
    assert run["run_type"] == "asset_triggered"

    def waiting() -> dict[str, str] | None:
        tasks = airflow.tasks(RETRAINING, run["dag_run_id"])
        assert "failed" not in tasks.values(), tasks
        settled = tasks.get("drift_report") == "success"
        return tasks if settled and tasks.get("await_labels") == "deferred" else None

    tasks = wait_for("the wait for labels", waiting, 240)
    assert tasks["read_drift"] == "success"
    assert tasks["backfill"] == "none"
    assert [r["dag_run_id"] for r in airflow.runs(RETRAINING) if r not in runs_before]


def test_failing_gate_keeps_the_last_good_features(trained: Trained) -> None:
    plan, airflow = trained.plan, trained.airflow
    good = lake.open_table("feature_backfill")
    assert good is not None
    append_impossible_amounts(plan)
    run_id = airflow.trigger(TRAINING, CONF)
    state = wait_for("the end of the run", lambda: ended(airflow, TRAINING, run_id))
    tasks = airflow.tasks(TRAINING, run_id)
    assert (state, tasks["backfill"], tasks["gate"]) == ("failed", "success", "failed")
    assert {tasks[name] for name in ("publish", "dataset", "train", "promote")} == {
        "upstream_failed"
    }
    after = lake.open_table("feature_backfill")
    assert after is not None
    assert after.version() == good.version()


def append_impossible_amounts(plan: Plan) -> None:
    """Events that no contract would have let in, as a broken import might leave them."""
    events = lake.read("events")
    bad = events.slice(0, 500)
    ids = pa.array([f"bad-{i}" for i in range(bad.num_rows)])
    bad = bad.set_column(bad.schema.get_field_index("event_id"), "event_id", ids)
    field = next(f.name for f in plan.fields if f.type == "money")
    index = bad.schema.get_field_index(field)
    bad = bad.set_column(index, bad.schema.field(index), pc.negate(pc.add(bad[field], 1)))
    lake.append("events", bad.cast(lake.schema("events", plan)))

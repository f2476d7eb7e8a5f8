"""The DAGs in the stack's own Airflow: run by hand, seen in a browser, woken by Kafka, gated."""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from playwright.sync_api import expect, sync_playwright

from features import lake
from features.catalog import load_plan
from features.plan import Plan
from penstock.demo.airflow import Airflow
from penstock.generator.history import write_history
from penstock.generator.payments import PaymentWorld
from tests.conftest import PROJECT, SessionStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

START = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 24
END = START + timedelta(days=DAYS)
CONF = {"train_days": 10, "validation_days": 3, "gap_days": 0, "epochs": 4}
TRAINING, RETRAINING = "card_fraud_training", "card_fraud_retrain_on_drift"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
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
    mlflow_url: str
    bootstrap: str


def wait_for(condition: Callable[[], Any], describe: Callable[[], object], within_s: float) -> Any:
    """What `condition` gives once it is true; fails with what `describe` says."""
    deadline = time.monotonic() + within_s
    while True:
        # While the machine is busy with the run itself, an answer may come too late, and a run that
        # is just being made is a 500.
        with contextlib.suppress(httpx.TimeoutException, httpx.HTTPStatusError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {describe()}"
        time.sleep(2)


def end_of_run(airflow: Airflow, dag: str, run_id: str) -> str:
    """The state in which a run ends."""

    def ended() -> str | None:
        [run] = [run for run in airflow.runs(dag) if run["dag_run_id"] == run_id]
        return run["state"] if run["state"] in ("success", "failed") else None

    state: str = wait_for(ended, lambda: airflow.tasks(dag, run_id), 800)
    return state


@pytest.fixture(scope="module")
def trained(stack: SessionStack) -> Iterator[Trained]:
    environment = stack.require("kafka", "mlflow", "airflow").environment()
    plan = load_plan("card_fraud")
    lake_folder = Path(environment["PENSTOCK_LAKE_URI"])
    shutil.rmtree(lake_folder, ignore_errors=True)
    write_history(PaymentWorld(3, 300, None, 1500, START), plan, END)
    url = stack.url("airflow-api-server")
    airflow = Airflow(url)
    run_id = airflow.trigger(TRAINING, CONF)
    state = end_of_run(airflow, TRAINING, run_id)
    assert (state, airflow.tasks(TRAINING, run_id)) == (
        "success",
        dict.fromkeys(airflow.tasks(TRAINING, run_id), "success"),
    )
    mlflow_url = f"{environment['PENSTOCK_MLFLOW_URI']}/api/2.0/mlflow"
    bootstrap = environment["PENSTOCK_KAFKA_BOOTSTRAP"]
    yield Trained(airflow, url, run_id, plan, mlflow_url, bootstrap)
    httpx.request(
        "DELETE", f"{mlflow_url}/registered-models/delete", json={"name": plan.name}, timeout=60
    ).raise_for_status()
    airflow.close()
    shutil.rmtree(lake_folder)


def only_version(trained: Trained) -> dict[str, Any]:
    """The version that the run has registered, and no other one."""
    wanted = {"filter": f"name = '{trained.plan.name}'"}
    answer = httpx.get(f"{trained.mlflow_url}/model-versions/search", params=wanted, timeout=60)
    [version] = answer.raise_for_status().json()["model_versions"]
    version["tags"] = {tag["key"]: tag["value"] for tag in version["tags"]}
    found: dict[str, Any] = version
    return found


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
    tags = only_version(trained)["tags"]
    assert tags["decision"] in ("promoted", "refused")
    assert tags["feature_fingerprint"] == trained.plan.fingerprint
    events = lake.read("events", columns=["event_id"])
    assert lake.read("feature_backfill", columns=["event_id"]).num_rows == events.num_rows


def test_browser_shows_both_dags_and_a_green_run(trained: Trained, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on this machine")
    folder = PROJECT / ".penstock" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=browser,
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


@pytest.fixture(scope="module")
def woken(trained: Trained) -> dict[str, Any]:
    """The run that a drift event of this feature set has started; it waits for labels."""
    plan, airflow = trained.plan, trained.airflow
    live = lake.read("feature_backfill").cast(lake.schema("features", plan))
    lake.append("features", live)
    admin = AdminClient({"bootstrap.servers": trained.bootstrap})
    if plan.drift_topic not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(plan.drift_topic, 1, 1)])[plan.drift_topic].result(10)
    seen = {"event_time": END.isoformat(), "wall_time": datetime.now(UTC).isoformat()}
    version = only_version(trained)["version"]
    before = {run["dag_run_id"] for run in airflow.runs(RETRAINING)}
    producer = Producer({"bootstrap.servers": trained.bootstrap})
    for name in ("another_set", plan.name):
        event = {"feature_set": name, "model_version": version, "first_seen": seen}
        producer.produce(plan.drift_topic, json.dumps(event).encode())
    assert producer.flush(20) == 0

    def started() -> list[dict[str, Any]]:
        return [run for run in airflow.runs(RETRAINING) if run["dag_run_id"] not in before]

    found: list[dict[str, Any]] = wait_for(started, lambda: airflow.runs(RETRAINING), 90)
    return found[0]


def test_drift_event_starts_retraining_which_waits_for_labels(
    trained: Trained, woken: dict[str, Any]
) -> None:
    assert woken["run_type"] == "asset_triggered"
    # Airflow shows a run a moment before the events that started it.
    events = wait_for(
        lambda: upstream_events(trained, woken["dag_run_id"]), lambda: "no asset event", 30
    )
    assert [event["extra"]["payload"]["feature_set"] for event in events] == [trained.plan.name]

    def waiting() -> dict[str, str] | None:
        tasks = trained.airflow.tasks(RETRAINING, woken["dag_run_id"])
        assert "failed" not in tasks.values(), tasks
        settled = (tasks.get("drift_report"), tasks.get("await_labels")) == ("success", "deferred")
        return tasks if settled else None

    tasks = wait_for(waiting, lambda: trained.airflow.tasks(RETRAINING, woken["dag_run_id"]), 240)
    assert (tasks["read_drift"], tasks["backfill"]) == ("success", "none")


def test_labels_end_the_wait_and_a_bad_batch_stops_at_the_gate(
    trained: Trained, woken: dict[str, Any]
) -> None:
    plan, airflow, run_id = trained.plan, trained.airflow, woken["dag_run_id"]
    good = lake.open_table("feature_backfill")
    assert good is not None
    append_impossible_amounts(plan, later=timedelta(days=DAYS + 1))
    state = end_of_run(airflow, RETRAINING, run_id)
    tasks = airflow.tasks(RETRAINING, run_id)
    assert (state, tasks["await_labels"]) == ("failed", "success")
    assert (tasks["backfill"], tasks["gate"]) == ("success", "failed")
    assert {tasks[name] for name in ("publish", "dataset", "train", "promote")} == {
        "upstream_failed"
    }
    assert re.search(r"amount .*\(500 rows\)", log_of(trained, run_id, "gate"))
    after = lake.open_table("feature_backfill")
    assert after is not None
    assert after.version() == good.version()


def append_impossible_amounts(plan: Plan, later: timedelta) -> None:
    """Events that no contract would have let in, as a broken import might leave them."""
    # The newest, so that they also move the lake past what the run waits for.
    bad = lake.read("events").sort_by([("event_time", "descending")]).slice(0, 500).to_pandas()
    bad["event_id"] = [f"bad-{i}" for i in range(len(bad))]
    bad["event_time"] += later
    bad["event_date"] = bad["event_time"].dt.date
    field = next(field.name for field in plan.fields if field.type == "money")
    bad[field] = -1 - bad[field]
    schema = lake.schema("events", plan)
    lake.append("events", pa.Table.from_pandas(bad, schema=schema, preserve_index=False))


def api(trained: Trained, path: str) -> httpx.Response:
    token = httpx.get(f"{trained.url}/auth/token", timeout=60).json()["access_token"]
    url = f"{trained.url}/api/v2/dags/{RETRAINING}/dagRuns/{path}"
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    return httpx.get(url, headers=headers, timeout=60).raise_for_status()


def upstream_events(trained: Trained, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api(trained, f"{run_id}/upstreamAssetEvents").json()[
        "asset_events"
    ]
    return found


def log_of(trained: Trained, run_id: str, task: str) -> str:
    return api(trained, f"{run_id}/taskInstances/{task}/logs/1").text

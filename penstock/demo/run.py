"""The demonstration: the whole job in order, on the real local stack.

History is written to the lake and trained on by Airflow; the stages take the history over; live
payments flow on a scaled clock; drift is switched on; Alertmanager pages; Airflow, woken by the
drift event, retrains; the new champion scores. Nothing in the report is set here: every figure is
read back from the topics, the lake, MLflow, Airflow, Prometheus and the receiver of pages.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from features.catalog import load_plan
from features.errors import PenstockError
from features.plan import Plan
from features.settings import settings
from penstock.demo import report as report_page
from penstock.demo.airflow import Airflow
from penstock.demo.measure import Figures, measure
from penstock.demo.sampler import Sampler
from penstock.demo.view import View
from penstock.generator.faults import Faults
from penstock.generator.history import payments_per_day, save_world, write_history
from penstock.generator.live import LiveReport, LiveRun
from penstock.generator.payments import PaymentWorld
from penstock.stack.stack import Stack

HISTORY_DAYS = 100
"""67 days fill the longest window, 30 are learned from and 3 judge."""

SCALE = 28_800
"""Seconds of event time a real second: three seconds are a day."""

HISTORY_START = datetime(2026, 1, 5, tzinfo=UTC)
"""A fixed Monday, so that a seed gives the same payments on any day."""

DRIFT_AFTER_S = 24
"""The live watch compares whole weeks, and a week takes 21 seconds."""

LONGEST_LIVE_S = 480
"""A slow machine takes longer to retrain; live payments end soon after the decision."""

SCORES_BY_NEW_CHAMPION = 2_000
PIPELINE_PARAMS = {"validation_days": 3}

BEFORE_HISTORY = ("infra", "airflow")
SERVICES = ("services",)


@dataclass(frozen=True)
class Options:
    """What a user can change about a run."""

    seed: int
    customers: int
    rate: int
    seconds: int
    keep: bool


def run_demo(options: Options) -> dict[str, Any]:
    """Run everything and return the report.

    Raises:
        PenstockError: a step failed; the message says which and where to look.
    """
    began = time.monotonic()
    home = settings().home
    stack = Stack(home, Path.cwd())
    if any(part.pid for part in stack.status().parts):
        raise PenstockError("the stack is up; take it down first: penstock down")
    _forget_last_run(home)
    view = View()
    sampler = Sampler(stack)
    try:
        with view.showing():
            result = _Demo(options, stack, view, sampler).run()
        result["seconds"]["total"] = round(time.monotonic() - began, 1)
        plots = result.pop("plots")
        page = report_page.write(home / "demo", result, plots)
    finally:
        sampler.stop()
        if not options.keep:
            stack.down(lambda line: view.console.print(line, style="dim"))
    console = Console(stderr=True)
    report_page.print_summary(console, result, page)
    if options.keep:
        console.print("The stack is up; `penstock down` ends it.")
    broken = [name for name, _, holds in report_page.promises(result) if not holds]
    if broken:
        raise PenstockError(f"the demo ran, but a promise does not hold: {', '.join(broken)}")
    return result


def _forget_last_run(home: Path) -> None:
    """A demo starts from nothing; what was downloaded stays, and so does what no demo made."""
    import shutil

    mark = home / "demo"
    if not mark.exists() and ((home / "lake").exists() or (home / "mlflow").exists()):
        raise PenstockError(
            f"{home} holds data that no demo made, and a demo starts from nothing; move it away "
            "or give the demo a folder of its own: PENSTOCK_HOME=.demo make demo"
        )
    for entry in home.iterdir() if home.is_dir() else ():
        if entry.name in ("cache", ".lock"):
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    mark.mkdir(parents=True)


class _Demo:
    def __init__(self, options: Options, stack: Stack, view: View, sampler: Sampler) -> None:
        self._options = options
        self._stack = stack
        self._view = view
        self._sampler = sampler
        self._plan: Plan = load_plan(settings().feature_set)

    def run(self) -> dict[str, Any]:
        """Every step, in order."""
        view, plan, options = self._view, self._plan, self._options
        with view.step("start Kafka, registry, Redis, MLflow, Prometheus, Alertmanager, Airflow"):
            self._stack.up(BEFORE_HISTORY, view.note)
            os.environ.update(self._stack.environment())
            settings.cache_clear()
        self._sampler.start()
        world, history_end = self._history()
        airflow = Airflow(self._stack.url("airflow-api-server"))
        with view.step("train the first model in Airflow, fold history into the stages"):
            dag = f"{plan.name}_training"
            run_id = airflow.trigger(dag, PIPELINE_PARAMS | {"seed": options.seed})
            self._bootstrap()
            self._wait_for_run(airflow, dag, run_id)
            airflow.unpause(f"{plan.name}_retrain_on_drift")
        before = self._champion()
        with view.step("start ingest, stages, online store, scorer, lake sink"):
            self._stack.up(SERVICES, view.note)
        live_began = time.time()
        with view.step("stream live payments; drift, alert, retraining"):
            self._live(airflow, world, history_end, before)
        with view.step("wait until everything is scored and stored"):
            self._drain()
        with view.step("compare the stream with the backfill, read the figures"):
            figures = Figures(
                live_began=live_began,
                champion_before=before,
                seed=options.seed,
                peak_pss_mib=self._sampler.peak_pss_mib,
            )
            return measure(plan, self._stack, airflow, figures, view.note)

    def _history(self) -> tuple[PaymentWorld, datetime]:
        from features.store import apply as apply_store
        from streaming.topics import ensure

        options, end = self._options, HISTORY_START + timedelta(days=HISTORY_DAYS)
        world = PaymentWorld(
            seed=options.seed,
            customers=options.customers,
            terminals=None,
            payments_per_day=payments_per_day(options.rate, SCALE),
            start=HISTORY_START,
        )
        with self._view.step("create topics, schemas and Feast objects"):
            ensure(self._plan)
            apply_store(self._plan)
        with self._view.step(f"write {HISTORY_DAYS} days of history to the lake"):
            write_history(world, self._plan, end)
        return world, end

    def _bootstrap(self) -> None:
        from streaming.bootstrap import bootstrap

        bootstrap(self._plan, self._view.note)

    def _wait_for_run(self, airflow: Airflow, dag: str, run_id: str) -> None:
        while True:
            run = next(r for r in airflow.runs(dag) if r["dag_run_id"] == run_id)
            self._view.note(_progress(airflow.tasks(dag, run_id)))
            if run["state"] == "success":
                return
            if run["state"] == "failed":
                raise PenstockError(
                    f"the run {run_id} of {dag} failed; see its tasks at "
                    f"{self._stack.url('airflow-api-server')}/dags/{dag}/runs/{run_id}"
                )
            time.sleep(1)

    def _live(self, airflow: Airflow, world: PaymentWorld, start: datetime, before: str) -> None:
        """Stream until the retraining has been decided and its winner has scored for a while."""
        live = LiveRun(
            world, self._plan, start, SCALE, LONGEST_LIVE_S, Faults(), self._options.seed
        )
        stop = threading.Event()
        failure: list[BaseException] = []

        def send() -> None:
            try:
                live.run(self._show_live, stop)
            except PenstockError as error:
                failure.append(error)

        sender = threading.Thread(target=send, name="live payments")
        began = time.monotonic()
        sender.start()
        dag = f"{self._plan.name}_retrain_on_drift"
        decided = False
        try:
            while sender.is_alive():
                elapsed_s = time.monotonic() - began
                if elapsed_s >= DRIFT_AFTER_S and live.report.drift_at is None:
                    live.drift_on()
                self._show_alerts()
                runs = airflow.runs(dag)
                if runs:
                    self._view.note(_progress(airflow.tasks(dag, runs[0]["dag_run_id"])))
                    if runs[0]["state"] == "failed":
                        raise PenstockError(f"the run of {dag} failed; see it in the Airflow UI")
                    decided = runs[0]["state"] == "success"
                if decided and elapsed_s >= self._options.seconds:
                    after = self._champion()
                    scored = self._sampler.scored_by(after)
                    if after == before or scored >= SCORES_BY_NEW_CHAMPION:
                        break
                time.sleep(1)
        finally:
            stop.set()
            sender.join()
        if failure:
            raise failure[0]
        save_world(live.world, live.report.until)
        if not decided:
            raise PenstockError(
                f"{dag} did not finish within {LONGEST_LIVE_S} s of live payments; "
                "see the Airflow UI, or run with more resources"
            )

    def _show_live(self, report: LiveReport) -> None:
        self._view.figures = {
            "event time": f"{report.event_time:%a %d %b %H:%M}",
            "sent": f"{report.payments:,}",
            "broken": str(report.broken.total()),
            "late": str(report.late),
            "labels": f"{report.labels:,}",
            "drift": "on" if report.drift_at else "off",
            **self._sampler.figures(),
        }

    def _show_alerts(self) -> None:
        known = len(self._view.alerts)
        for page in self._sampler.pages()[known:]:
            names = {alert["labels"]["alertname"] for alert in page["page"]["alerts"]}
            self._view.alert(f"{page['received']} {page['page']['status']}: {', '.join(names)}")

    def _drain(self) -> None:
        """Everything sent has an outcome, and the lake has it."""
        from penstock.demo.topics import account

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = account(self._plan)
            stored = self._sampler.lake_rows("scores")
            missing = len(found.missing)
            self._view.note(f"{missing} records without an outcome, {stored} scores in the lake")
            if not missing and stored >= len(found.scored):
                return
            time.sleep(2)

    def _champion(self) -> str:
        from training.registry import Registry

        champion = Registry().champion(self._plan.name)
        return champion.version if champion else ""


def _progress(tasks: dict[str, str]) -> str:
    done = sum(state in ("success", "skipped") for state in tasks.values())
    running = [name for name, state in tasks.items() if state in ("running", "queued", "deferred")]
    return f"{done} of {len(tasks)} tasks done: {', '.join(running) or 'scheduling'}"

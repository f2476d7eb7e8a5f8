"""Reads every figure of the report from the running system, after the live payments."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from features import backfill, parity
from features.plan import Plan
from penstock.demo.airflow import Airflow
from penstock.demo.quality import judge
from penstock.demo.sampler import Sampler
from penstock.demo.topics import account
from penstock.stack.stack import Stack
from streaming.broker import read_all


@dataclass(frozen=True)
class Figures:
    """What only the run itself could see: its beginning, and the stack's highest memory."""

    live_began: float
    champion_before: str
    seed: int
    peak_pss_mib: float


def measure(
    plan: Plan, stack: Stack, airflow: Airflow, figures: Figures, say: Callable[[str], None]
) -> dict[str, Any]:
    """The report, with its plots under `plots`."""
    live_ended = time.time()
    sampler = Sampler(stack)
    say("accounting for every raw record")
    found = account(plan)
    say("computing every feature again from the lake")
    backfill.backfill(plan, say=say)
    compared = parity.measure(plan)
    judged = judge(plan)
    drift_events = [msgspec.json.decode(m.value()) for m in read_all(plan.drift_topic)]
    pages = [
        page
        for page in sampler.pages()
        if any(a["labels"]["alertname"] == "PenstockDrift" for a in page["page"]["alerts"])
    ]
    dead = Counter(reason for reasons in found.dead.values() for reason in reasons)
    matched = sum(found.dead.get(o, []) == [reason] for o, reason in found.broken.items())
    return {
        "seed": figures.seed,
        "events": {
            "produced": len(found.produced),
            "scored": len(found.scored),
            "missing": len(found.missing),
            "duplicated": found.duplicated,
            "dropped_as_duplicate": len(found.duplicates),
            "late": len(found.late),
        },
        "dead_letters": {
            "sent": len(found.broken),
            "found": matched,
            "by_reason": dict(sorted(dead.items())),
        },
        "parity": compared,
        "quality": {
            "rows": len(judged.label),
            "frauds": int(judged.label.sum()),
            "average_precision": judged.average_precision(),
            "rule": "amount > 220",
            "rule_average_precision": judged.rule_average_precision,
        },
        "airflow": {"runs": _runs(airflow, plan)},
        "drift": {
            "first_seen": drift_events[0]["first_seen"]["wall_time"] if drift_events else None,
            "first_seen_event_time": (
                drift_events[0]["first_seen"]["event_time"] if drift_events else None
            ),
            "alert_received": pages[0]["received"] if pages else None,
        },
        "champion": _champion(plan, figures.champion_before),
        "latency_ms": {"p50": found.percentile_ms(50), "p99": found.percentile_ms(99)},
        "throughput_eps": round(found.scores_per_second, 1),
        "stack": {"pss_mib": round(figures.peak_pss_mib, 1)},
        "seconds": {},
        "urls": {
            "Airflow": stack.url("airflow-api-server"),
            "MLflow": stack.url("mlflow"),
            "Prometheus": stack.url("prometheus"),
        },
        "plots": _plots(sampler, figures.live_began, live_ended),
    }


def _runs(airflow: Airflow, plan: Plan) -> list[dict[str, Any]]:
    found = []
    for dag in (f"{plan.name}_training", f"{plan.name}_retrain_on_drift"):
        for run in airflow.runs(dag):
            ended, started = run["end_date"], run["start_date"]
            seconds = (
                (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
                if ended and started
                else None
            )
            found.append(
                {
                    "dag_id": dag,
                    "run_id": run["dag_run_id"],
                    "state": run["state"],
                    "trigger": run["run_type"],
                    "seconds": seconds,
                }
            )
    return found


def _champion(plan: Plan, before: str) -> dict[str, Any]:
    """Who scored before and after, and what the gate said about the newest version."""
    from training.registry import Registry

    registry = Registry()
    champion = registry.champion(plan.name)
    newest = max(
        registry.client.search_model_versions(f"name = '{plan.name}'"),
        key=lambda version: int(version.version),
    )
    return {
        "before": before,
        "after": champion.version if champion else "",
        "decision": newest.tags.get("decision", ""),
        "reason": newest.tags.get("decision_reason", ""),
    }


def _plots(sampler: Sampler, start: float, end: float) -> dict[str, Any]:
    def line(name: str, expression: str) -> dict[str, Any]:
        found = list(sampler.series(expression, start, end).values())
        return {name: found[0]} if found else {}

    latency = "sum by (le) (rate(penstock_score_latency_seconds_bucket[10s]))"
    return {
        "Scores per second, by model version": sampler.series(
            "sum by (model_version) (rate(penstock_scored_total[5s]))", start, end, "model_version"
        ),
        "Latency from broker to score, seconds": line("p50", f"histogram_quantile(0.5, {latency})")
        | line("p99", f"histogram_quantile(0.99, {latency})"),
        "Drift by column (population stability index)": sampler.series(
            "topk(6, penstock_drift_psi)", start, end, "column"
        ),
        "Blocked and reviewed payments per second": sampler.series(
            'sum by (decision) (rate(penstock_scored_total{decision!="approve"}[10s]))',
            start,
            end,
            "decision",
        ),
    }

"""Alert rules and routing, kept as data and rendered to what Prometheus and Alertmanager read.

Every alert says how bad it is, what is wrong in one line, what that means, and which runbook to
open; `monitoring/runbooks/<alert>.md` exists for each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICES = ("ingest", "stages", "online-store", "scorer", "lake-sink", "page-recorder")
"""The scrape jobs that are ours."""


@dataclass(frozen=True)
class Alert:
    """One alerting rule; `hold` is how long `expression` must be true, in Prometheus's form."""

    name: str
    expression: str
    hold: str
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """The runbook's path in the repository."""
        return f"monitoring/runbooks/{self.name}.md"


ALERTS = (
    Alert(
        name="PenstockDrift",
        expression=(
            "penstock_drift_psi > on (job, instance) group_left () penstock_drift_threshold_psi"
        ),
        hold="5s",
        severity="warning",
        summary="{{ $labels.column }} has drifted from the champion's reference",
        description=(
            "The population stability index of {{ $labels.column }} over the last week of event "
            'time is {{ $value | printf "%.2f" }}. A drift event has woken the retraining.'
        ),
    ),
    Alert(
        name="PenstockServiceDown",
        expression=f'up{{job=~"{"|".join(SERVICES)}"}} == 0',
        # The supervisor starts a service again within seconds, and a stack that is being laid out
        # starts them last: neither needs anybody.
        hold="2m",
        severity="critical",
        summary="{{ $labels.job }} does not answer",
        description=(
            "Prometheus has not read {{ $labels.job }} at {{ $labels.instance }} for 2 minutes. "
            "Its log keeps growing and is read on from its last commit when it is back."
        ),
    ),
    Alert(
        name="PenstockDeadLetterRate",
        expression=(
            "sum by (topic) (rate(penstock_dead_letters_total[1m]))"
            " / sum by (topic) (rate(penstock_ingest_records_total[1m])) > 0.05"
            " and sum by (topic) (increase(penstock_dead_letters_total[1m])) > 5"
        ),
        hold="15s",
        severity="warning",
        summary="{{ $value | humanizePercentage }} of {{ $labels.topic }} breaks its contract",
        description=(
            "More than 5% of the messages of the last minute went to {{ $labels.topic }}.dlq. "
            "The rest is scored; the refused ones are not."
        ),
    ),
)


def write_rules(folder: Path) -> Path:
    """Writes `penstock.yml`, the rule file for Prometheus, and returns its path."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.hold,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook": alert.runbook,
            },
        }
        for alert in ALERTS
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "penstock.yml"
    content = {"groups": [{"name": "penstock", "rules": rules}]}
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=1000))
    return path


def alertmanager_config(webhook_url: str) -> dict[str, Any]:
    """Alertmanager's configuration: one page per alert name, sent to `webhook_url`.

    Alerts of one name that begin within a second are one page: a drift moves several columns.
    """
    return {
        "route": {
            "receiver": "pages",
            "group_by": ["alertname"],
            "group_wait": "1s",
            "group_interval": "10s",
            "repeat_interval": "4h",
        },
        "receivers": [
            {"name": "pages", "webhook_configs": [{"url": webhook_url, "send_resolved": True}]}
        ],
    }

"""The rules as Prometheus and Alertmanager themselves understand them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import monitoring.metrics  # noqa: F401  registers the metrics
from monitoring.rules import ALERTS, SERVICES, alertmanager_config, write_rules
from penstock.stack.services import SERVICE_PARTS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def promtool(stack):
    stack.require("prometheus")
    return shutil.which("promtool")


@pytest.fixture
def amtool(stack):
    stack.require("alertmanager")
    return shutil.which("amtool")


def series(name, values):
    return {"series": name, "values": values}


# Per alert: a stretch that must fire, a stretch that must stay quiet, and the firing labels.
CASES = {
    "PenstockDrift": {
        "fires": [
            series('penstock_drift_psi{job="scorer",instance="a",column="amount"}', "0.1x5 0.5x30"),
            series('penstock_drift_psi{job="scorer",instance="a",column="night"}', "0x35"),
            series('penstock_drift_threshold_psi{job="scorer",instance="a"}', "0.2x35"),
        ],
        "quiet": [
            series('penstock_drift_psi{job="scorer",instance="a",column="amount"}', "0.19x35"),
            series('penstock_drift_threshold_psi{job="scorer",instance="a"}', "0.2x35"),
        ],
        "labels": {"column": "amount", "job": "scorer", "instance": "a"},
        "summary": "amount has drifted from the champion's reference",
    },
    "PenstockServiceDown": {
        "fires": [series('up{job="ingest",instance="a"}', "1x5 0x30")],
        "quiet": [
            series('up{job="ingest",instance="a"}', "1x5 0x5 1x25"),
            series('up{job="elsewhere",instance="b"}', "0x35"),
        ],
        "labels": {"job": "ingest", "instance": "a"},
        "summary": "ingest does not answer",
    },
    "PenstockDeadLetterRate": {
        "fires": [
            series('penstock_dead_letters_total{topic="t",reason="not_json"}', "0+1x35"),
            series('penstock_dead_letters_total{topic="t",reason="empty"}', "0+1x35"),
            series('penstock_ingest_records_total{topic="t",outcome="accepted"}', "0+8x35"),
            series('penstock_ingest_records_total{topic="t",outcome="dead_letter"}', "0+2x35"),
        ],
        "quiet": [
            series('penstock_dead_letters_total{topic="t",reason="not_json"}', "0+1x35"),
            series('penstock_ingest_records_total{topic="t",outcome="accepted"}', "0+99x35"),
            series('penstock_ingest_records_total{topic="t",outcome="dead_letter"}', "0+1x35"),
        ],
        "labels": {"topic": "t"},
        "summary": "20% of t breaks its contract",
    },
}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
@pytest.mark.parametrize("stretch", ["fires", "quiet"])
def test_alert_fires_when_it_must_and_stays_quiet_otherwise(alert, stretch, promtool, tmp_path):
    case = CASES[alert.name]
    expected = []
    if stretch == "fires":
        expected = [
            {
                "exp_labels": case["labels"] | {"severity": alert.severity},
                "exp_annotations": {"summary": case["summary"]},
            }
        ]
    rules = yaml.safe_load(write_rules(tmp_path).read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    unit = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1s",
        "tests": [
            {
                "interval": "5s",
                "input_series": case[stretch],
                "alert_rule_test": [
                    {"eval_time": "150s", "alertname": alert.name, "exp_alerts": expected}
                ],
            }
        ],
    }
    (tmp_path / "unit.yml").write_text(yaml.safe_dump(unit))
    told = subprocess.run(
        [promtool, "test", "rules", "unit.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_has_a_case_a_severity_and_a_runbook_about_it():
    assert set(CASES) == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        assert alert.severity in ("warning", "critical")
        assert (REPOSITORY / alert.runbook).read_text().startswith(f"# {alert.name}\n")
    runbooks = {path.stem for path in (REPOSITORY / "monitoring" / "runbooks").glob("*.md")}
    assert runbooks == {alert.name for alert in ALERTS}


def test_every_metric_a_rule_reads_is_one_we_expose():
    exposed = {
        name
        for collector in REGISTRY.collect()
        for name in (collector.name, f"{collector.name}_total")
    }
    for alert in ALERTS:
        for name in re.findall(r"penstock_\w+", alert.expression):
            assert name in exposed


def test_the_rules_and_the_routing_pass_their_own_checkers(promtool, amtool, tmp_path):
    rules = write_rules(tmp_path)
    routing = tmp_path / "alertmanager.yml"
    routing.write_text(yaml.safe_dump(alertmanager_config("http://127.0.0.1:9/pages")))
    for command in (
        [promtool, "check", "rules", "--lint-fatal", str(rules)],
        [amtool, "check-config", str(routing)],
    ):
        told = subprocess.run(command, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout + told.stderr


def test_the_services_that_are_watched_are_those_the_stack_scrapes():
    assert {part.name for part in SERVICE_PARTS} == set(SERVICES)

"""Configuration of Prometheus and Alertmanager: what is scraped, which rules, who is paged."""

import tempfile
from pathlib import Path

import yaml

from monitoring.rules import alertmanager_config, write_rules
from penstock.stack.services import SERVICE_PARTS
from penstock.stack.site import Site

# Scores are made in milliseconds: a page should not wait for the next quarter of a minute.
_INTERVAL = "1s"


def prometheus_files(site: Site) -> dict[str, str]:
    """`prometheus.yml` and the rule files it names."""
    with tempfile.TemporaryDirectory() as folder:
        write_rules(Path(folder))
        rules = {f"rules/{path.name}": path.read_text() for path in Path(folder).iterdir()}
    scrape = [
        {
            "job_name": part.name,
            "static_configs": [{"targets": [site.address(part.name, "metrics")]}],
        }
        for part in SERVICE_PARTS
    ]
    configuration = {
        "global": {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL},
        "rule_files": ["rules/*"],
        "alerting": {
            "alertmanagers": [
                {"static_configs": [{"targets": [site.address("alertmanager", "http")]}]}
            ]
        },
        "scrape_configs": scrape,
    }
    return {"prometheus.yml": yaml.safe_dump(configuration, sort_keys=False)} | rules


def alertmanager_files(site: Site) -> dict[str, str]:
    """`alertmanager.yml`, which sends every page to the page recorder."""
    webhook = f"http://{site.address('page-recorder', 'http')}/pages"
    return {"alertmanager.yml": yaml.safe_dump(alertmanager_config(webhook), sort_keys=False)}

"""From a metric to a recorded page, through a real Prometheus and a real Alertmanager."""

import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from monitoring.rules import SERVICES

PATIENCE_S = 90.0


def free_service_port(stack):
    """The metrics port of a service that is not running, which Prometheus reads all the same."""
    for service in SERVICES:
        port = stack.port(service, "metrics")
        try:
            httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2)
        except httpx.ConnectError:
            return port
    raise AssertionError("every service of the stack is running")


def wait_for_page(stack, matches):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for page in httpx.get(
            f"http://127.0.0.1:{stack.port('page-recorder', 'http')}/pages"
        ).json():
            for alert in page["page"]["alerts"]:
                if matches(page["page"], alert):
                    return page, alert
        time.sleep(0.3)
    raise AssertionError(f"no such page after {PATIENCE_S:g} s")


@pytest.mark.slow
def test_a_drift_is_paged_and_its_end_as_well(stack):
    stack.require("prometheus", "alertmanager", "page-recorder")
    registry = CollectorRegistry()
    psi = Gauge("penstock_drift_psi", "as the scorer shows it", ["column"], registry=registry)
    limit = Gauge("penstock_drift_threshold_psi", "as the scorer shows it", registry=registry)
    limit.set(0.2)
    psi.labels("height").set(0.7)
    psi.labels("width").set(0.1)
    server, thread = start_http_server(free_service_port(stack), "127.0.0.1", registry)
    try:

        def of_height(status):
            return lambda _, alert: (
                alert["labels"]["alertname"] == "PenstockDrift"
                and alert["labels"].get("column") == "height"
                and alert["status"] == status
            )

        page, alert = wait_for_page(stack, of_height("firing"))
        assert page["received"].endswith("Z")
        assert alert["annotations"]["summary"].startswith("height has drifted")
        assert alert["annotations"]["runbook"] == "monitoring/runbooks/PenstockDrift.md"
        columns = {a["labels"].get("column") for a in page["page"]["alerts"]}
        assert "width" not in columns
        psi.labels("height").set(0.05)
        wait_for_page(stack, of_height("resolved"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

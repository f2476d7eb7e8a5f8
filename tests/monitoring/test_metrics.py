"""The page of metrics, in a process of its own: it serves until the process ends."""

import re
import socket
import subprocess
import sys

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.parser import text_string_to_metric_families

from monitoring import metrics

SHOW = """
import sys, urllib.request
from monitoring import metrics
port = int(sys.argv[1])
metrics.serve(0)
metrics.INGEST_RECORDS.labels("things", "accepted").inc(3)
metrics.serve(port)
print(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
try:
    metrics.serve(port)
except ValueError as error:
    print(error, file=sys.stderr)
"""


def shown() -> tuple[dict[str, Metric], str, int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    told = subprocess.run(
        [sys.executable, "-c", SHOW, str(port)], capture_output=True, text=True, check=True
    )
    families = {family.name: family for family in text_string_to_metric_families(told.stdout)}
    return families, told.stderr, port


def test_metrics_are_shown_and_a_taken_port_is_told_in_words():
    families, complaint, port = shown()
    (sample,) = [s for s in families["penstock_ingest_records"].samples if s.name.endswith("total")]
    assert (sample.labels, sample.value) == ({"topic": "things", "outcome": "accepted"}, 3)
    assert f"127.0.0.1:{port}" in complaint
    assert "PENSTOCK_METRICS_PORT" in complaint
    ours = [family for name, family in families.items() if name.startswith("penstock_")]
    assert len(ours) > 20
    for family in ours:
        assert re.fullmatch(r"penstock_[a-z_]+", family.name)
        assert family.documentation


def test_observing_all_at_once_is_observing_each() -> None:
    at_once, one_by_one = (
        Histogram("seconds", "of something", buckets=(0.1, 1.0), registry=CollectorRegistry())
        for _ in range(2)
    )
    values = np.array([0.0, 0.1, 0.1000001, 1.0, 7.5])
    metrics.observe_all(at_once, values)
    metrics.observe_all(at_once, np.empty(0))
    for value in values.tolist():
        one_by_one.observe(value)
    samples = [
        [(s.labels, s.value) for s in h.collect()[0].samples if s.name != "seconds_created"]
        for h in (at_once, one_by_one)
    ]
    assert samples[0] == samples[1]

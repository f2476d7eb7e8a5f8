"""Every metric Penstock exposes: name, unit, labels and meaning, in one place.

Units stand in the names. Counters gain `_total` when they are exposed. The labels `job` and
`instance` are added by Prometheus; `job` is the service: ingest, stages, online-store, scorer,
lake-sink.
"""

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Gauge, Histogram, start_http_server

LATENCY_BUCKETS_S = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Dense around the promised tenths of a second, open towards an outage."""

# Any service that reads a log
CONSUMER_LAG_MESSAGES = Gauge(
    "penstock_consumer_lag_messages",
    "Messages between the consumer's position and the end of the partition.",
    ["topic", "partition"],
)
DEAD_LETTERS = Counter(
    "penstock_dead_letters",
    "Messages sent to the dead-letter topic of `topic`, by stable reason code.",
    ["topic", "reason"],
)

# ingest
INGEST_RECORDS = Counter(
    "penstock_ingest_records",
    "Raw messages read, by outcome: accepted, late, dead_letter.",
    ["topic", "outcome"],
)
INGEST_ENVELOPES = Counter(
    "penstock_ingest_envelopes", "Envelopes sent into the log of the first stage.", ["topic"]
)
INGEST_WATERMARK_SECONDS = Gauge(
    "penstock_ingest_watermark_seconds",
    "Highest event time of the raw partition, seen or raised to while idle, in seconds since 1970.",
    ["topic", "partition"],
)

# stages
STAGE_ROWS = Counter(
    "penstock_stage_rows",
    "Rows read by a stage, by verdict: folded, duplicate, late, repeated (already folded).",
    ["stage", "verdict"],
)
STAGE_FOLD_SECONDS = Histogram(
    "penstock_stage_fold_seconds",
    "Time to fold one envelope.",
    ["stage"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)
STAGE_KEYS = Gauge("penstock_stage_keys", "Entity keys held in state.", ["stage", "partition"])
STAGE_STATE_BYTES = Gauge(
    "penstock_stage_state_bytes", "Memory of the window state.", ["stage", "partition"]
)
STAGE_SNAPSHOT_AGE_SECONDS = Gauge(
    "penstock_stage_snapshot_age_seconds",
    "Time since the newest durable snapshot of the stage's partition.",
    ["stage", "partition"],
)
STAGE_SNAPSHOT_BYTES = Gauge(
    "penstock_stage_snapshot_bytes", "Size of the newest snapshot.", ["stage", "partition"]
)

# online-store
ONLINE_WRITES = Counter(
    "penstock_online_writes", "Entity rows written to the online store.", ["view"]
)
ONLINE_FRESHNESS_SECONDS = Histogram(
    "penstock_online_freshness_seconds",
    "From an event's time, or from the broker's time of its record, until its vector can be read.",
    ["view", "since"],
    buckets=LATENCY_BUCKETS_S,
)
ONLINE_FRESHNESS_TARGET_SECONDS = Gauge(
    "penstock_online_freshness_target_seconds",
    "What the definition promises of the former, from the event's time on.",
    ["feature_set"],
)

# Whoever reads the online store
ONLINE_READS = Counter(
    "penstock_online_reads",
    "Keys asked of the online store, by result: hit, miss, expired (older than the set's ttl).",
    ["view", "result"],
)
ONLINE_READ_AGE_SECONDS = Histogram(
    "penstock_online_read_age_seconds",
    "Age of a read's oldest vector: from its event time to the read.",
    ["view"],
    buckets=(0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0),
)

# scorer
SCORED = Counter(
    "penstock_scored",
    "Events scored, by decision and model version.",
    ["decision", "model_version"],
)
SCORE_LATENCY_SECONDS = Histogram(
    "penstock_score_latency_seconds",
    "From the raw record's broker time to the commit of its score.",
    buckets=LATENCY_BUCKETS_S,
)
SCORE_BATCH_SECONDS = Histogram(
    "penstock_score_batch_seconds",
    "Time of one transaction, from decoding to commit.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0),
)
SCORER_SKIPPED_ROWS = Counter(
    "penstock_scorer_skipped_rows",
    "Rows of the features topic that got no score, by cause: repeated, duplicate, late, label, "
    "reference.",
    ["cause"],
)
SCORER_ABORTS = Counter("penstock_scorer_aborted_transactions", "Transactions aborted and redone.")
MODEL_INFO = Gauge(
    "penstock_model_info",
    "1 for the model version that scores now; the labels carry the facts.",
    ["version", "fingerprint"],
)
MODEL_LOAD_FAILURES = Counter(
    "penstock_model_load_failures",
    "Champions refused by the scorer, which keeps the last good one, by cause.",
    ["cause"],
)
DRIFT_PSI = Gauge(
    "penstock_drift_psi",
    "Population stability index of the live window against the champion's reference, "
    "after the allowance for sampling error.",
    ["column"],
)
DRIFT_THRESHOLD = Gauge(
    "penstock_drift_threshold_psi", "The index above which a column counts as drifted."
)
DRIFT_ROWS = Gauge("penstock_drift_rows", "Live rows in the drift window.")
DRIFT_EVENTS = Counter("penstock_drift_events", "Drift events sent to the drift topic.")

# lake-sink
LAKE_ROWS = Counter("penstock_lake_rows", "Rows appended to a lake table.", ["table"])
LAKE_COMMITS = Counter("penstock_lake_commits", "Delta commits made.", ["table"])
LAKE_COMMIT_SECONDS = Histogram(
    "penstock_lake_commit_seconds",
    "Time of one Delta commit.",
    ["table"],
    buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
LAKE_DELAY_SECONDS = Gauge(
    "penstock_lake_delay_seconds",
    "Age of the oldest record of the newest commit when it became readable.",
    ["table"],
)


def serve(port: int, host: str = "127.0.0.1") -> None:
    """Shows `/metrics` on `host`:`port` from a background thread; port 0 shows nothing.

    Raises:
        ValueError: the port cannot be bound.
    """
    if port == 0:
        return
    try:
        start_http_server(port, addr=host)
    except OSError as error:
        raise ValueError(
            f"metrics cannot be shown on {host}:{port} ({error.strerror}); "
            "free the port or set PENSTOCK_METRICS_PORT to another one"
        ) from error


def observe_all(histogram: Histogram, values: npt.NDArray[np.float64]) -> None:
    """Observe many values at once: `observe` of each would cost more than what is measured."""
    bounds = np.array(histogram._upper_bounds)
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds))
    for bucket, count in zip(histogram._buckets, counts.tolist(), strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(float(values.sum()))

"""Reads the running system while the demo runs: memory, Prometheus, pages."""

from __future__ import annotations

import threading
from typing import Any

import httpx

from penstock.stack.stack import Stack

PERIOD_S = 5.0
"""Reading the proportional memory of fifty processes costs a tenth of a second of a core."""


class Sampler:
    """Samples the stack's memory in a thread and answers questions about the present."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._http = httpx.Client(timeout=5)
        self.peak_pss_mib = 0.0
        """The highest proportional memory of the whole stack so far."""

    def start(self) -> None:
        """Begin to sample."""
        self._thread = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End sampling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.peak_pss_mib = max(self.peak_pss_mib, self._stack.status().pss_mib)

    def query(self, expression: str) -> float | None:
        """The value of a Prometheus expression now, or None where it has none."""
        try:
            reply = self._http.get(
                f"{self._stack.url('prometheus')}/api/v1/query", params={"query": expression}
            )
        except httpx.HTTPError:
            return None
        result = reply.json().get("data", {}).get("result", [])
        return float(result[0]["value"][1]) if result else None

    def series(
        self, expression: str, start: float, end: float, label: str = ""
    ) -> dict[str, list[tuple[float, float]]]:
        """An expression over time, by a label's value: (seconds since start, value)."""
        reply = self._http.get(
            f"{self._stack.url('prometheus')}/api/v1/query_range",
            params={"query": expression, "start": start, "end": end, "step": 2},
        )
        return {
            result["metric"].get(label, expression): [
                (float(t) - start, float(v)) for t, v in result["values"] if v != "NaN"
            ]
            for result in reply.json().get("data", {}).get("result", [])
        }

    def figures(self) -> dict[str, str]:
        """What the view shows of the running system."""
        rate = self.query("sum(rate(penstock_scored_total[5s]))")
        latency = "sum by (le) (rate(penstock_score_latency_seconds_bucket[10s]))"
        p50 = self.query(f"histogram_quantile(0.5, {latency})")
        blocked = self.query('sum(penstock_scored_total{decision="block"})')
        drift = self.query("max(penstock_drift_psi)")
        return {
            "scored/s": "–" if rate is None else f"{rate:.0f}",
            "p50": "–" if p50 is None or p50 != p50 else f"{1000 * p50:.0f} ms",
            "blocked": "–" if blocked is None else f"{blocked:.0f}",
            "worst PSI": "–" if drift is None else f"{drift:.2f}",
        }

    def scored_by(self, version: str) -> int:
        """Scores of one model version so far."""
        found = self.query(f'sum(penstock_scored_total{{model_version="{version}"}})')
        return int(found or 0)

    def lake_rows(self, table: str) -> int:
        """Rows the lake sink has stored so far."""
        return int(self.query(f'sum(penstock_lake_rows_total{{table="{table}"}})') or 0)

    def pages(self) -> list[dict[str, Any]]:
        """Every page that Alertmanager has sent, oldest first."""
        try:
            reply = self._http.get(
                f"http://127.0.0.1:{self._stack.port('page-recorder', 'http')}/pages"
            )
        except httpx.HTTPError:
            return []
        found: list[dict[str, Any]] = reply.json()
        return found

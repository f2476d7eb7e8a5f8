"""A small client of Airflow's REST API: start a DAG, watch its runs and their tasks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx

from features.errors import PenstockError, ServiceUnavailableError

PATIENCE_S = 60.0


class Airflow:
    """The Airflow of a running stack.

    Raises:
        ServiceUnavailableError: it does not answer.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v2", timeout=30)
        self._url = url
        try:
            token = httpx.get(f"{url}/auth/token", timeout=30).raise_for_status().json()
        except httpx.HTTPError as error:
            raise ServiceUnavailableError(
                f"Airflow does not answer at {url} ({error}); "
                "see `penstock logs airflow-api-server`"
            ) from error
        self._http.headers["Authorization"] = f"Bearer {token['access_token']}"

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run by hand and return its id; waits until Airflow has parsed the DAG."""
        deadline = time.monotonic() + 90
        while True:
            found = self._http.get(f"/dags/{dag}")
            if found.status_code == 200:
                break
            if time.monotonic() > deadline:
                raise PenstockError(
                    f"Airflow at {self._url} knows no DAG {dag!r}; "
                    "see `penstock logs airflow-dag-processor`"
                )
            time.sleep(1)
        self._http.patch(f"/dags/{dag}", json={"is_paused": False}).raise_for_status()
        body = {"logical_date": datetime.now(UTC).isoformat(), "conf": conf}
        reply = self._http.post(f"/dags/{dag}/dagRuns", json=body).raise_for_status()
        return str(reply.json()["dag_run_id"])

    def unpause(self, dag: str) -> None:
        """Let a DAG run when its asset is touched."""
        self._http.patch(f"/dags/{dag}", json={"is_paused": False}).raise_for_status()

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Every run of a DAG, oldest first."""
        found: list[dict[str, Any]] = self._read(f"/dags/{dag}/dagRuns?limit=50")["dag_runs"]
        return sorted(found, key=lambda run: run["run_after"])

    def tasks(self, dag: str, run_id: str) -> dict[str, str]:
        """State by task of a run, in the order they started; tasks not yet reached say `none`."""
        found = self._read(f"/dags/{dag}/dagRuns/{run_id}/taskInstances")["task_instances"]
        found.sort(key=lambda task: (task["start_date"] or "9", task["task_id"]))
        return {task["task_id"]: task["state"] or "none" for task in found}

    def _read(self, path: str) -> Any:
        """An answer of the API; asked again while Airflow is too busy, or still making the run.

        Raises:
            ServiceUnavailableError: it has not answered well for `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._http.get(path).raise_for_status().json()
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise ServiceUnavailableError(
                        f"Airflow at {self._url} does not answer well ({error}); "
                        "see `penstock logs airflow-api-server`"
                    ) from error
            time.sleep(1)

"""One MLflow run, over MLflow's REST API.

The training processes use this and not MLflow's own client, which takes seconds of processor time
to import; the registry, which moves artifacts, uses the client.
API: https://mlflow.org/docs/latest/rest-api.html, version 2.0.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import httpx

from features.errors import ServiceUnavailableError
from features.settings import shown
from training.errors import TrainingError


class Tracker:
    """A run of the tracking server at `uri`."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> "Tracker":
        """Create a run, and the experiment where it is the first.

        Raises:
            ServiceUnavailableError: nobody answers at `uri`.
        """
        run = _post(
            uri,
            "runs/create",
            {
                "experiment_id": _experiment_id(uri, experiment),
                "run_name": name,
                "start_time": _now_ms(),
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )["run"]
        tracker = cls(uri, str(run["info"]["run_id"]))
        listed = [{"key": key, "value": str(value)} for key, value in params.items()]
        _post(uri, "runs/log-batch", {"run_id": tracker.run_id, "params": listed})
        return tracker

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log one value per measure."""
        now_ms = _now_ms()
        listed = [
            {"key": key, "value": float(value), "timestamp": now_ms, "step": step}
            for key, value in values.items()
        ]
        _post(self.uri, "runs/log-batch", {"run_id": self.run_id, "metrics": listed})

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        listed = [{"key": key, "value": value} for key, value in values.items()]
        _post(self.uri, "runs/log-batch", {"run_id": self.run_id, "tags": listed})

    def end(self, status: str) -> None:
        """Close the run as FINISHED or FAILED."""
        _post(
            self.uri,
            "runs/update",
            {"run_id": self.run_id, "status": status, "end_time": _now_ms()},
        )


def require_server(uri: str) -> None:
    """Ask the server whether it is there.

    Raises:
        ServiceUnavailableError: it does not answer.
    """
    try:
        httpx.get(f"{uri}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise _unavailable(uri, error) from error


def _experiment_id(uri: str, name: str) -> str:
    found = _call("GET", uri, "experiments/get-by-name", params={"experiment_name": name})
    if found.status_code == httpx.codes.NOT_FOUND:
        return str(_post(uri, "experiments/create", {"name": name})["experiment_id"])
    return str(_content(found)["experiment"]["experiment_id"])


def _post(uri: str, method: str, content: Mapping[str, Any]) -> Any:
    return _content(_call("POST", uri, method, json=content))


def _call(verb: str, uri: str, method: str, **request: Any) -> httpx.Response:
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    try:
        return httpx.request(
            verb, f"{uri}/api/2.0/mlflow/{method}", auth=auth, timeout=30, **request
        )
    except httpx.HTTPError as error:
        raise _unavailable(uri, error) from error


def _content(response: httpx.Response) -> Any:
    if response.is_error:
        raise TrainingError(
            f"MLflow answered {response.status_code} to {response.request.url}: {response.text}"
        )
    return response.json()


def _unavailable(uri: str, error: Exception) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        f"MLflow does not answer at {shown(uri)} ({error}); start it with "
        "`penstock up mlflow` or set PENSTOCK_MLFLOW_URI"
    )


def _now_ms() -> int:
    return int(time.time() * 1000)

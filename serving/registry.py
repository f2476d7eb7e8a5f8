"""Reads the model registry over MLflow's REST API.

The scorer asks once a second for as long as it lives. MLflow's own client would bring 100 MB and,
through its entry points, whatever else of the environment registers with MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from features.errors import ServiceUnavailableError

_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow answers for an unknown model, and for an unknown alias of a known one."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version and the run whose artifacts it is made of."""

    version: str
    run_id: str


class Registry:
    """One MLflow server; `uri` may carry a user and password."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._http = httpx.Client(base_url=uri, timeout=20)

    def by_alias(self, model: str, alias: str) -> ModelVersion | None:
        """The version an alias names, or None where the model or the alias does not exist.

        Raises:
            ServiceUnavailableError: the server does not answer as MLflow does.
        """
        found = self._get(
            "/api/2.0/mlflow/registered-models/alias", {"name": model, "alias": alias}
        )
        if found is None:
            return None
        version = found["model_version"]
        return ModelVersion(str(version["version"]), str(version["run_id"]))

    def download(self, run_id: str, artifact: str, folder: Path) -> Path:
        """Fetches the files of an artifact folder (not of folders in it) into `folder`.

        Raises:
            ServiceUnavailableError: the server does not answer as MLflow does.
        """
        listed = self._get("/api/2.0/mlflow/artifacts/list", {"run_id": run_id, "path": artifact})
        for entry in (listed or {}).get("files", []):
            if entry.get("is_dir"):
                continue
            place = {"run_id": run_id, "path": entry["path"]}
            # A name from the network decides a file's name, never its folder.
            target = folder / Path(entry["path"]).name
            try:
                with self._http.stream("GET", "/get-artifact", params=place) as answer:
                    answer.raise_for_status()
                    with target.open("wb") as file:
                        for part in answer.iter_bytes():
                            file.write(part)
            except httpx.HTTPError as error:
                raise self._unavailable(error) from error
        return folder

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _get(self, path: str, parameters: dict[str, str]) -> dict[str, Any] | None:
        try:
            answer = self._http.get(path, params=parameters)
            content = answer.json()
            if answer.is_success and isinstance(content, dict):
                return content
            if isinstance(content, dict) and content.get("error_code") in _ABSENT:
                return None
            answer.raise_for_status()
        except (httpx.HTTPError, ValueError) as error:
            raise self._unavailable(error) from error
        raise self._unavailable(ValueError(f"unexpected answer to {path}"))

    def _unavailable(self, error: Exception) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"MLflow at {self.uri} does not answer: {error}; start it with `penstock up mlflow` "
            "or set PENSTOCK_MLFLOW_URI"
        )

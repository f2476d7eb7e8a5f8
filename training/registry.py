"""Bundles in MLflow: how they are logged, registered, promoted and fetched.

What a reader needs to know:

- the registered model is named like the feature set;
- a version's files lie in the artifacts of its run, under `bundle/` (`bundle.json`, `model.onnx`,
  `model.safetensors`, `drift_reference.json`), and compiled engines under `engines/`;
- the alias `champion` names the version that scores:

      version = client.get_model_version_by_alias(feature_set, "champion")
      client.download_artifacts(version.run_id, "bundle", folder)  # → <folder>/bundle

- a version carries its verdict as tags: `decision` (`promoted` or `refused`), `decision_reason`,
  `champion_before` (empty where there was none), `feature_fingerprint`.
"""

import os
from pathlib import Path
from typing import Any

import msgspec
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from training.errors import TrainingError
from training.settings import settings
from training.tracking import require_server

CHAMPION = "champion"
BUNDLE = "bundle"
ENGINES = "engines"
_ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}


class Version(msgspec.Struct, frozen=True):
    """A registered model version."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]

    @property
    def verdict(self) -> tuple[bool, str, str | None] | None:
        """Promoted or not, why, and the champion it was compared with; None before the verdict."""
        if "decision" not in self.tags:
            return None
        promoted = self.tags["decision"] == "promoted"
        return promoted, self.tags["decision_reason"], self.tags["champion_before"] or None


class Registry:
    """The MLflow server, asked once whether it is there.

    Raises:
        ServiceUnavailableError: it does not answer.
    """

    def __init__(self, uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self.uri = uri or settings().mlflow_uri
        # MLflow's client tries for minutes before it says that nobody is there.
        require_server(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(self, name: str, run_id: str, folder: Path, tags: dict[str, str]) -> Version:
        """Upload a bundle to its run and register it; a second call finds the first's version."""
        if self._registered(name) is None:
            self.client.create_registered_model(name)
        for found in self.client.search_model_versions(f"name = '{name}'"):
            if found.run_id == run_id:
                return _version(found)
        self.client.log_artifacts(run_id, str(folder), BUNDLE)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/{BUNDLE}"
        return _version(
            self.client.create_model_version(name, source=source, run_id=run_id, tags=tags)
        )

    def champion(self, name: str) -> Version | None:
        """The version that scores, or None."""
        try:
            return _version(self.client.get_model_version_by_alias(name, CHAMPION))
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def get(self, name: str, version: str) -> Version:
        """A version by its number."""
        return _version(self.client.get_model_version(name, version))

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, key, value)

    def record(
        self, version: Version, promoted: bool, reason: str, champion_before: str | None
    ) -> Version:
        """Write a verdict to the version's tags; `decision` last, which makes it complete."""
        verdict = {
            "champion_before": champion_before or "",
            "decision_reason": reason,
            "decision": "promoted" if promoted else "refused",
        }
        self.tag(version, verdict)
        return msgspec.structs.replace(version, tags=version.tags | verdict)

    def promote(self, version: Version) -> None:
        """Move the alias to the version; its verdict is recorded before."""
        self.client.set_registered_model_alias(version.name, CHAMPION, version.version)

    def download(self, name: str, version: str, folder: Path) -> Path:
        """Fetch a version's bundle, by number or by alias; returns the folder it lies in.

        Raises:
            TrainingError: there is no such version.
        """
        try:
            found = (
                self.get(name, version)
                if version.isdigit()
                else _version(self.client.get_model_version_by_alias(name, version))
            )
        except MlflowException as error:
            if error.error_code in _ABSENT:
                raise TrainingError(
                    f"the registry at {self.uri} has no version {version!r} of {name!r}; "
                    "train one first"
                ) from error
            raise
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(found.run_id, BUNDLE, str(folder)))

    def attach_engines(self, version: Version, folder: Path) -> None:
        """Upload compiled engines beside the version's bundle."""
        self.client.log_artifacts(version.run_id, str(folder), ENGINES)

    def _registered(self, name: str) -> Any:
        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), str(found.run_id), dict(found.tags))

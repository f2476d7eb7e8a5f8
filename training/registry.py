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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from training.errors import TrainingError
from training.settings import settings
from training.tracking import require_server

CHAMPION = "champion"
BUNDLE = "bundle"
ENGINES = "engines"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a name, a version and an alias that it does not know."""

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""What MLflow's client reads while it is imported."""


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
    """The MLflow server, asked once whether it is there; the client is loaded only then.

    Raises:
        ServiceUnavailableError: it does not answer.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or settings().mlflow_uri
        # MLflow's client tries for minutes before it says that nobody is there.
        require_server(self.uri)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(self, name: str, run_id: str, folder: Path, tags: dict[str, str]) -> Version:
        """Upload a bundle to its run and register it; a second call finds the first's version."""
        if _known(lambda: self.client.get_registered_model(name)) is None:
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
        found = _known(lambda: self.client.get_model_version_by_alias(name, CHAMPION))
        return None if found is None else _version(found)

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
        if version.isdigit():
            found = _known(lambda: self.client.get_model_version(name, version))
        else:
            found = _known(lambda: self.client.get_model_version_by_alias(name, version))
        if found is None:
            raise TrainingError(
                f"the registry at {self.uri} has no version {version!r} of {name!r}; "
                "train one first"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(found.run_id, BUNDLE, str(folder)))

    def attach_engines(self, version: Version, folder: Path) -> None:
        """Upload compiled engines beside the version's bundle."""
        self.client.log_artifacts(version.run_id, str(folder), ENGINES)


def _known(ask: Callable[[], Any]) -> Any:
    """What the registry answers; None where it does not know the name."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), str(found.run_id), dict(found.tags))

"""The model version that scores: found by its alias, fetched and tried in the background.

A version that fails its checks is refused once, loudly, and the last good one goes on scoring.
The scorer takes `current` at the start of a batch, so a batch is scored by one version.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path

from features.errors import BundleError
from features.plan import Plan
from monitoring import metrics
from serving.bundle import LoadedBundle, load
from serving.settings import ServingSettings

logger = logging.getLogger(__name__)

ALIAS = "champion"
ARTIFACT = "bundle"
_LONGEST_WAIT_S = 30.0


class ChampionWatch:
    """Follows the alias `champion` of the plan's registered model.

    Args:
        plan: its name is the registered model's.
        options: where the registry is, how often it is asked (the pause doubles, up to 30 s,
            while it does not answer), and how drift is watched.
    """

    def __init__(self, plan: Plan, options: ServingSettings) -> None:
        self._plan = plan
        self._options = options
        self._mlflow_uri = options.mlflow_uri
        self._stop = threading.Event()
        self._refused: str | None = None
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)
        self.current: LoadedBundle | None = None
        self.waiting_for = f"the first look at {options.mlflow_uri}"

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Ends following; waits until a download in progress is over."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                self.look()
                wait_s = self._options.champion_poll_s
            # The thread must outlive whatever the registry or its network raises.
            except Exception as error:  # noqa: BLE001
                self.waiting_for = f"MLflow at {self._mlflow_uri}: {error}"
                metrics.MODEL_LOAD_FAILURES.labels(cause="registry").inc()
                wait_s = min(max(2 * wait_s, self._options.champion_poll_s), _LONGEST_WAIT_S)
                logger.warning(
                    "champion: cannot ask %s, again in %.0f s: %s", self._mlflow_uri, wait_s, error
                )

    def look(self) -> None:
        """Asks for the alias once and loads the version it names, if that is a new one."""
        found = _named_version(self._mlflow_uri, self._plan.name)
        if found is None:
            self.waiting_for = f"a version of {self._plan.name!r} with the alias {ALIAS!r}"
            return
        version, run_id = found
        if version == self._refused or (self.current and version == self.current.version):
            return
        with tempfile.TemporaryDirectory(prefix="penstock-bundle-") as folder:
            path = _download(self._mlflow_uri, run_id, folder)
            try:
                loaded = load(path, self._plan, version, self._options)
            except BundleError as error:
                self._refused = version
                self.waiting_for = f"a champion that passes its checks; version {version}: {error}"
                metrics.MODEL_LOAD_FAILURES.labels(cause="bundle").inc()
                logger.error("champion: version %s refused: %s", version, error)
                return
        before = self.current.version if self.current else "none"
        self.current = loaded
        self._refused = None
        logger.info("champion: version %s loaded (before: %s)", version, before)


def _named_version(mlflow_uri: str, model: str) -> tuple[str, str] | None:
    """The version that carries the alias, and its run; None where there is no such version."""
    from mlflow import MlflowClient
    from mlflow.exceptions import RestException
    from mlflow.protos.databricks_pb2 import (
        INVALID_PARAMETER_VALUE,
        RESOURCE_DOES_NOT_EXIST,
        ErrorCode,
    )

    client = MlflowClient(tracking_uri=mlflow_uri, registry_uri=mlflow_uri)
    try:
        found = client.get_model_version_by_alias(model, ALIAS)
    except RestException as error:
        absent = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}
        if error.error_code in absent:
            return None
        raise
    return str(found.version), str(found.run_id)


def _download(mlflow_uri: str, run_id: str, folder: str) -> Path:
    """Fetches the run's bundle into `folder`."""
    from mlflow.artifacts import download_artifacts

    path = download_artifacts(
        run_id=run_id, artifact_path=ARTIFACT, dst_path=folder, tracking_uri=mlflow_uri
    )
    return Path(path)

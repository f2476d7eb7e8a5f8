"""The model version that scores: found by its alias, fetched and tried in the background.

A version that fails its checks is refused once, loudly, and the last good one goes on scoring.
The scorer takes `current` at the start of a batch, so a batch is scored by one version.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path

from features.errors import BundleError, ServiceUnavailableError
from features.plan import Plan
from features.settings import shown
from monitoring import metrics
from serving.bundle import LoadedBundle, load
from serving.registry import Registry
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
        self._registry = Registry(options.mlflow_uri)
        self._stop = threading.Event()
        self._refused: str | None = None
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)
        self.current: LoadedBundle | None = None
        self.waiting_for = f"the first look at {shown(options.mlflow_uri)}"

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Ends following; waits until a download in progress is over."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._registry.close()

    def _follow(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                self.look()
                wait_s = self._options.champion_poll_s
            except ServiceUnavailableError as error:
                self.waiting_for = str(error)
                metrics.MODEL_LOAD_FAILURES.labels(cause="registry").inc()
                wait_s = min(max(2 * wait_s, self._options.champion_poll_s), _LONGEST_WAIT_S)
                logger.warning("champion: next look in %.1f s: %s", wait_s, error)
            # The thread must outlive whatever a version's files make a library raise.
            except Exception:
                metrics.MODEL_LOAD_FAILURES.labels(cause="bundle").inc()
                wait_s = _LONGEST_WAIT_S
                logger.exception("champion: next look in %.1f s", wait_s)

    def look(self) -> None:
        """Asks for the alias once and loads the version it names, if that is a new one.

        Raises:
            ServiceUnavailableError: the registry does not answer.
        """
        found = self._registry.by_alias(self._plan.name, ALIAS)
        if found is None:
            self.waiting_for = f"a version of {self._plan.name!r} with the alias {ALIAS!r}"
            return
        version = found.version
        if version == self._refused or (self.current and version == self.current.version):
            return
        with tempfile.TemporaryDirectory(prefix="penstock-bundle-") as folder:
            path = self._registry.download(found.run_id, ARTIFACT, Path(folder))
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

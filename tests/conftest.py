"""Real parts for tests: one stack per session in a folder of its own, on free ports."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.settings import settings
from features.spark import session
from penstock.stack.provision import cache_folder
from penstock.stack.stack import Stack

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROJECT = Path(__file__).parents[1]


class SessionStack(Stack):
    """A stack whose parts are started when a test first asks for them."""

    def require(self, *parts: str) -> "SessionStack":
        """Start the named parts unless they are up, and return the stack."""
        self.up(parts, lambda line: print(line, file=sys.stderr))
        # The tools beside Prometheus and Alertmanager, where the stack had to fetch them.
        unpacked = [str(path) for path in cache_folder(PROJECT).glob("debian/*/usr/bin")]
        known = os.environ["PATH"].split(os.pathsep)
        os.environ["PATH"] = os.pathsep.join(dict.fromkeys([*known, *unpacked]))
        return self


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: where several processes share the tests, none is left alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@contextmanager
def stack_of_its_own() -> Iterator[SessionStack]:
    """A stack in a new folder; `PENSTOCK_*` point at it, and nothing of it survives the block."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PENSTOCK_")}
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        session = SessionStack(Path(folder) / "home", PROJECT)
        session.provide_spark_jars(lambda line: print(line, file=sys.stderr))
        os.environ.update(session.environment())
        settings.cache_clear()
        watcher = _watch(session)
        try:
            yield session
        finally:
            session.down()
            watcher.kill()
            watcher.wait()
            for name in session.environment():
                os.environ.pop(name, None)
            os.environ.update(before)
            settings.cache_clear()


@pytest.fixture(scope="session")
def stack() -> Iterator[SessionStack]:
    """The session's stack."""
    with stack_of_its_own() as session:
        yield session


def _watch(session: SessionStack) -> subprocess.Popen[bytes]:
    """End the stack also when this process is killed and can no longer do so itself."""
    pid_file = session.home / "supervisor" / "supervisord.pid"
    script = 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; kill "$(cat "$1")"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, str(os.getpid()), str(pid_file)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def spark(stack: SessionStack) -> "Iterator[SparkSession]":
    """One Spark session for all tests; of the stack it needs only Java and the Delta jars."""
    with session("penstock tests") as running:
        yield running

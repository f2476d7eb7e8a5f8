"""The chain that is broken: the product's own parts under its own supervisor, in a home of its own.

Beside what the stack does it can kill and freeze a part, start a second worker of a service, and
arm failpoints for whatever starts next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition

import penstock.chaos.definitions
from features import failpoints
from features.catalog import load_plan
from features.plan import Plan
from features.settings import settings
from penstock.chaos.model import register, write_bundle
from penstock.stack.part import Part
from penstock.stack.site import Site
from penstock.stack.stack import Stack
from penstock.stack.supervisor import MARK, Program, Supervisor

FEATURE_SET = "chaos"
SERVICES = ("ingest", "stages", "scorer", "online-store", "lake-sink")
INFRASTRUCTURE = ("kafka", "redis")
SERVICE_OF = {
    "ingest": "ingest",
    "stages": "stages",
    "snapshots": "stages",
    "scorer": "scorer",
    "online": "online-store",
    "lake": "lake-sink",
}
"""The service that passes a failpoint, by the first part of its name."""

_BROKER_TIMEOUT_S = 5.0


class _FailingStack(Stack):
    """A stack whose services look for failpoints in a file of its home."""

    @property
    def failpoints(self) -> Path:
        return self.home / "failpoints"

    def _program(self, part: Part, site: Site) -> Program:
        program = super()._program(part, site)
        armed = {failpoints.VARIABLE: f"@{self.failpoints}"}
        return replace(program, environment={**program.environment, **armed})


class Chain:
    """One chain of the feature set `chaos`.

    Args:
        home: of its stack.
        project: the folder that holds the packages.
    """

    def __init__(self, home: Path, project: Path) -> None:
        folder = str(Path(penstock.chaos.definitions.__path__[0]))
        os.environ |= {
            "PENSTOCK_HOME": str(home.resolve()),
            "PENSTOCK_FEATURE_SET": FEATURE_SET,
            "PENSTOCK_DEFINITIONS": folder,
        }
        settings.cache_clear()
        self.home = home.resolve()
        self.stack = _FailingStack(home, project)
        self.supervisor = Supervisor(self.home, project.resolve(), Path(sys.executable))
        self.plan: Plan = load_plan(FEATURE_SET)
        self.extras: list[subprocess.Popen[bytes]] = []
        self.revived = 0
        """How often a part had to be started because the supervisor had given it up."""

    @property
    def failpoints(self) -> Path:
        """The file in which failpoints are armed."""
        return self.stack.failpoints

    def start(self, say: Callable[[str], None]) -> str:
        """Bring everything up; returns the version of the model that scores."""
        from streaming.topics import ensure

        self.stack.up((*INFRASTRUCTURE, "registry", "mlflow"), say)
        os.environ |= self.stack.environment()
        settings.cache_clear()
        ensure(self.plan)
        version = register(self.plan, write_bundle(self.bundle, self.plan))
        self.stack.up(SERVICES, say)
        # It has registered the schemas; nothing of the chain asks for it again.
        self.supervisor.stop(["registry"])
        return version

    @property
    def bundle(self) -> Path:
        """The folder of the model that scores."""
        return self.home / "bundle"

    def end(self) -> None:
        """End every process."""
        for extra in self.extras:
            extra.kill()
            extra.wait()
        self.stack.down()

    def pid(self, part: str) -> int | None:
        """The process of a part, or None where it has none at this moment."""
        pid = self.supervisor.processes().get(part, {}).get("pid")
        return int(pid) if pid else None

    def began_s(self, part: str) -> float | None:
        """When a part's process was started (s, as of `time.time`); None where it has none."""
        pid = self.pid(part)
        try:
            return psutil.Process(pid).create_time() if pid else None
        except psutil.NoSuchProcess:
            return None

    def send(self, part: str, number: signal.Signals) -> bool:
        """Send a part's process a signal; false where it has no process."""
        pid = self.pid(part)
        if pid is None:
            return False
        return send_signal(pid, number)

    def revive(self) -> None:
        """Start what the supervisor has given up after too many ends in a row."""
        for name, info in self.supervisor.processes().items():
            if name in (*SERVICES, *INFRASTRUCTURE) and info["statename"] == "FATAL":
                self.revived += 1
                self.supervisor.start(name)

    def second(self, service: str) -> subprocess.Popen[bytes]:
        """Start one more process of a service, unsupervised."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = self.supervisor.base_environment() | self.stack.environment()
        environment |= {"PENSTOCK_METRICS_PORT": str(port), MARK: str(self.home)}
        # A library that chaos itself has imported sets it, and metrics would lie in shared files.
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        with (self.home / "logs" / f"{service}-second.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock.cli", "run", service],
                env=environment,
                cwd=self.stack.project,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.extras.append(process)
        return process

    def online_progress(self) -> dict[int, int]:
        """What the online-store sink has committed: the next offset by partition.

        Raises:
            KafkaException: the broker does not answer.
        """
        plan = self.plan
        with _consumer(f"penstock.{plan.name}.v{plan.version}.online-store") as consumer:
            held = consumer.committed(self._finished(), timeout=_BROKER_TIMEOUT_S)
        return {at.partition: max(at.offset, 0) for at in held}

    def finished(self) -> dict[int, int]:
        """The end of each partition of the features topic.

        Raises:
            KafkaException: the broker does not answer.
        """
        with _consumer("penstock-chaos") as consumer:
            return {
                at.partition: consumer.get_watermark_offsets(at, timeout=_BROKER_TIMEOUT_S)[1]
                for at in self._finished()
            }

    def _finished(self) -> list[TopicPartition]:
        return [TopicPartition(self.plan.features_topic, p) for p in range(self.plan.partitions)]


@contextlib.contextmanager
def _consumer(group: str) -> Iterator[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": settings().kafka_bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Send a process a signal; false where it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True

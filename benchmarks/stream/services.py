"""Our services as processes: `penstock run …`, what they cost and what they say of themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from features.plan import Plan
from penstock.stack.logs import last_lines
from penstock.stack.stack import Stack

PATIENCE_S = 600.0
PROJECT = Path(__file__).parents[2]

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Services:
    """The services of one set.

    Args:
        stack: whose broker, stores and ports they use.
        plan: of the set.
    """

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._parts = {part.name: part.pid for part in stack.status().parts if part.pid}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, *command: str) -> None:
        """Start a service; `command` is a module with arguments that takes its place."""
        command = command or ("penstock.cli", "run", service)
        environment = os.environ | {"PENSTOCK_METRICS_PORT": str(self._port(service))}
        with self._log(service).open("ab") as log:
            self._running[service] = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=environment,
                cwd=PROJECT,
                stdout=log,
                stderr=log,
            )

    def kill(self, service: str) -> None:
        """SIGKILL, and nothing in its place."""
        gone = self._running.pop(service)
        gone.kill()
        gone.wait()

    def stop(self) -> None:
        """End every service."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def wait(self, what: str, true: Callable[[], bool], every_s: float = 0.1) -> None:
        """Wait for what the services do.

        Raises:
            RuntimeError: it never comes, or a service ended; its last words stand in it.
        """
        until = time.monotonic() + PATIENCE_S
        while not true():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {last_lines(self._log(name), 15)}")
            if time.monotonic() > until:
                raise RuntimeError(f"{what} did not come in {PATIENCE_S:g} s")
            time.sleep(every_s)

    def metric(self, service: str, name: str, **labels: str) -> float:
        """The sum of a metric's values over all labels but these; 0 while it does not answer."""
        with suppress(urllib.error.URLError, OSError):
            address = f"http://127.0.0.1:{self._port(service)}/metrics"
            with _direct.open(address, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            wanted = [f'{label}="{value}"' for label, value in labels.items()]
            return sum(
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith((f"{name} ", f"{name}{{")) and all(w in line for w in wanted)
            )
        return 0.0

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far of every service, the broker and MLflow."""
        return {
            name: sum(sum(each.cpu_times()[:2]) for each in family(process))
            for name, process in self._processes().items()
        }

    def main_thread_s(self) -> dict[str, float]:
        """CPU seconds so far of each service's main thread, which runs Python; others are Kafka's.

        Those that read for Faust run Python too.
        """
        found = {}
        for name, process in self._running.items():
            threads = psutil.Process(process.pid).threads()
            found[name] = sum(t.user_time + t.system_time for t in threads if t.id == process.pid)
        return found

    def rss_mib(self) -> dict[str, float]:
        """Resident memory of each service."""
        return {
            name: psutil.Process(process.pid).memory_info().rss / 2**20
            for name, process in self._running.items()
        }

    def _processes(self) -> Mapping[str, psutil.Process]:
        own = {name: process.pid for name, process in self._running.items()}
        return {name: psutil.Process(pid) for name, pid in (self._parts | own).items()}

    def _port(self, service: str) -> int:
        return self._stack.port(service, "metrics")

    def _log(self, service: str) -> Path:
        return self._stack.home / "logs" / f"{self._plan.name}-{service}.log"


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and its children."""
    return [process, *process.children(recursive=True)]


@contextmanager
def services(stack: Stack, plan: Plan) -> Iterator[Services]:
    """Services that are ended with the block."""
    running = Services(stack, plan)
    try:
        yield running
    finally:
        running.stop()

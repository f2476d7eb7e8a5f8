"""How the parts are: state, readiness, address, restarts and memory."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

_STATES = {
    "STARTING": "starting",
    "RUNNING": "running",
    "BACKOFF": "waits to be restarted",
    "STOPPING": "stopping",
    "EXITED": "ended",
    "FATAL": "failed",
}


@dataclass(frozen=True)
class PartStatus:
    """One part at one moment. `pss_mib` is the proportional memory of its process tree."""

    name: str
    title: str
    state: str
    ready: bool
    url: str | None
    ports: Mapping[str, int]
    pid: int | None
    restarts: int
    pss_mib: float


@dataclass(frozen=True)
class StackStatus:
    """All parts and the memory of everything the stack runs, the supervisor included."""

    parts: list[PartStatus]
    pss_mib: float


def state_name(info: Mapping[str, Any] | None, *, absent: bool, ready: bool) -> str:
    """What to call the state that supervisord reports."""
    if info is None or info["statename"] == "STOPPED":
        return "absent" if absent else "stopped"
    # To supervisord a part is still starting for some seconds after it has begun to answer.
    return "running" if ready else _STATES.get(info["statename"], "unknown")


def proportional_mib(pid: int | None) -> float:
    """Proportional set size of a process and all its descendants, MiB; 0 without a process."""
    if not pid:
        return 0.0
    total_bytes = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total_bytes += process.memory_full_info().pss
    return total_bytes / 2**20

"""Named points between the steps of delivery, where a process can be made to die or to run out of
disk.

`penstock chaos` arms them. Unless `PENSTOCK_FAILPOINTS` is set when a process starts, a point is a
call that does nothing. Its value is a list such as `stages.folded_not_sent=kill@3`, parted by
commas: the third time the process comes by, it is killed. `@FILE` names a file of such lines
instead; there a line is struck out as it fires, so that the restarted process goes on, and what
fired is written to `FILE.hits`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from features.errors import PenstockError

VARIABLE = "PENSTOCK_FAILPOINTS"

FAILPOINTS = {
    "ingest.judged_not_sent": "verdicts are made, nothing of them is sent",
    "ingest.sent_not_flushed": "rows are handed to the producer, none need have arrived",
    "ingest.flushed_not_committed": "rows have arrived, their raw offsets are not committed",
    "stages.read_not_folded": "an envelope is read, the state is as before",
    "stages.folded_not_sent": "an envelope is in the state, its rows are not sent",
    "stages.sent_not_packed": "rows are on their way to the next log, no snapshot has them",
    "stages.packed_not_flushed": "a snapshot is packed, rows before it may be on their way",
    "stages.flushed_not_durable": "rows have arrived, the snapshot is only in memory",
    "stages.durable_not_acknowledged": "the snapshot is durable, nothing of it is acknowledged",
    "stages.acknowledged": "what the older snapshot covers is acknowledged",
    "snapshots.written_not_synced": "a snapshot's file is written, but not on the disk",
    "snapshots.synced_not_named": "the file is on the disk, without its name",
    "snapshots.named_not_dropped": "the snapshot has its name, older ones are still there",
    "snapshots.restored": "a snapshot is restored, nothing is read yet",
    "scorer.read_not_scored": "rows are read, no transaction is begun",
    "scorer.begun_not_sent": "a transaction is begun, nothing is sent",
    "scorer.sent_without_offsets": "scores are sent, their offsets are not",
    "scorer.offsets_not_committed": "scores and offsets are sent, not committed",
    "scorer.committed_not_marked": "the transaction is committed, the process has not noted it",
    "lake.read_not_written": "messages are read, no table has them",
    "lake.prepared_not_committed": "a table's commit is checked, not made",
    "lake.table_not_the_next": "one table has the rows, the next one not",
    "online.read_not_written": "rows are read, no view has them",
    "online.view_not_the_next": "one view has the rows, the next one not",
    "online.written_not_committed": "every view has the rows, their offsets are not committed",
}
"""Every point by its name, and what holds there."""

ACTIONS = ("kill", "enospc")


@dataclass
class _Trap:
    """What is armed at one point: fires when it is passed for the `left`-th time from now."""

    action: str
    left: int


def failpoint(name: str) -> None:
    """A point of `FAILPOINTS`; does nothing unless it is armed in this process.

    Raises:
        OSError: it is armed with `enospc`: no space is left on the device.
    """
    armed = _armed()
    if armed and name in armed:
        _pass(armed, name)


def arm(file: Path, name: str, action: str, at: int) -> None:
    """Add a line to a file that processes started from now on read.

    Args:
        file: the one of their `PENSTOCK_FAILPOINTS`.
        name: of a point.
        action: one of `ACTIONS`.
        at: how often the point is passed until it fires, from 1.
    """
    with _locked(file):
        before = file.read_text() if file.exists() else ""
        file.write_text(f"{before}{name}={action}@{at}\n")


def waiting(file: Path) -> list[str]:
    """The points that are armed in a file and have not fired."""
    return [line.partition("=")[0] for line in _lines(file)]


def hits(file: Path) -> list[tuple[str, str]]:
    """What has fired, in order: (point, action)."""
    found = (line.split() for line in _lines(Path(f"{file}.hits")))
    return [(name, action) for name, action in found]


@cache
def _armed() -> dict[str, _Trap]:
    told = os.environ.get(VARIABLE, "")
    if not told:
        return {}
    file = _file()
    return _parsed(told.split(",") if file is None else _lines(file))


def _file() -> Path | None:
    told = os.environ.get(VARIABLE, "")
    return Path(told[1:]) if told.startswith("@") else None


def _parsed(items: list[str]) -> dict[str, _Trap]:
    armed: dict[str, _Trap] = {}
    for item in items:
        name, _, what = item.partition("=")
        action, _, at = what.partition("@")
        if name not in FAILPOINTS or action not in ACTIONS or not (at or "1").isdigit():
            raise PenstockError(
                f"{VARIABLE} says {item!r}; say NAME=ACTION@COUNT with a name of "
                f"{', '.join(FAILPOINTS)} and an action of {', '.join(ACTIONS)}"
            )
        # Of two lines about one point the first counts; the other is for the next process.
        armed.setdefault(name, _Trap(action, int(at or 1)))
    return armed


def _pass(armed: dict[str, _Trap], name: str) -> None:
    trap = armed[name]
    trap.left -= 1
    if trap.left > 0:
        return
    del armed[name]
    file = _file()
    if file is not None:
        _strike_out(file, name, trap.action)
    if trap.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (failpoint {name})")


def _strike_out(file: Path, name: str, action: str) -> None:
    with _locked(file):
        lines = _lines(file)
        at = next((i for i, line in enumerate(lines) if line.startswith(f"{name}=")), None)
        if at is not None:
            del lines[at]
        file.write_text("".join(f"{line}\n" for line in lines))
        with Path(f"{file}.hits").open("a") as hit:
            hit.write(f"{name} {action}\n")


def _lines(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1] if file.exists() else []


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with Path(f"{file}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

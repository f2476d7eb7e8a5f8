"""Reads the logs that supervisord writes, which it starts anew when they grow large."""

import time
from collections.abc import Iterator
from pathlib import Path

_POLL_S = 0.3


def last_lines(log: Path, count: int) -> str:
    """The end of a log file."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-count:]) or f"({log} holds nothing yet)"


def follow(log: Path) -> Iterator[str]:
    """What is written to a log from now on, for ever; goes on in the new file after a rotation."""
    position = log.stat().st_size if log.exists() else 0
    while True:
        size = log.stat().st_size if log.exists() else 0
        if size < position:
            position = 0
        if size > position:
            with log.open(errors="replace") as handle:
                handle.seek(position)
                yield handle.read()
                position = handle.tell()
        time.sleep(_POLL_S)

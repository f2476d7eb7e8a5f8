"""Peers that would bend our pins, each in an environment of its own.

A peer is a module of `benchmarks/peers` and, beside it, the versions it runs with. Its environment
is made once, under `<PENSTOCK_HOME>/bench`, and made anew when the versions change. It is asked in
JSON on its standard input and answers in JSON; tables travel as Arrow files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import say
from features.settings import settings

_PROJECT = Path(__file__).parents[1]


def ask(peer: str, request: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run a peer on the CPUs this process has, and return its answer.

    Raises:
        CalledProcessError: the environment could not be made, or the peer failed; standard error
            says why.
    """
    python = _environment(peer)
    say(f"{peer}: running in its own environment")
    answer = subprocess.run(
        [python, "-W", "ignore", "-m", f"benchmarks.peers.{peer}"],
        cwd=_PROJECT,
        env=os.environ | {"PYTHONPATH": "", **environment},
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout)


def _environment(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made where it is not there."""
    versions = Path(__file__).parent / "peers" / f"{peer}.txt"
    mark = hashlib.sha256(versions.read_bytes()).hexdigest()[:8]
    folder = (settings().home / "bench" / f"{peer}-{mark}").resolve()
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        say(f"{peer}: making its environment")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", folder],
            # What lies there is the whole tree.
            [*pip, "install", "--no-deps", "-r", versions],
        ):
            subprocess.run(command, check=True, stdout=sys.stderr)
        made.touch()
    return python

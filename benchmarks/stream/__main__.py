"""The stream as a whole, on real parts; `--parts` names what is measured.

`python -m benchmarks.stream` prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.report import say
from benchmarks.stream import payments
from benchmarks.stream.drain import drain, medians
from benchmarks.stream.open_loop import open_loop
from benchmarks.stream.peer_faust import drain_by_faust
from benchmarks.stream.recovery import LOADED_S, recovery
from benchmarks.stream.soak import soak
from benchmarks.stream.stack import PROJECT, commit, own_stack
from penstock.stack.stack import Stack

PARTS = ("drain", "sinks", "open_loop", "exactly_once", "recovery", "soak")
OPEN_LOOP_RATES = (1_000, 10_000)
SOAK_RATE = 2_000
LIBRARIES = ("confluent-kafka", "faust-streaming", "pyarrow", "numba", "onnxruntime")


class Run:
    """What the parts share: the arguments, the sets still unused, the drained payments."""

    def __init__(self, given: argparse.Namespace, stack: Stack) -> None:
        self.given = given
        self.stack = stack
        self._records: list[payments.Record] = []
        self._used = 0

    @property
    def records(self) -> list[payments.Record]:
        """The payments that are drained, drawn once."""
        if not self._records:
            say(f"drawing {self.given.events:,} payments")
            self._records = payments.payments(self.given.events, 4)
        return self._records

    def name(self) -> str:
        """A set that nothing has used."""
        self._used += 1
        return set_name(self._used)

    def drained(self, **how: bool) -> dict[str, Any]:
        """One drain over a new set."""
        return drain(self.stack, self.name(), self.records, **how)


def set_name(number: int) -> str:
    return f"bench_{number}"


def sets_of(given: argparse.Namespace) -> list[str]:
    """As many sets as the parts will use."""
    uses = {"drain": given.runs, "sinks": 2 * given.runs, "exactly_once": 2 * given.runs}
    uses |= {"open_loop": len(given.rate or OPEN_LOOP_RATES)}
    return [set_name(number + 1) for number in range(sum(uses.get(p, 1) for p in given.parts))]


def measure_drain(run: Run) -> dict[str, Any]:
    """Ours, then Faust's own way on as many of the same events as it can take."""
    ours = medians([run.drained() for _ in range(run.given.runs)])
    peer = drain_by_faust(run.stack.home / "logs", run.records[: run.given.peer_events])
    peer["times_slower"] = round(ours["events_per_s"] / peer["events_per_s"], 1)
    wanted = {"events_per_s": 50_000, "times_slower": 25}
    return {"penstock": ours, "peers": {"faust": peer}, "wanted": wanted}


def measure_sinks(run: Run) -> dict[str, Any]:
    """Turn by turn, so that what else the machine does falls on both."""
    plain, with_sinks = [], []
    for _ in range(run.given.runs):
        plain.append(run.drained())
        with_sinks.append(run.drained(sinks=True))
    found = {"plain": medians(plain), "with_sinks": medians(with_sinks)}
    rates = [each["events_per_s"] for each in found.values()]
    return found | {"share_of_plain": round(rates[1] / rates[0], 3), "wanted": 0.7}


def measure_exactly_once(run: Run) -> dict[str, Any]:
    once, at_least_once = [], []
    for _ in range(run.given.runs):
        once.append(run.drained())
        at_least_once.append(run.drained(plain=True))
    found = {"exactly_once": medians(once), "at_least_once": medians(at_least_once)}
    rates = [each["events_per_s"] for each in found.values()]
    return found | {"slower": round(1 - rates[0] / rates[1], 3), "wanted_at_most": 0.1}


def measure_open_loop(run: Run) -> dict[str, Any]:
    given = run.given
    return {
        f"{rate} events/s": open_loop(run.stack, run.name(), rate, given.seconds, given.keys)
        for rate in given.rate or OPEN_LOOP_RATES
    }


def measure_recovery(run: Run) -> dict[str, Any]:
    rate = (run.given.rate or (OPEN_LOOP_RATES[0],))[0]
    loaded_s = min(LOADED_S, run.given.seconds)
    return recovery(run.stack, run.name(), rate, run.given.keys, loaded_s)


def measure_soak(run: Run) -> dict[str, Any]:
    rate = (run.given.rate or (SOAK_RATE,))[0]
    return soak(run.stack, run.name(), rate, run.given.minutes)


MEASURE: dict[str, Callable[[Run], dict[str, Any]]] = {
    "drain": measure_drain,
    "sinks": measure_sinks,
    "open_loop": measure_open_loop,
    "exactly_once": measure_exactly_once,
    "recovery": measure_recovery,
    "soak": measure_soak,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--events", type=int, default=1_000_000, help="drained by a run")
    parser.add_argument("--runs", type=int, default=3, help="of each kind of drain")
    parser.add_argument("--peer-events", type=int, default=10_000, help="drained by Faust")
    parser.add_argument("--rate", type=int, nargs="+", help="events a second of an open loop")
    parser.add_argument("--seconds", type=int, default=300, help="of an open loop")
    parser.add_argument("--keys", type=int, default=1_000_000, help="in state beforehand")
    parser.add_argument("--minutes", type=float, default=60, help="of the soak")
    given = parser.parse_args(arguments)
    # What was started is ended also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    sets = sets_of(given)
    parts = ["kafka", "registry", "mlflow"] + (["redis"] if "sinks" in given.parts else [])
    with own_stack(sets, parts) as stack:
        say("making the model")
        command = [sys.executable, "-m", "benchmarks.stream.model", *sets]
        subprocess.run(command, cwd=PROJECT, check=True, stdout=sys.stderr)
        run = Run(given, stack)
        found = {}
        for part in given.parts:
            found[part] = MEASURE[part](run)
    told = {
        "benchmark": "stream",
        "settings": vars(given),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in LIBRARIES},
        "cpus": len(os.sched_getaffinity(0)),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(told | found, indent=2), flush=True)


if __name__ == "__main__":
    main()

"""Starts torchrun for one job and never leaves a process behind.

The launcher gets a session of its own, so that its whole process group can be ended when the caller
is interrupted, killed by its scheduler or fails; Airflow's task runner does none of that for us.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from training.errors import TrainingError
from training.job import Job, Outcome

KEPT_LINES = 30
"""Of torchrun's output, the last lines that an error repeats."""


def launch(job: Job, processes: int = 2) -> Outcome:
    """Run one training to its end, its output passed on to standard error.

    Raises:
        TrainingError: torchrun failed; its last lines are in the message.
    """
    folder = Path(job.folder)
    job_file = folder / "job.json"
    job_file.write_bytes(msgspec.json.format(msgspec.json.encode(job)))
    outcome_file = folder / "outcome.json"
    outcome_file.unlink(missing_ok=True)
    meeting = folder / "rendezvous"
    meeting.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "training.torchrun"),
        *("--nnodes", "1", "--nproc-per-node", str(processes)),
        *("--start-method", "forkserver", "--run-path"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", str(meeting)),
        *("--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"),
        *(str(Path(__file__).with_name("loop.py")), "--job", str(job_file)),
    ]
    tail: deque[str] = deque(maxlen=KEPT_LINES)
    with (
        _termination_raises(),
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(),
            start_new_session=True,
            preexec_fn=_end_with_parent,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                tail.append(line)
                print(line, end="", file=sys.stderr, flush=True)
            code = process.wait()
        finally:
            end_group(process)
            meeting.unlink(missing_ok=True)
    if code != 0 or not outcome_file.exists():
        raise TrainingError(f"torchrun ended with code {code}; its last lines:\n{''.join(tail)}")
    return msgspec.json.decode(outcome_file.read_bytes(), type=Outcome)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of the launcher's process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Turn SIGTERM into an exception meanwhile, because the default skips every `finally`."""

    def raise_exit(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with_parent() -> None:
    """Ask Linux to send torchrun SIGTERM when the launcher dies without a chance to do so."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root,
        # Each process has a core; more threads only fight for it.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # Keeps torchrun's agent from serving its own store on every interface.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }

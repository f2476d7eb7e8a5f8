"""What is left of a training that goes wrong; `test_pipeline` holds one that goes right."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from features.plan import Plan
from tests.training.history import START
from training.dataset import build
from training.errors import TrainingError
from training.job import Job
from training.launch import launch
from training.models.config import TabularConfig

pytestmark = pytest.mark.slow

DAY_S = 86_400


def job_in(folder: Path, plan: Plan, epochs: int) -> Job:
    return Job(
        folder=str(folder),
        columns=plan.column_names,
        config=TabularConfig(hidden=(16,), batch_rows=128),
        epochs=epochs,
        patience=epochs,
    )


@pytest.fixture
def dataset_folder(plan: Plan, history: Path, tmp_path: Path) -> Path:
    as_of = START.fromtimestamp(START.timestamp() + 35 * DAY_S, START.tzinfo)
    build(plan, tmp_path, as_of=as_of, train_days=7, validation_days=7)
    return tmp_path


def test_a_failure_repeats_what_torchrun_said(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"torchrun ended with code 1(.|\n)*train\.arrow"):
        launch(job_in(tmp_path, plan, epochs=1), processes=1)


def test_killing_the_launcher_leaves_no_process(plan: Plan, dataset_folder: Path) -> None:
    job_file = dataset_folder / "endless.json"
    job_file.write_bytes(msgspec.json.encode(job_in(dataset_folder, plan, epochs=100_000)))
    script = (
        "import sys, msgspec, pathlib; from training.job import Job; "
        "from training.launch import launch; "
        "launch(msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=Job))"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", script, str(job_file)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert launcher.stderr is not None
    for line in launcher.stderr:
        if line.startswith("epoch 2/"):
            break
    started = psutil.Process(launcher.pid).children(recursive=True)
    assert len(started) >= 3
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.stderr.close()
    launcher.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(alive(process) for process in started):
        time.sleep(0.2)
    assert [process for process in started if alive(process)] == []


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

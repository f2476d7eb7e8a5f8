"""What passes between the launcher and the training processes, both ways, as JSON files."""

import msgspec

from training.models.config import TabularConfig


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What every training process needs to know; `job.json` in the run's folder."""

    folder: str
    columns: list[str]
    config: TabularConfig
    epochs: int = 12
    patience: int = 5
    seed: int = 0
    mlflow_uri: str = ""
    run_id: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What rank 0 says at the end; `outcome.json` beside the weights."""

    best_epoch: int
    holdout_average_precision: float
    epochs: int
    processes: int
    backend: str
    onnx_max_difference: float
    seconds: float

"""From a trained module to the files that travel: weights, and a graph equal to the module.

The exported graph is the whole model, preprocessing and calibration included: input `features`
float32 [n, k], output `score` float32 [n], any n. It is checked against the module it came from.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from features.bundle import MODEL, WEIGHTS
from training.graph import check_equal, onnx_scores
from training.models import tabular


class ScoreGraph(nn.Module):
    """What is exported: the calibrated score as `forward`."""

    def __init__(self, model: tabular.TabularNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """float32 [n, k] → float32 [n]."""
        return self.model.score(features)


def torch_scores(
    model: tabular.TabularNet, features: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The module's scores, float32 [n]."""
    with torch.no_grad():
        scores: npt.NDArray[np.float32] = model.score(torch.from_numpy(features)).numpy()
    return scores


def export_onnx(model: tabular.TabularNet, columns: int, path: Path) -> None:
    """Write the graph; the number of rows stays free."""
    # The exporter reports every operator of libraries that are not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # torch's exporter still asks its own deprecated question about tree specs.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        torch.onnx.export(
            ScoreGraph(model).eval(),
            (torch.zeros(2, columns),),
            path,
            input_names=["features"],
            output_names=["score"],
            dynamic_shapes={"features": {0: torch.export.Dim("rows")}},
            external_data=False,
            verbose=False,
        )


def finish(
    model: tabular.TabularNet,
    columns: Sequence[str],
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int8],
    folder: Path,
) -> float:
    """Calibrate on validation rows, then write `model.safetensors` and `model.onnx`.

    Args:
        model: trained, in evaluation mode.
        columns: the k input names.
        features: validation rows, float32 [n, k].
        labels: 0 or 1, [n].
        folder: receives both files.

    Returns:
        The largest difference between the scores of module and graph.

    Raises:
        TrainingError: the graph does not equal the module.
    """
    with torch.no_grad():
        logits = model(torch.from_numpy(features))
    model.calibrate(logits, torch.from_numpy(labels.astype(np.float32)))
    tabular.save(model, columns, folder / WEIGHTS)
    export_onnx(model, len(columns), folder / MODEL)
    return check_equal(
        torch_scores(model, features), onnx_scores(folder / MODEL, features), "the exported graph"
    )

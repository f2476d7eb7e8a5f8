"""From a trained module to a bundle: ONNX, safetensors, drift reference and manifest.

The exported graph is the whole model, preprocessing and calibration included: input `features`
float32 [n, k], output `score` float32 [n], any n. It is checked against the module it came from.
"""

import json
import logging
import platform
import subprocess
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from features import bundle
from features.bundle import Manifest
from features.plan import Plan
from kernels import histogram
from training.graph import check_equal, onnx_scores
from training.models import tabular

DRIFT_BINS = 10
SCORE = "score"


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


def drift_reference(
    columns: Sequence[str],
    features: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float32],
) -> dict[str, object]:
    """Histograms of the training rows, as `kernels.histogram` bins live rows.

    Args:
        columns: names of the k features.
        features: raw values, float64 [n, k].
        scores: the model's scores of the same rows, float32 [n].

    Returns:
        `{"columns": {name: {"edges": […], "counts": […]}}, "rows": n}` with one more count than
        cut points; the model's output is named `score`.
    """
    values = np.column_stack([features, scores.astype(np.float64)])
    names = [*columns, SCORE]
    cuts = [_safe_cuts(values[:, j]) for j in range(len(names))]
    edges, n_edges = histogram.pad_edges(cuts)
    counts = np.zeros((len(names), edges.shape[1] + 1), dtype=np.int64)
    histogram.fold(values, edges, n_edges, counts)
    return {
        "columns": {
            name: {"edges": cut.tolist(), "counts": counts[j, : len(cut) + 1].tolist()}
            for j, (name, cut) in enumerate(zip(names, cuts, strict=True))
        },
        "rows": len(values),
    }


def write_bundle(
    folder: Path,
    plan: Plan,
    model: tabular.TabularNet,
    *,
    train_features: npt.NDArray[np.float64],
    validation_features: npt.NDArray[np.float32],
    thresholds: dict[str, float],
    metrics: dict[str, float],
    dataset_fingerprint: str,
) -> Manifest:
    """Fill `folder` with everything serving needs.

    Args:
        folder: is made; files of an earlier attempt are replaced.
        plan: the feature set the model was trained for.
        model: calibrated, in evaluation mode.
        train_features: raw training rows, float64 [n, k], the drift reference.
        validation_features: rows the graph is checked on, float32 [m, k].
        thresholds: lowest score by decision.
        metrics: what was measured on the validation days.
        dataset_fingerprint: SHA-256 of the training set.

    Raises:
        TrainingError: the graph does not equal the module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    export_onnx(model, len(plan.columns), folder / bundle.MODEL)
    difference = check_equal(
        torch_scores(model, validation_features),
        onnx_scores(folder / bundle.MODEL, validation_features),
        "the exported graph",
    )
    tabular.save(model, plan.column_names, folder / bundle.WEIGHTS)
    scores = torch_scores(model, train_features.astype(np.float32))
    reference = drift_reference(plan.column_names, train_features, scores)
    (folder / bundle.DRIFT_REFERENCE).write_text(json.dumps(reference))
    return bundle.write_manifest(
        folder,
        plan,
        thresholds=thresholds,
        metrics={**metrics, "onnx_max_difference": difference},
        dataset_fingerprint=dataset_fingerprint,
        environment=environment(),
        git_commit=git_commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def environment() -> dict[str, str]:
    """What the model was made with."""
    libraries = ("torch", "onnx", "onnxruntime", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in libraries},
    }


def git_commit() -> str:
    """The commit of the running code; empty where it is no git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _safe_cuts(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cut points half-way between neighbouring training values.

    A cut on a value itself would count that value one bin lower wherever it was rounded to float32.
    """
    cuts = histogram.quantile_edges(values, DRIFT_BINS)
    distinct = np.unique(values)
    below = distinct[np.searchsorted(distinct, cuts) - 1]
    middles: npt.NDArray[np.float64] = below + (cuts - below) / 2
    return middles

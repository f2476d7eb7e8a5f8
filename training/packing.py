"""The bundle: a trained model's files together with what describes them."""

import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features import bundle
from features.bundle import Manifest
from features.plan import Plan
from kernels import histogram

DRIFT_BINS = 10
SCORE = "score"


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
    trained: Path,
    *,
    train_features: npt.NDArray[np.float64],
    train_scores: npt.NDArray[np.float32],
    thresholds: dict[str, float],
    metrics: dict[str, float],
    dataset_fingerprint: str,
) -> Manifest:
    """Fill `folder` with everything serving needs.

    Args:
        folder: is made; files of an earlier attempt are replaced.
        plan: the feature set the model was trained for.
        trained: the folder where training left `model.onnx` and `model.safetensors`.
        train_features: raw training rows, float64 [n, k], the drift reference.
        train_scores: the model's scores of them, float32 [n].
        thresholds: lowest score by decision.
        metrics: what was measured on the validation days.
        dataset_fingerprint: SHA-256 of the training set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name in (bundle.MODEL, bundle.WEIGHTS):
        shutil.copyfile(trained / name, folder / name)
    reference = drift_reference(plan.column_names, train_features, train_scores)
    (folder / bundle.DRIFT_REFERENCE).write_text(json.dumps(reference))
    return bundle.write_manifest(
        folder,
        plan,
        thresholds=thresholds,
        metrics=metrics,
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

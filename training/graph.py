"""Running an exported graph and comparing its scores, without loading torch."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from training.errors import TrainingError

Vectors = npt.NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference of a score between two ways of computing it: float32 sums in another order."""


def session(
    model: Path,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    optimised: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session on one CPU thread; writes the optimised graph where `optimised` says."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(
        str(model), sess_options=options, providers=["CPUExecutionProvider"]
    )


def run(loaded: onnxruntime.InferenceSession, features: Vectors) -> Vectors:
    """Scores float32 [n] of `features` float32 [n, k]."""
    scores: Vectors = loaded.run(["score"], {"features": features})[0]
    return scores


def onnx_scores(model: Path, features: Vectors) -> Vectors:
    """Scores float32 [n] of `features` float32 [n, k] by the graph in a file."""
    return run(session(model), features)


def check_equal(expected: Vectors, found: Vectors, what: str) -> float:
    """The largest difference of two score vectors.

    Raises:
        TrainingError: it is above the tolerance.
    """
    difference = float(np.max(np.abs(expected - found)))
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"{what} differs by {difference:.3g} on {expected.size} rows, at most {TOLERANCE:g} is "
            "allowed; an operation does not export exactly, or another onnxruntime is needed"
        )
    return difference

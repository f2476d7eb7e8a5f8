"""What computes scores: ONNX Runtime over the bundle's model."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from features.errors import BundleError

INPUT, OUTPUT = "features", "score"
_WARM_UP_ROWS = (1, 16, 256)


class OnnxEngine:
    """The bundle's `model.onnx` in a session of its own.

    Args:
        path: the ONNX file; input `features` float32 [n, columns], output `score` float32 [n].
        columns: how many columns the plan has.
        threads: threads of one inference; batches are small, so more than two only wait.

    Raises:
        BundleError: the file is no model, has other inputs or outputs, or gives no usable score.
    """

    def __init__(self, path: Path, columns: int, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            # The model's bytes, not its path: the file may be replaced while the session lives.
            self._session = ort.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            # ONNX Runtime's errors share no public base class.
        except Exception as error:
            raise BundleError(f"{path} is no model ONNX Runtime can load: {error}") from error
        self._check_shape(path, columns)
        self._self_test(path, columns)

    def _check_shape(self, path: Path, columns: int) -> None:
        found = [
            (end.name, end.type, len(end.shape))
            for end in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        wanted = [(INPUT, "tensor(float)", 2), (OUTPUT, "tensor(float)", 1)]
        width = self._session.get_inputs()[0].shape[-1]
        if found != wanted or (isinstance(width, int) and width != columns):
            raise BundleError(
                f"{path} has inputs and outputs {found} with {width} columns, "
                f"{wanted} with {columns} columns were expected; export the model again"
            )

    def _self_test(self, path: Path, columns: int) -> None:
        """Warms up every batch size class and refuses a model whose scores are no scores."""
        random = np.random.default_rng(0)
        for rows in _WARM_UP_ROWS:
            matrix = random.lognormal(1, 2, (rows, columns)).astype(np.float32)
            scores = self.score(matrix)
            if scores.shape != (rows,) or not ((scores >= 0) & (scores <= 1)).all():
                raise BundleError(
                    f"{path} gives scores of shape {scores.shape} or outside 0 to 1 for "
                    f"{rows} rows; export the model again"
                )
            alone = self.score(matrix[-1:])
            if not np.allclose(alone, scores[-1:], atol=1e-5):
                raise BundleError(
                    f"{path} scores a row {alone[0]} alone and {scores[-1]} among {rows}; "
                    "a score may not depend on its neighbours: export the model again"
                )

    def score(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores [n] of rows [n, columns]."""
        (scores,) = self._session.run([OUTPUT], {INPUT: matrix})
        return np.asarray(scores, dtype=np.float64)

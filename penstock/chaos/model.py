"""A model for a chain that nobody trained one for: the logistic of a weighted sum of every column.

Its weights are such that a change of any column changes the score.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from features import bundle
from features.plan import Plan

THRESHOLDS = {"review": 0.5, "block": 0.8}


def write_bundle(folder: Path, plan: Plan) -> Path:
    """Write a complete bundle for a plan, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / bundle.MODEL).write_bytes(_network(len(plan.columns)))
    (folder / bundle.WEIGHTS).write_bytes(b"")
    still = {"edges": [], "counts": [1]}
    names = [*plan.column_names, "score"]
    reference = {"rows": 1, "columns": dict.fromkeys(names, still)}
    (folder / bundle.DRIFT_REFERENCE).write_text(json.dumps(reference))
    bundle.write_manifest(
        folder,
        plan,
        thresholds=THRESHOLDS,
        metrics={},
        dataset_fingerprint="",
        environment={},
        git_commit="",
        created=datetime.now(UTC).isoformat(),
    )
    return folder


def register(plan: Plan, folder: Path) -> str:
    """Make a bundle the champion; returns its version.

    Raises:
        ServiceUnavailableError: the registry does not answer.
    """
    from training.registry import Registry

    registry = Registry()
    experiment = registry.client.create_experiment(plan.name)
    run = registry.client.create_run(experiment)
    version = registry.register(plan.name, run.info.run_id, folder, {})
    registry.promote(version)
    return version.version


def _network(columns: int) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    # Columns are counts, prices of some hundreds and shares: squeezed, each weighs about as much.
    weights = np.linspace(-1, 1, columns).astype(np.float32) + np.float32(0.1)
    nodes = [
        helper.make_node("Abs", ["features"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["above"]),
        helper.make_node("Log", ["above"], ["squeezed"]),
        helper.make_node("Mul", ["squeezed", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["sum"], keepdims=0),
        helper.make_node("Sigmoid", ["sum"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chaos",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            onnx.numpy_helper.from_array(np.array([1], np.float32), "one"),
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    content: bytes = model.SerializeToString()
    return content

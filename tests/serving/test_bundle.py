import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from features import bundle
from features.errors import BundleError
from serving.bundle import load
from serving.engines import OnnxEngine
from serving.settings import ServingSettings
from tests.serving.parts import new_plan, write_bundle, write_model


def test_a_bundle_is_loaded_and_scores_what_its_model_says(tmp_path):
    plan = new_plan()
    loaded = load(write_bundle(tmp_path, plan), plan, "7", ServingSettings())
    matrix = np.zeros((3, len(plan.columns)), np.float32)
    matrix[:, 0] = [100, 300, 500]
    scores = loaded.engine.score(matrix)
    assert scores == pytest.approx(1 / (1 + np.exp([0, -2, -4])), abs=1e-6)
    assert loaded.decisions.of(scores) == ["review", "review", "block"]
    assert loaded.version == "7"
    assert loaded.drift.columns == [*plan.column_names, "score"]


def test_a_changed_file_is_refused_before_it_is_loaded(tmp_path):
    plan = new_plan()
    folder = write_bundle(tmp_path, plan)
    write_model(folder / bundle.MODEL, len(plan.columns), weight=0.02)
    with pytest.raises(BundleError, match="SHA-256"):
        load(folder, plan, "1", ServingSettings())


def test_a_bundle_of_another_definition_is_refused(tmp_path):
    folder = write_bundle(tmp_path, new_plan())
    with pytest.raises(BundleError, match="feature set"):
        load(folder, new_plan(), "1", ServingSettings())


def test_a_damaged_drift_reference_is_refused(tmp_path):
    plan = new_plan()
    folder = write_bundle(tmp_path, plan)
    (folder / bundle.DRIFT_REFERENCE).write_text(json.dumps({"rows": 1}))
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest["files"][bundle.DRIFT_REFERENCE] = bundle.sha256_of(folder / bundle.DRIFT_REFERENCE)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no drift reference"):
        load(folder, plan, "1", ServingSettings())


@pytest.mark.parametrize(
    ("columns", "model", "said"),
    [
        (4, {"weight": 0.01}, "with 5 columns"),
        (5, {"weight": 0.01, "output": "other"}, "inputs and outputs"),
        (5, {"weight": float("nan")}, "outside 0 to 1"),
    ],
)
def test_a_model_of_the_wrong_shape_or_without_scores_is_refused(tmp_path, columns, model, said):
    write_model(tmp_path / "model.onnx", columns, **model)
    with pytest.raises(BundleError, match=said):
        OnnxEngine(tmp_path / "model.onnx", 5)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="no model"):
        OnnxEngine(tmp_path / "model.onnx", 5)


def test_a_model_that_looks_at_neighbouring_rows_is_refused(tmp_path):
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["score"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert onnx.load(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="neighbours"):
        OnnxEngine(tmp_path / "model.onnx", 5)

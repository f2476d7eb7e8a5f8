"""Export, packing and compilation of a model."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from features import bundle
from features.plan import Plan
from kernels import histogram
from training import compile as compiling
from training.errors import TrainingError
from training.export import finish
from training.graph import check_equal, onnx_scores
from training.models import tabular
from training.models.config import TabularConfig
from training.packing import drift_reference, write_bundle


def vectors(plan: Plan, n: int, seed: int) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    drawn = generator.lognormal(2, 1, (n, len(plan.columns)))
    drawn[:, 1] = generator.integers(0, 2, n)
    drawn[:, 2] = 7
    drawn[:, 3] = generator.random(n) * (generator.random(n) < 0.03)
    return drawn


@pytest.fixture(scope="module")
def packed(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained model; its folder."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = tabular.TabularNet(len(plan.columns), TabularConfig(hidden=(16, 8))).eval()
    train, validation = vectors(plan, 3000, 0), vectors(plan, 500, 1).astype(np.float32)
    model.fit_inputs(torch.from_numpy(train.astype(np.float32)))
    labels = (np.arange(500) % 9 == 0).astype(np.int8)
    assert finish(model, plan.column_names, validation, labels, folder) <= 1e-5
    write_bundle(
        folder / "bundle",
        plan,
        folder,
        train_features=train,
        train_scores=onnx_scores(folder / "model.onnx", train.astype(np.float32)),
        thresholds={"review": 0.2, "block": 0.6},
        metrics={"average_precision": 0.5},
        dataset_fingerprint="f" * 64,
    )
    return folder / "bundle"


def test_graph_takes_raw_features_of_any_number_of_rows(packed: Path, plan: Plan) -> None:
    graph = onnx.load(packed / "model.onnx").graph
    assert [(value.name, value.type.tensor_type.elem_type) for value in graph.input] == [
        ("features", onnx.TensorProto.FLOAT)
    ]
    assert [value.name for value in graph.output] == ["score"]
    model, _ = tabular.load(packed / "model.safetensors")
    for rows in (1, 3, 777):
        features = vectors(plan, rows, rows).astype(np.float32)
        scores = onnx_scores(packed / "model.onnx", features)
        assert scores.dtype == np.float32
        assert scores.shape == (rows,)
        with torch.no_grad():
            expected = model.score(torch.from_numpy(features)).numpy()
        assert np.abs(scores - expected).max() <= 1e-5


def test_a_graph_that_differs_is_refused() -> None:
    scores = np.array([0.5, 0.6], np.float32)
    assert check_equal(scores, scores, "the graph") == 0
    for other in (scores + np.float32(2e-5), np.array([0.5, np.nan], np.float32)):
        with pytest.raises(TrainingError, match="the graph differs"):
            check_equal(scores, other, "the graph")


def test_the_bundle_verifies_and_says_what_made_it(packed: Path, plan: Plan) -> None:
    manifest = bundle.verify(packed, plan)
    assert set(manifest.files) == set(bundle.REQUIRED)
    assert manifest.environment["onnxruntime"] == onnxruntime.__version__
    assert manifest.thresholds == {"review": 0.2, "block": 0.6}


def test_drift_reference_counts_every_training_row_as_live_rows_are_counted(plan: Plan) -> None:
    features = vectors(plan, 5000, 4)
    scores = np.random.default_rng(0).random(5000).astype(np.float32)
    reference = json.loads(json.dumps(drift_reference(plan.column_names, features, scores)))
    assert list(reference["columns"]) == [*plan.column_names, "score"]
    assert reference["rows"] == 5000
    columns = reference["columns"].values()
    edges, n_edges = histogram.pad_edges([np.array(column["edges"]) for column in columns])
    counts = np.zeros((len(columns), edges.shape[1] + 1), np.int64)
    # The live side may have rounded the same values to float32.
    live = np.column_stack([features.astype(np.float32), scores]).astype(np.float64)
    histogram.fold(live, edges, n_edges, counts)
    for j, column in enumerate(columns):
        assert len(column["counts"]) == len(column["edges"]) + 1
        assert sum(column["counts"]) == 5000
        assert np.abs(counts[j, : len(column["counts"])] - column["counts"]).max() <= 1
    named = reference["columns"]
    assert len(named[plan.column_names[1]]["counts"]) == 2
    assert named[plan.column_names[2]]["counts"] == [5000]
    assert len(named["score"]["counts"]) == 10


def test_engines_are_built_recorded_and_hashed(packed: Path, tmp_path: Path) -> None:
    engines = compiling.compile_bundle(packed, tmp_path / "engines")
    record = json.loads((tmp_path / "engines" / "engines.json").read_bytes())
    assert record["model_sha256"] == bundle.sha256_of(packed / "model.onnx")
    assert engines["onnxruntime"].status == "verified"
    made = [engine for engine in engines.values() if engine.file]
    for engine in made:
        assert engine.sha256 == bundle.sha256_of(tmp_path / "engines" / engine.file)
    features = compiling.probe_rows(packed)
    assert np.array_equal(
        onnx_scores(packed / "model.onnx", features),
        onnx_scores(tmp_path / "engines" / "optimised.onnx", features),
    )


def test_tensorrt_builds_an_engine_or_says_why_not(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra `gpu` is not installed")
    engine = compiling.build_tensorrt(packed / "model.onnx", tmp_path / "engine")
    assert engine.status == "built"
    assert engine.targets == ["SM89", "SM120"]
    assert (tmp_path / "engine").stat().st_size > 1000
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    refused = compiling.build_tensorrt(tmp_path / "broken.onnx", tmp_path / "none")
    assert refused.status == "absent"
    assert "Failed to parse" in refused.reason
    assert not (tmp_path / "none").exists()

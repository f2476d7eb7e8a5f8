"""From a feature table to a champion, on a real MLflow server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from features import bundle
from features.errors import ServiceUnavailableError
from features.plan import Plan
from tests.conftest import SessionStack
from training import pipeline
from training.errors import TrainingError
from training.models import tabular
from training.registry import Registry
from training.settings import settings
from training.tracking import Tracker

pytestmark = pytest.mark.slow

Result = dict[str, Any]


@pytest.fixture(scope="module")
def mlflow(stack: SessionStack) -> str:
    stack.require("mlflow")
    client = Registry().client
    # Tests of other packages register models of the same feature set in the session's server.
    if client.search_registered_models("name = 'card_fraud'"):
        client.delete_registered_model("card_fraud")
    return settings().mlflow_uri


@pytest.fixture(scope="module")
def first(mlflow: str, history: Path) -> Result:
    """What `penstock train --json` printed: the result of every step of one whole run."""
    options = ("--train-days", "7", "--epochs", "8", "--seed", "3", "--json")
    done = penstock_train(*options)
    assert done.returncode == 0, done.stderr
    result: Result = json.loads(done.stdout)
    return result


def penstock_train(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", "train", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def travelled(result: Result) -> Result:
    arrived: Result = json.loads(json.dumps(result))
    return arrived


def as_new_run(result: Result, mlflow: str) -> Result:
    """The same trained model as if another run had trained it."""
    tracker = Tracker.start(mlflow, "card_fraud", "again", params={}, tags={})
    return {**result, "run_id": tracker.run_id}


def test_a_first_model_becomes_champion_and_its_bundle_can_be_fetched(
    first: Result, plan: Plan, tmp_path: Path
) -> None:
    assert first["promoted"]
    assert first["reason"].startswith("there is no champion")
    registry = Registry()
    champion = registry.champion("card_fraud")
    assert champion is not None
    assert champion.version == first["version"] == first["champion_after"]
    assert champion.tags["decision_reason"] == first["reason"]
    fetched = registry.download("card_fraud", "champion", tmp_path)
    manifest = bundle.verify(fetched, plan)
    assert manifest.dataset_fingerprint == first["dataset"]["dataset_fingerprint"]
    assert manifest.metrics == first["metrics"]
    assert manifest.metrics["average_precision"] > 5 * manifest.metrics["positive_share"]
    assert 0 < manifest.thresholds["review"] < manifest.thresholds["block"] <= 1


def test_two_processes_trained_one_model_that_equals_its_graph(first: Result, plan: Plan) -> None:
    outcome = first["outcome"]
    assert outcome["processes"] == 2
    assert outcome["backend"] == ("nccl" if torch.cuda.device_count() >= 2 else "gloo")
    assert outcome["onnx_max_difference"] <= 1e-5
    folder = Path(first["dataset"]["folder"])
    assert tabular.load(folder / "model.safetensors")[1] == plan.column_names
    assert not (folder / "rendezvous").exists()


def test_the_run_holds_curves_parameters_and_fingerprints(first: Result, plan: Plan) -> None:
    client = Registry().client
    run = client.get_run(first["run_id"])
    curve = client.get_metric_history(first["run_id"], "holdout_average_precision")
    assert [point.step for point in curve] == list(range(first["outcome"]["epochs"]))
    assert max(p.value for p in curve) == first["outcome"]["holdout_average_precision"]
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert run.data.params["processes"] == "2"
    assert run.data.tags["feature_fingerprint"] == plan.fingerprint
    assert run.data.tags["dataset_fingerprint"] == first["dataset"]["dataset_fingerprint"]
    assert run.data.tags["decision"] == "promoted"
    assert run.data.metrics["average_precision"] == first["metrics"]["average_precision"]


def test_engines_lie_beside_the_bundle_with_their_hashes(first: Result, tmp_path: Path) -> None:
    client = Registry().client
    folder = Path(client.download_artifacts(first["run_id"], "engines", str(tmp_path)))
    record = json.loads((folder / "engines.json").read_bytes())
    assert record["engines"]["onnxruntime"]["status"] == "verified"
    for engine in record["engines"].values():
        if engine.get("file"):
            assert bundle.sha256_of(folder / engine["file"]) == engine["sha256"]


def test_an_equal_challenger_is_registered_refused_and_not_compiled(
    first: Result, mlflow: str
) -> None:
    again = pipeline.promote(travelled(pipeline.evaluate(as_new_run(first, mlflow))))
    assert again["champion_before"] == first["version"]
    assert again["champion_metrics"]["average_precision"] == pytest.approx(
        again["metrics"]["average_precision"], abs=1e-9
    )
    assert not again["promoted"]
    assert again["champion_after"] == first["version"]
    refused = Registry().get("card_fraud", again["version"])
    assert refused.tags["decision"] == "refused"
    assert "does not reach the margin" in refused.tags["decision_reason"]
    assert "refused" in pipeline.compile_engines(again)["engines"]["reason"]


def test_promoting_a_second_time_changes_nothing(first: Result) -> None:
    before = len(Registry().client.search_model_versions("name = 'card_fraud'"))
    assert pipeline.promote(travelled(first)) == first
    assert pipeline.promote(travelled(pipeline.evaluate(first)))["promoted"]
    assert len(Registry().client.search_model_versions("name = 'card_fraud'")) == before


def test_a_promotion_that_was_cut_short_is_finished(first: Result, mlflow: str) -> None:
    registry = Registry()
    registry.client.delete_registered_model_alias("card_fraud", "champion")
    assert registry.champion("card_fraud") is None
    assert pipeline.promote(travelled(first))["champion_after"] == first["version"]
    champion = registry.champion("card_fraud")
    assert champion is not None
    assert champion.version == first["version"]


def test_a_verdict_about_a_champion_that_was_replaced_is_not_applied(
    first: Result, mlflow: str
) -> None:
    evaluated = {**as_new_run(first, mlflow), "champion_before": None}
    with pytest.raises(TrainingError, match="evaluate again"):
        pipeline.promote(evaluated)
    champion = Registry().champion("card_fraud")
    assert champion is not None
    assert champion.version == first["version"]


@pytest.fixture
def damaged_champion(first: Result, plan: Plan) -> Iterator[None]:
    """Replace the champion's stored graph for a while."""
    client, folder = Registry().client, Path(first["dataset"]["folder"]) / "damaged"
    folder.mkdir()
    (folder / bundle.MODEL).write_bytes(b"something else")
    client.log_artifact(first["run_id"], str(folder / bundle.MODEL), "bundle")
    yield
    client.log_artifact(first["run_id"], str(Path(first["bundle"]) / bundle.MODEL), "bundle")


@pytest.mark.usefixtures("damaged_champion")
def test_a_damaged_champion_stops_the_comparison(first: Result, mlflow: str) -> None:
    with pytest.raises(TrainingError, match="fails its checks"):
        pipeline.evaluate(as_new_run(first, mlflow))


def test_a_changed_definition_stops_the_later_steps(first: Result) -> None:
    changed = travelled(first)
    changed["dataset"]["fingerprint"] = "0123456789abcdef"
    with pytest.raises(TrainingError, match="start from build_dataset"):
        pipeline.evaluate(changed)


def test_an_unknown_version_is_named(mlflow: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no version '999'"):
        Registry().download("card_fraud", "999", tmp_path)


def test_without_a_server_the_command_says_how_to_start_it(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_MLFLOW_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailableError, match="penstock up mlflow"):
        Registry()
    done = penstock_train("--train-days", "7")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("penstock: MLflow does not answer")
    assert "Traceback" not in done.stderr

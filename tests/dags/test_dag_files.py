"""What Airflow finds when it parses `dags/`: both DAGs, complete, and no heavy import."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
CHAIN = [
    "backfill",
    "gate",
    "publish",
    "dataset",
    "train",
    "evaluate",
    "promote",
    "compile_engines",
]
HEAVY = {
    "deltalake",
    "evidently",
    "feast",
    "great_expectations",
    "mlflow",
    "numba",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "pyspark",
    "torch",
}


OWN = """
from features.vocabulary import *
who = Entity("who_id")
calls = Event("calls.v1", id="call_id", time="at", key=who, fields={"who_id": Text()})
dropped = Label("dropped.v1", of=calls, field="is_dropped", known_after=hours(1))
calls_mine = FeatureSet(
    "calls_mine", event=calls, label=dropped, features=[count(by=who, over=days(1))]
)
calls_open = FeatureSet("calls_open", event=calls, features=[count(by=who, over=days(1))])
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("definitions")
    (folder / "calls.py").write_text(OWN)
    (folder / "broken.py").write_text("x = (\n")
    own = {"PENSTOCK_DEFINITIONS": str(folder)}
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.dags.describe"],
        env=os.environ | own | {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def upstream(dag: dict[str, Any]) -> dict[str, list[str]]:
    return {name: task["upstream"] for name, task in dag["tasks"].items()}


def test_dag_files_import_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert "airflow" in parsed["modules"]
    assert set(parsed["modules"]) & HEAVY == set()


def test_every_feature_set_with_a_label_has_both_dags(parsed: dict[str, Any]) -> None:
    kinds = ("retrain_on_drift", "training")
    names = ("calls_mine", "card_fraud")
    assert sorted(parsed["dags"]) == [f"{name}_{kind}" for name in names for kind in kinds]


def test_training_runs_its_steps_one_after_the_other(parsed: dict[str, Any]) -> None:
    edges = upstream(parsed["dags"]["card_fraud_training"])
    assert list(edges) == CHAIN
    for before, after in itertools.pairwise(CHAIN):
        assert before in edges[after]
        assert set(edges[after]) <= set(CHAIN[: CHAIN.index(after)])


def test_retraining_waits_for_labels_and_then_runs_the_same_steps(parsed: dict[str, Any]) -> None:
    edges = upstream(parsed["dags"]["card_fraud_retrain_on_drift"])
    training = upstream(parsed["dags"]["card_fraud_training"])
    assert edges["drift_report"] == edges["await_labels"] == ["read_drift"]
    assert edges["backfill"] == ["await_labels"]
    assert {name: edges[name] for name in CHAIN[1:]} == {n: training[n] for n in CHAIN[1:]}


@pytest.mark.parametrize("name", ["card_fraud_training", "card_fraud_retrain_on_drift"])
def test_dag_explains_itself_and_is_bounded(parsed: dict[str, Any], name: str) -> None:
    dag = parsed["dags"][name]
    assert not dag["catchup"]
    assert dag["max_active_runs"] == 1
    assert "payments.transaction.v1" in dag["doc_md"]
    assert "card_fraud" in dag["tags"]
    assert {"as_of", "train_days", "validation_days", "epochs", "seed"} <= set(dag["params"])
    assert all(dag["params"].values())
    for task_id, task in dag["tasks"].items():
        assert task["owner"] == "payments-risk"
        assert task["retries"] >= 2
        assert task["timeout_s"] or task_id == "await_labels"

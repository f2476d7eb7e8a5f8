"""`penstock plan`, and how the command line speaks to a user who is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from features.catalog import load_plan
from features.settings import settings
from penstock.commands import definitions

PLAN = load_plan("card_fraud")


def penstock(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_plan_prints_stages_columns_topics_and_changes_as_json(tmp_path: Path) -> None:
    result = penstock("plan", "card_fraud", "--json", PENSTOCK_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert [stage["name"] for stage in plan["stages"]] == ["customer", "terminal"]
    assert [column["name"] for column in plan["columns"]] == PLAN.column_names
    assert "payments.transaction.v1.dlq" in plan["topics"]
    assert "service card_fraud" in plan["feast"]
    assert plan["changes"] == ["+ feature set card_fraud v1 (not applied yet)"]


def test_plan_says_what_would_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "home", tmp_path)
    applied = json.loads(json.dumps(PLAN.to_dict()))
    record = tmp_path / "applied" / "card_fraud.json"
    record.parent.mkdir()
    record.write_text(json.dumps(applied))
    assert definitions.summarise(PLAN)["changes"] == []
    applied["fingerprint"] = "0" * 16
    applied["lateness_us"] = 5
    applied["columns"][0]["name"] = "size"
    record.write_text(json.dumps(applied))
    assert definitions.summarise(PLAN)["changes"] == [
        f"~ fingerprint {'0' * 16} → {PLAN.fingerprint}",
        "- column size",
        "+ column amount",
        "~ lateness_us: 5 → 3600000000",
    ]


def test_unknown_feature_set_is_one_sentence_and_no_traceback() -> None:
    result = penstock("plan", "card_fruad")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "did you mean 'card_fraud'" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_unknown_service_is_refused_with_a_suggestion() -> None:
    result = penstock("run", "scorre")
    assert result.returncode == 2
    assert "did you mean 'scorer'" in result.stderr
    assert "Traceback" not in result.stderr

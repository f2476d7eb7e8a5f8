"""`penstock plan`, and how the command line speaks to a user who is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from features.catalog import load_plan
from features.errors import PenstockError
from features.plan import compile_plan
from features.settings import settings
from features.vocabulary import Entity, Event, Feature, FeatureSet, Text, count, hours
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
    assert plan["applied"] is None
    assert plan["refused"] == ""
    assert [(change["kind"], change["what"]) for change in plan["changes"]] == [
        ("added", "feature set card_fraud v1")
    ]


def test_plan_tells_the_fields_of_a_key_and_an_entity_for_each() -> None:
    pair = Entity("who_id", "shop_id")
    sale = Event(
        "sale.v1",
        id="sale_id",
        time="at",
        key=Entity("who_id"),
        fields={"who_id": Text(), "shop_id": Text()},
    )
    wanted: list[Feature] = [count(by=pair, over=hours(1))]
    plan = compile_plan(FeatureSet("sales", event=sale, features=wanted))
    told = definitions.summarise(plan, None)
    assert [(stage["key"], stage["key_fields"]) for stage in told["stages"]] == [
        ("who_id", ["who_id"]),
        ("who_shop_key", ["who_id", "shop_id"]),
    ]
    assert [each for each in told["feast"] if each.startswith("entity")] == [
        "entity who",
        "entity shop",
    ]


def record_applied(home: Path, **changed: Any) -> None:
    """As if a plan had been applied that differs from today's."""
    record = home / "applied" / "card_fraud.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(PLAN.to_dict() | changed))


def test_plan_prints_the_difference_from_what_is_applied(tmp_path: Path) -> None:
    home = {"PENSTOCK_HOME": str(tmp_path)}
    record_applied(tmp_path)
    assert "nothing: this plan is applied" in penstock("plan", **home).stdout
    record_applied(tmp_path, fingerprint="0" * 16, lateness_us=5_000_000, owner="me [x]")
    said = penstock("plan", **home).stdout
    assert "  ~ lateness: 5s → 1h\n" in said
    assert "  ~ owner: me [x] → payments-risk\n" in said
    assert "Would be refused" in said
    plan = json.loads(penstock("plan", "--json", **home).stdout)
    assert plan["applied"] == {"version": 1, "fingerprint": "0" * 16}
    assert {change["what"]: change["alters"] for change in plan["changes"]} == {
        "owner": False,
        "lateness_us": True,
    }
    assert "version=2" in plan["refused"]


@pytest.fixture
def applying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `apply` makes, without the brokers, the registry and the store."""
    made: list[str] = []
    monkeypatch.setattr(settings(), "home", tmp_path)
    monkeypatch.setattr("streaming.topics.ensure", lambda plan: made.append("topics"))
    monkeypatch.setattr("features.store.apply", lambda plan: made.append("store"))
    return made


def test_apply_refuses_other_values_under_the_same_version(
    tmp_path: Path, applying: list[str]
) -> None:
    record_applied(tmp_path, fingerprint="0" * 16, lateness_us=5_000_000, owner="me")
    with pytest.raises(PenstockError, match=r"lateness: 5s → 1h; .*version=2") as raised:
        definitions.apply("card_fraud")
    assert "owner" not in str(raised.value)
    assert applying == []


def test_apply_takes_what_no_value_depends_on_and_may_be_repeated(
    tmp_path: Path, applying: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    record_applied(tmp_path, owner="me")
    definitions.apply("card_fraud")
    assert "  ~ owner: me → payments-risk\n" in capsys.readouterr().out
    definitions.apply("card_fraud", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"applied": PLAN.fingerprint, "changes": []}
    assert applying == ["topics", "store"] * 2


def test_plan_shows_references_and_their_topics(tmp_path: Path) -> None:
    file = tmp_path / "shops.py"
    file.write_text(
        "from features.vocabulary import *\n"
        "shop = Entity('shop_id')\n"
        "sales = Event('shops.sale.v1', id='sale_id', time='at', key=shop, "
        "fields={'shop_id': Text()})\n"
        "leases = Reference('shops.lease.v2', key=shop, time='since', "
        "fields={'rate': Integer(min=0, max=9), 'kind': Category('a', 'b')})\n"
        "shops = FeatureSet('shops', event=sales, features=[leases.rate, is_known(leases)])\n"
    )
    settings_ = {"PENSTOCK_HOME": str(tmp_path), "PENSTOCK_DEFINITIONS": str(tmp_path)}
    plan = json.loads(penstock("plan", "shops", "--json", **settings_).stdout)
    assert plan["references"] == [
        {
            "name": "lease",
            "key_fields": ["shop_id"],
            "stage": "shop",
            "topic": "shops.lease.v2",
            "table": "reference_lease",
            "fields": ["rate", "kind"],
        }
    ]
    assert {"shops.lease.v2", "shops.lease.v2.dlq"} < set(plan["topics"])
    told = penstock("plan", "shops", **settings_).stdout
    assert "References" in told
    assert "reference_lease" in told


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

"""`penstock new`: what it writes works as it is, and it never harms what is there."""

import json
import re
from pathlib import Path

import pytest

from features.catalog import load_plan
from features.errors import DefinitionError, PenstockError
from features.fold import Fold
from features.settings import settings
from features.wire import row_schema
from penstock import starter
from tests.features.rows import batch
from tests.penstock.test_definitions import penstock


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of definitions that does not exist yet."""
    monkeypatch.setattr(settings(), "definitions", str(tmp_path / "own"))
    return tmp_path / "own"


def test_starter_folds_rows_as_it_is(folder: Path) -> None:
    starter.write("orders", folder)
    plan = load_plan("orders")
    assert [stage.key_column for stage in plan.stages] == ["user_id", "place_id"]
    assert plan.label is None
    rows = [
        {"event_id": f"e{n}", "event_time_us": (n + 1) * 3_600_000_000, "user_id": "u"}
        | {"place_id": "p", "size": 100_000 * n, "position_seq": n << 20}
        for n in range(3)
    ]
    by_user = Fold(plan, 0).fold(batch(plan, rows), 0, 0)
    row = Fold(plan, 1).fold(by_user, 0, 0).to_pylist()[-1]
    assert set(plan.column_names) < set(row_schema(plan).names)
    assert {name: row[name] for name in plan.column_names} == {
        "size": 200_000,
        "is_night": 1.0,
        "user_count_1h": 1.0,
        "user_count_1d": 3.0,
        "user_count_7d": 3.0,
        "user_size_mean_1d": 100_000.0,
        "user_size_mean_7d": 100_000.0,
        "user_size_max_7d": 200_000.0,
        "user_seconds_since_last_7d": 3600.0,
        "place_count_1d": 3.0,
        "place_count_1d_delay_1h_where_size_ge_100000": 1.0,
        "user_haste": 1 / 3,
    }


def test_label_of_the_starter_needs_only_its_comment_signs_taken_off(folder: Path) -> None:
    file = starter.write("orders", folder)
    wanted = r"# (Label,|rate,|verdicts = |label=verdicts,|rate\()"
    text, taken_off = re.subn(wanted, r"\1", file.read_text())
    assert taken_off == 5
    file.write_text(text)
    plan = load_plan("orders")
    assert plan.label_topic == "orders.verdict.v1"
    assert plan.column_names[-1] == "place_is_bad_rate_30d_delay_7d"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("My-Orders", "my_orders"),
        ("7 days", "days"),
        ("class", "class_features"),
        ("größe", "gr_e"),
        ("orders.v1", "orders_v1"),
        ("", "features"),
    ],
)
def test_name_that_will_not_do_teaches_one_that_does(folder: Path, name: str, near: str) -> None:
    with pytest.raises(DefinitionError, match=f"did you mean '{near}'"):
        starter.write(name, folder)
    starter.check_name(near)
    assert not folder.exists()


def test_nothing_is_replaced(folder: Path, tmp_path: Path) -> None:
    file = starter.write("orders", folder)
    file.write_text("mine\n")
    with pytest.raises(PenstockError, match=r"own/orders.py' already, and it is not replaced"):
        starter.write("orders", folder)
    assert file.read_text() == "mine\n"
    with pytest.raises(PenstockError, match="a feature set 'card_fraud' already"):
        starter.write("card_fraud", folder)
    (tmp_path / "note").touch()
    with pytest.raises(PenstockError, match="note' already"):
        starter.write("orders", tmp_path / "note")


def test_new_prints_what_makes_the_next_command_work(tmp_path: Path) -> None:
    made = penstock("new", "orders", "--folder", str(tmp_path), "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["path"] == str(tmp_path / "orders.py")
    assert told["export"] == {
        "PENSTOCK_DEFINITIONS": str(tmp_path),
        "PENSTOCK_FEATURE_SET": "orders",
    }
    first, *_ = told["next"]
    assert first == "penstock plan orders"
    home = {"PENSTOCK_HOME": str(tmp_path / "home")}
    planned = penstock("plan", "orders", "--json", **home, **told["export"])
    assert planned.returncode == 0, planned.stderr
    again = penstock("new", "orders", **told["export"])
    assert (again.returncode, again.stdout) == (1, "")
    assert "a feature set 'orders' already" in again.stderr


def test_new_writes_to_the_first_named_folder(tmp_path: Path) -> None:
    folders = {"PENSTOCK_DEFINITIONS": f"{tmp_path / 'one'}:{tmp_path / 'two'}"}
    made = penstock("new", "orders", **folders)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "one" / "orders.py").is_file()
    assert "PENSTOCK_DEFINITIONS" not in made.stdout
    assert "export PENSTOCK_FEATURE_SET=orders" in made.stdout

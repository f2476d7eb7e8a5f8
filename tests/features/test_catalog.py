"""Definitions are found in every folder that is named, and a wrong one hinders no other."""

import os
import sys
from pathlib import Path

import pytest

import features.definitions
from features.catalog import load_catalog, load_plan
from features.errors import DefinitionError
from features.settings import settings

CALLS = """
from features.vocabulary import *
who = Entity("who_id")
calls = Event("calls.v1", id="call_id", time="at", key=who, fields={"who_id": Text()})
NAME = FeatureSet("NAME", event=calls, features=[count(by=who, over=days(1))])
"""


def calls(name: str) -> str:
    """A definitions file of one feature set."""
    return CALLS.replace("NAME", name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the setting names."""
    name_folders(monkeypatch, tmp_path)
    return tmp_path


def name_folders(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(settings(), "definitions", os.pathsep.join(map(str, folders)))


def test_unknown_feature_set_suggests_the_nearest() -> None:
    with pytest.raises(DefinitionError, match="did you mean 'card_fraud'"):
        load_plan("card_fruad")


def test_broken_file_is_named_and_hinders_no_other(folder: Path) -> None:
    (folder / "calls_good.py").write_text(calls("calls_good"))
    (folder / "calls_misspelt.py").write_text(calls("NAME").replace("by=who", "by=woh"))
    (folder / "calls_open.py").write_text("x = (\n")
    (folder / "calls_script.py").write_text("import sys\nsys.exit('run me otherwise')\n")
    assert load_plan("calls_good").column_names == ["who_count_1d"]
    for name, mistake in {
        "calls_misspelt.py": ":5: name 'woh' is not defined",
        "calls_open.py": ":1: '(' was never closed",
        "calls_script.py": ":2: run me otherwise",
    }.items():
        with pytest.raises(DefinitionError) as raised:
            load_plan("NAME")
        assert str(raised.value) == f"{folder / name}{mistake}"
        (folder / name).unlink()


def test_set_that_does_not_compile_is_told_to_whoever_asks_for_it(folder: Path) -> None:
    (folder / "a.py").write_text(calls("one").replace("[count(", "[calls.who_id, count("))
    (folder / "b.py").write_text(calls("two"))
    assert load_plan("two").column_names == ["who_count_1d"]
    with pytest.raises(DefinitionError, match=r"a.py:5: the text field 'who_id' is no feature"):
        load_plan("one")


def test_files_of_one_name_in_two_folders_are_both_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "calls.py").write_text(calls(f"calls_{name}"))
    name_folders(monkeypatch, tmp_path / "left", tmp_path / "right", tmp_path / "left")
    assert {"card_fraud", "calls_left", "calls_right"} <= load_catalog().plans.keys()
    assert load_catalog().broken == {}


def test_naming_our_own_folder_too_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    name_folders(monkeypatch, *map(Path, features.definitions.__path__))
    assert load_catalog().broken == {}


def test_file_shadows_no_module_and_may_import_its_neighbours(folder: Path) -> None:
    (folder / "json.py").write_text(calls("calls_json"))
    (folder / "features.py").write_text("from .json import calls_json\nimport json\njson.dumps\n")
    before = set(sys.path)
    assert load_plan("calls_json").column_names == ["who_count_1d"]
    assert load_catalog().broken == {}
    assert set(sys.path) == before


def test_name_declared_twice_is_refused_with_both_places(folder: Path) -> None:
    (folder / "a.py").write_text(calls("calls"))
    (folder / "b.py").write_text(calls("calls"))
    with pytest.raises(DefinitionError) as raised:
        load_plan("calls")
    assert str(raised.value).startswith(f"{folder / 'b.py'}:5: ")
    assert f"first at {folder / 'a.py'}:5" in str(raised.value)


def test_missing_folder_says_what_to_do_and_hinders_no_other(folder: Path) -> None:
    folder.rmdir()
    assert load_plan("card_fraud").name == "card_fraud"
    with pytest.raises(DefinitionError, match=f"{str(folder)!r}, which is no folder; make it"):
        load_plan("calls")


def test_place_below_the_working_folder_is_told_from_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "calls.py").write_text(calls("calls").replace("days(1)", "days(0)"))
    with pytest.raises(DefinitionError) as raised:
        load_plan("calls")
    assert str(raised.value).startswith(f"{folder.name}/calls.py:5: ")

"""Which model version scores, with a real registry."""

import shutil

import pytest

from features import bundle
from serving.champion import ChampionWatch
from serving.settings import ServingSettings
from tests.serving.parts import new_plan, register, wait_for, write_bundle


@pytest.fixture
def plan(stack):
    stack.require("mlflow")
    return new_plan()


@pytest.fixture
def watch(plan):
    made = ChampionWatch(plan, ServingSettings())
    yield made
    made.stop()


def test_the_alias_is_followed_and_a_broken_version_leaves_the_last_good_one(plan, watch, tmp_path):
    watch.look()
    assert watch.current is None
    assert "alias 'champion'" in watch.waiting_for

    first = register(plan, write_bundle(tmp_path / "first", plan, constant=0.25))
    watch.look()
    assert watch.current.version == first
    held = watch.current

    broken = write_bundle(tmp_path / "broken", plan)
    (broken / bundle.MODEL).write_bytes(b"changed after it was packed")
    register(plan, broken)
    watch.look()
    assert watch.current is held
    assert "SHA-256" in watch.waiting_for

    shutil.rmtree(broken)
    third = register(plan, write_bundle(tmp_path / "third", plan, constant=0.75))
    watch.look()
    assert watch.current.version == third
    assert third != first


def test_a_version_packed_for_another_definition_is_refused(plan, watch, tmp_path):
    other = new_plan()
    register(plan, write_bundle(tmp_path, other))
    watch.look()
    assert watch.current is None
    assert other.name in watch.waiting_for


def test_the_watch_outlives_a_registry_that_does_not_answer(caplog):
    nowhere = ServingSettings(mlflow_uri="http://127.0.0.1:9", champion_poll_s=0.1)
    watch = ChampionWatch(new_plan(), nowhere)
    watch.start()
    try:
        wait_for(lambda: caplog.text.count("next look in") >= 2)
        assert watch.waiting_for.startswith("MLflow at http://127.0.0.1:9 does not answer")
    finally:
        watch.stop()

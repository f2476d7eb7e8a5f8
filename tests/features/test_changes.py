"""What `plan` says would change, and what `apply` refuses."""

import dataclasses
import json
from typing import Any

import pytest

from features.changes import Change, changes, refusal
from features.plan import compile_plan
from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Integer,
    Label,
    Text,
    count,
    days,
    hours,
    label_count,
    max,
    minutes,
)

who, where_ = Entity("who_id"), Entity("where_id")


def plan(**changed: Any) -> dict[str, Any]:
    """The plan of a small feature set as the record of an application holds it."""
    event = {"lateness": hours(1), "size": Integer(min=0, max=9), "topic": "calls.v1"} | changed
    calls = Event(
        event["topic"],
        id="call_id",
        time="at",
        key=who,
        lateness=event["lateness"],
        fields={"who_id": Text(), "where_id": Text(), "size": event["size"]},
    )
    dropped = Label("dropped.v1", of=calls, field="is_dropped", known_after=days(1))
    features = [
        calls.size,
        count(by=who, over=days(1)),
        count(by=where_, over=hours(2), where=calls.size > changed.get("above", 3)),
        *(max(calls.size, by=who, over=over) for over in changed.get("over", ())),
        *(label_count(dropped.is_dropped, by=who, over=days(3)) for _ in changed.get("label", ())),
    ]
    if changed.get("turned"):
        features = features[::-1]
    made = compile_plan(
        FeatureSet(
            "calls",
            event=calls,
            features=features,
            label=dropped if "label" in changed else None,
            **{k: changed[k] for k in ABOUT if k in changed},
        )
    )
    return json.loads(json.dumps(made.to_dict()))


ABOUT = ("owner", "freshness", "description", "tags", "version")


def lines(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    return [str(change) for change in changes(before, after)]


def test_the_same_plan_has_no_changes() -> None:
    assert changes(plan(), plan()) == []
    assert refusal(plan(), plan()) == ""


def test_first_plan_is_one_change_and_not_refused() -> None:
    assert changes(None, plan()) == [Change("added", "feature set calls v1", None, 1, alters=False)]
    assert refusal(None, plan()) == ""


ALTERING = {
    "lateness": ({"lateness": minutes(90)}, ["~ lateness: 1h → 90m"]),
    "topic": ({"topic": "calls.v2"}, ["~ event_topic: calls.v1 → calls.v2"]),
    "bound taken away": (
        {"size": Integer(max=9)},
        ["~ field size: minimum: 0 → nothing"],
    ),
    "other type": (
        {"size": Integer(min=-1, max=8)},
        ["~ field size: minimum: 0 → -1", "~ field size: maximum: 9 → 8"],
    ),
    "column added": ({"over": (days(2),)}, ["+ column who_size_max_2d"]),
    "condition": (
        {"above": 5},
        ["+ column where_count_2h_where_size_gt_5", "- column where_count_2h_where_size_gt_3"],
    ),
    "order": (
        {"turned": True},
        [
            (
                "~ order of columns: size, who_count_1d, where_count_2h_where_size_gt_3 → "
                "where_count_2h_where_size_gt_3, who_count_1d, size"
            )
        ],
    ),
    "label": (
        {"label": "x"},
        ["+ label", "+ column who_is_dropped_label_count_3d"],
    ),
}


@pytest.mark.parametrize("case", ALTERING)
def test_change_that_alters_values_is_named_and_refused_without_a_version(case: str) -> None:
    changed, expected = ALTERING[case]
    before, after = plan(), plan(**changed)
    assert before["fingerprint"] != after["fingerprint"]
    assert lines(before, after) == expected
    assert all(change.alters for change in changes(before, after))
    said = refusal(before, after)
    for line in expected:
        assert line in said
    assert "version=2" in said
    raised = plan(**changed, version=2)
    assert lines(before, raised) == ["~ version: 1 → 2", *expected]
    assert refusal(before, raised) == ""


def test_what_no_value_depends_on_changes_without_a_version() -> None:
    after = plan(
        owner="me",
        freshness=minutes(1),
        description="All calls.",
        tags=("a", "b"),
    )
    found = changes(plan(), after)
    assert sorted(map(str, found)) == [
        "~ description: nothing → All calls.",
        "~ freshness: 1s → 1m",
        "~ owner: nothing → me",
        "~ tags: nothing → a, b",
    ]
    assert not any(change.alters for change in found)
    assert refusal(plan(), after) == ""


def test_lower_version_is_refused() -> None:
    said = refusal(plan(version=3), plan(version=2))
    assert "version 2 of 'calls' is older than version 3" in said
    assert "version=4" in said


def test_record_of_an_earlier_release_may_lack_what_is_empty() -> None:
    before = plan()
    del before["description"], before["tags"]
    assert changes(before, plan()) == []
    assert lines(before, plan(tags=("a",))) == ["~ tags: nothing → a"]


def test_fingerprint_that_differs_for_no_other_reason_is_a_change_itself() -> None:
    before = plan() | {"fingerprint": "0" * 16}
    [change] = changes(before, plan())
    assert (change.what, change.alters) == ("fingerprint", True)
    assert refusal(before, plan())


def test_what_only_the_compiler_works_out_is_told_where_nothing_else_is() -> None:
    before = plan()
    before["stages"][0]["retention_us"] = 7
    before["fingerprint"] = "0" * 16
    [change] = changes(before, plan())
    assert (change.what, change.alters) == ("stage who: retention_us", True)


def test_change_is_plain_data_for_json() -> None:
    changed = dataclasses.asdict(changes(plan(), plan(lateness=hours(2)))[0])
    assert json.loads(json.dumps(changed)) == {
        "kind": "changed",
        "what": "lateness_us",
        "before": 3_600_000_000,
        "after": 7_200_000_000,
        "alters": True,
    }

"""The proof itself: it passes on what is right, and finds, shrinks and shows what is wrong."""

import pytest

from features.aggregations import aggregations
from features.aggregations.base import Floats
from features.aggregations.count import Count
from penstock import prove

CASES = 25


def test_every_way_of_computing_a_feature_agrees() -> None:
    result = prove.prove(CASES, first=1_000)
    assert result["counterexample"] is None
    assert (result["mismatches"], result["cases"]) == (0, CASES)
    assert result["events"] >= 180
    assert result["features"] >= 5
    assert all(result["coverage"].values()), result["coverage"]
    assert set(result["aggregations"]) == set(aggregations())
    assert all(result["aggregations"].values()), result["aggregations"]


def test_a_case_is_the_same_whenever_it_is_drawn() -> None:
    assert prove.draw(7) == prove.draw(7)
    assert prove.draw(7).rows != prove.draw(8).rows


def test_wrong_number_is_found_shrunk_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Count.result

    def wrong(self, primitives, times_us, terms) -> Floats:  # type: ignore[no-untyped-def]
        return right(self, primitives, times_us, terms) + (primitives[0] == 3)

    monkeypatch.setattr(Count, "result", wrong)
    result = prove.prove(CASES)
    assert result["mismatches"] == 1
    # Three events of one key: fewer do not show it.
    assert result["counterexample"].count("'event_id'") == 3
    exec(result["counterexample"])
    expected, found = capsys.readouterr().out.split()
    assert (float(expected), float(found)) == (3.0, 4.0)

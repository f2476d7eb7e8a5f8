"""The demo's promises are judged, not decorated."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.demo import report
from penstock.demo.topics import Account

GOOD: dict[str, Any] = {
    "events": {"produced": 60_000, "scored": 58_000, "missing": 0, "duplicated": 0},
    "dead_letters": {"sent": 40, "found": 40, "by_reason": {"not_json": 40}},
    "parity": {
        "rows": 58_000,
        "mismatches": 0,
        "conditions": {"out_of_order": 500, "duplicate": 400, "late": 300, "label_changed": 200},
    },
    "quality": {"average_precision": 0.5, "rule_average_precision": 0.1},
    "airflow": {
        "runs": [
            {"dag_id": "a", "state": "success", "trigger": "manual", "seconds": 60.0},
            {"dag_id": "b", "state": "success", "trigger": "asset_triggered", "seconds": 99.0},
        ]
    },
    "drift": {"first_seen": "2026-01-01T00:00:00Z", "alert_received": "2026-01-01T00:00:05Z"},
    "champion": {"before": "1", "after": "2", "decision": "promoted", "reason": "better"},
    "latency_ms": {"p50": 90.0, "p99": 300.0},
    "stack": {"pss_mib": 4000.0},
    "urls": {},
}


def broken(promised: dict[str, Any]) -> list[str]:
    return [name for name, _, holds in report.promises(promised) if not holds]


def test_good_run_keeps_every_promise() -> None:
    assert broken(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("events", "missing"), 1),
        (("events", "duplicated"), 1),
        (("dead_letters", "found"), 39),
        (("parity", "mismatches"), 1),
        (("parity", "rows"), 9_999),
        (("parity", "conditions", "late"), 99),
        (("quality", "average_precision"), 0.05),
        (("airflow", "runs"), GOOD["airflow"]["runs"][:1]),
        (("drift", "alert_received"), None),
        (("champion", "reason"), ""),
        (("stack", "pss_mib"), 6_200.0),
    ],
)
def test_each_promise_can_break(path: tuple[str, ...], value: object) -> None:
    bad = copy.deepcopy(GOOD)
    at = bad
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert len(broken(bad)) == 1


def test_page_and_json_hold_the_figures(tmp_path: Path) -> None:
    page = report.write(tmp_path, GOOD, {"Scores": {"1": [(0.0, 1.0), (2.0, 5.0)]}, "None": {}})
    assert json.loads((tmp_path / "report.json").read_text()) == GOOD
    html = page.read_text()
    assert "version 2 replaced version 1" in html
    assert html.count("<svg") == 1
    assert "not_json" in html


def test_account_finds_what_is_missing_or_doubled() -> None:
    found = Account(
        produced={(0, n) for n in range(6)},
        broken={(0, 5): "empty"},
        scored={(0, 0): 1, (0, 1): 2},
        scored_ids={"a": 1, "b": 2},
        duplicates={(0, 2)},
        late={(0, 3), (0, 0)},
        dead={(0, 5): ["empty"]},
        latencies_ms=[10, 30],
        scored_ms=[1000, 3000],
    )
    assert found.missing == {(0, 4)}
    # One score too many, and one record that was both scored and late.
    assert found.duplicated == 2
    assert found.percentile_ms(50) == 20.0
    assert found.scores_per_second == 1.0

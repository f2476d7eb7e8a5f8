"""`penstock backfill`: a batch that fails the gate leaves the last good features in use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake

from features import lake
from features.plan import load_plan
from tests.features.chain import payments, stream

pytestmark = pytest.mark.slow
PLAN = load_plan("card_fraud")


def penstock(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *words],
        env=os.environ | {"PENSTOCK_FEATURE_SET": PLAN.name},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_refused_batch_leaves_the_published_features(own_lake: Path) -> None:
    answer = penstock("backfill")
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith("penstock: there are no events at")
    stream(PLAN, payments(seed=4, history=40, live=80))
    answer = penstock("backfill", "--json")
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    good = lake.read("feature_backfill")
    assert report["rows"] == report["checked"]["rows"] == good.num_rows > 80
    assert report["published"]["rows"] == good.num_rows

    events = lake.read("events")
    folded = events.filter(pc.equal(events["verdict"], "folded"))
    spoilt = pc.is_in(events["event_id"], value_set=folded["event_id"].slice(0, 3).combine_chunks())
    at = events.schema.get_field_index("amount")
    negative = pc.if_else(spoilt, -5, events["amount"])
    table = lake.open_table("events")
    assert table is not None
    write_deltalake(table, events.set_column(at, "amount", negative), mode="overwrite")

    answer = penstock("backfill")
    assert answer.returncode == 1
    said = answer.stderr.splitlines()[-1]
    assert said.startswith("penstock: ")
    assert "0 ≤ amount ≤ 1e+12 (3 rows)" in said
    assert "Traceback" not in answer.stderr
    assert lake.read("feature_backfill").equals(good)

"""The public data set's own features, computed by the real Spark backfill."""

import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features import lake
from features.backfill import backfill
from features.catalog import load_plan
from penstock.handbook import import_handbook

PROJECT = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("PENSTOCK_HANDBOOK_DIR", PROJECT.parent / "shared/data/fraud_handbook")
)
GOLDEN = FOLDER / "golden_features_2018-07-25_2018-08-14.parquet"
SAME_SECOND_TIES = 20
"""Rows of the whole source where two payments of one customer share a second."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.handbook,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not GOLDEN.is_file(),
        reason=f"the handbook's data is not at {FOLDER} (PENSTOCK_HANDBOOK_DIR)",
    ),
]
PLAN = load_plan("card_fraud")

PUBLISHED = {
    "is_weekend": "TX_DURING_WEEKEND",
    "is_night": "TX_DURING_NIGHT",
    **{f"customer_count_{d}d": f"CUSTOMER_ID_NB_TX_{d}DAY_WINDOW" for d in (1, 7, 30)},
    **{f"customer_amount_mean_{d}d": f"CUSTOMER_ID_AVG_AMOUNT_{d}DAY_WINDOW" for d in (1, 7, 30)},
    **{f"terminal_count_{d}d_delay_7d": f"TERMINAL_ID_NB_TX_{d}DAY_WINDOW" for d in (1, 7, 30)},
    **{
        f"terminal_is_fraud_rate_{d}d_delay_7d": f"TERMINAL_ID_RISK_{d}DAY_WINDOW"
        for d in (1, 7, 30)
    },
}


def test_backfill_equals_the_published_features(own_lake: Path, spark: SparkSession) -> None:
    golden = pq.read_table(GOLDEN).sort_by("TRANSACTION_ID")
    import_handbook(FOLDER, PLAN)
    report = backfill(PLAN, spark=spark)
    assert report["rows"] == 1_303_778
    computed = lake.read("feature_candidate", ["event_id", *PUBLISHED])
    number = pc.cast(computed["event_id"], "int32")
    computed = computed.append_column("number", number).sort_by("number")
    wanted = pc.is_in(computed["number"], value_set=golden["TRANSACTION_ID"])
    computed = computed.filter(wanted)
    assert computed["number"].to_pylist() == golden["TRANSACTION_ID"].to_pylist()
    assert set(PUBLISHED) == set(PLAN.column_names[:15]) - {"amount"}
    wrong = np.zeros(golden.num_rows, np.bool_)
    for ours, theirs in PUBLISHED.items():
        scale = 100.0 if "amount" in ours else 1.0
        difference = computed[ours].to_numpy() / scale - golden[theirs].to_numpy()
        wrong |= ~(np.abs(difference) <= 1e-6)
        if ours.startswith("terminal"):
            assert np.abs(difference).max() <= 1e-6, ours
    assert wrong.sum() <= SAME_SECOND_TIES

"""The gate: good rows pass, and each kind of bad row is named with its number."""

import dataclasses
import math
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from features import lake, quality
from features.catalog import load_plan
from features.errors import GateError
from tests.features.chain import payments, stream

pytestmark = pytest.mark.slow
PLAN = load_plan("card_fraud")


@pytest.fixture(scope="module")
def good(own_lake: Path) -> pa.Table:
    """What the stream logged: as good as rows get."""
    stream(PLAN, payments(seed=3, history=50, live=150))
    return lake.read("features")


def put(rows: pa.Table) -> None:
    write_deltalake(
        lake.table_uri("feature_candidate"), rows, mode="overwrite", schema_mode="overwrite"
    )


def spoilt(rows: pa.Table, column: str, value: float | str | None, count: int) -> pa.Table:
    values = [value] * count + rows[column].to_pylist()[count:]
    at = rows.schema.get_field_index(column)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))


def test_good_rows_pass(good: pa.Table) -> None:
    put(good)
    report = quality.check(PLAN)
    assert report["rows"] == good.num_rows > 90
    assert report["rules"] == len(quality.rules(PLAN))


@pytest.mark.parametrize(
    ("column", "value", "count", "says"),
    [
        ("amount", -1.0, 3, r"0 ≤ amount ≤ 1e\+12 \(3 rows\)"),
        ("amount", None, 2, r"amount is present \(2 rows\)"),
        ("amount", math.inf, 2, r"amount ≤ 1e\+12 \(2 rows\)"),
        ("is_night", 2.0, 4, r"is_night is 0 or 1 \(4 rows\)"),
        ("customer_count_7d", 0.0, 5, r"1 ≤ customer_count_7d ≤ inf \(5 rows\)"),
        ("customer_count_7d", 1e9, 5, r"customer_count_7d ≤ customer_count_30d \(5 rows\)"),
        ("terminal_count_1d_delay_7d", -1.0, 1, r"0 ≤ terminal_count_1d_delay_7d ≤ inf \(1 rows\)"),
        ("terminal_is_fraud_rate_7d_delay_7d", 1.5, 6, r"rate_7d_delay_7d ≤ 1 \(6 rows\)"),
        ("customer_amount_mean_1d", -0.5, 2, r"0 ≤ customer_amount_mean_1d .*\(2 rows\)"),
    ],
)
def test_bad_rows_are_named_with_their_number(
    good: pa.Table, column: str, value: float | str | None, count: int, says: str
) -> None:
    put(spoilt(good, column, value, count))
    with pytest.raises(GateError, match=says):
        quality.check(PLAN)


def test_row_that_comes_twice_is_named_and_a_reused_id_is_none(good: pa.Table) -> None:
    put(pa.concat_tables([good, good.slice(0, 1)]))
    with pytest.raises(GateError, match=r"origin and event_id are unique \(2 rows\)"):
        quality.check(PLAN)
    put(spoilt(good, "event_id", "reused", 2))
    quality.check(PLAN)


def test_every_broken_rule_is_named(good: pa.Table) -> None:
    put(spoilt(spoilt(good, "amount", -1.0, 3), "is_weekend", 0.5, 2))
    with pytest.raises(GateError, match=r"2 of \d+ rules") as refused:
        quality.check(PLAN)
    assert "amount" in str(refused.value)
    assert "is_weekend is 0 or 1 (2 rows)" in str(refused.value)


def test_empty_batch_is_refused(good: pa.Table) -> None:
    put(good.slice(0, 0))
    with pytest.raises(GateError, match="there is at least one row"):
        quality.check(PLAN)


def test_rows_of_another_plan_are_refused(good: pa.Table) -> None:
    put(good)
    with pytest.raises(GateError, match=f"{PLAN.fingerprint}.*{'0' * 16}"):
        quality.check(dataclasses.replace(PLAN, fingerprint="0" * 16))
    put(good.drop_columns("amount"))
    with pytest.raises(GateError, match="lacks the columns amount"):
        quality.check(PLAN)

"""The public data set: its forms, exact amounts, times and ids."""

import os
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from features import lake
from features.catalog import load_plan
from features.errors import PenstockError
from features.settings import settings
from penstock.handbook import find_transactions, import_handbook
from streaming.tokenise import Tokeniser

PLAN = load_plan("card_fraud")
FOLDER = Path(os.environ.get("PENSTOCK_HANDBOOK_DIR", "../shared/data/fraud_handbook"))


@pytest.fixture(autouse=True)
def own_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "lake_uri", str(tmp_path / "lake"))
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", "ab" * 32)


def published(amounts: list[float] | None = None) -> pa.Table:
    amounts = amounts or [57.16, 81.51, 0.0, 1.1, 220.29]
    rows = len(amounts)
    first = datetime(2018, 4, 1, 0, 0, 31)
    return pa.table(
        {
            "TRANSACTION_ID": pa.array(range(8, 8 + rows), pa.int32()),
            "TX_DATETIME": pa.array(
                [first + timedelta(hours=6 * i) for i in range(rows)], pa.timestamp("ms")
            ),
            "CUSTOMER_ID": pa.array([596, 4961, 2, 596, 7][:rows], pa.int16()),
            "TERMINAL_ID": pa.array([3156, 3412, 1365, 8737, 9][:rows], pa.int16()),
            "TX_AMOUNT": pa.array(amounts),
            "TX_FRAUD": pa.array([0, 1, 0, 0, 1][:rows], pa.int8()),
            "TX_FRAUD_SCENARIO": pa.array([0, 2, 0, 0, 1][:rows], pa.int8()),
        }
    )


def test_amounts_times_and_ids_are_converted_exactly(tmp_path: Path) -> None:
    path = tmp_path / "transactions.parquet"
    pa.parquet.write_table(published(), path)
    written = import_handbook(path, PLAN)
    assert (written.events, written.labels) == (5, 2)
    rows = lake.read("events").sort_by("origin_offset").to_pylist()
    assert [row["amount"] for row in rows] == [5716, 8151, 0, 110, 22029]
    assert [row["event_id"] for row in rows] == [f"{n:09d}" for n in range(8, 13)]
    assert rows[0]["event_time"] == datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC)
    assert rows[0]["terminal_id"] == "003156"
    assert rows[0]["customer_id"] == Tokeniser.from_settings().token("000596")
    labels = lake.read("labels").sort_by("origin_offset").to_pylist()
    assert [label["event_id"] for label in labels] == ["000000009", "000000012"]
    assert all(label["is_fraud"] for label in labels)
    assert all(label["known_time"] - label["event_time"] == timedelta(days=7) for label in labels)
    assert labels[0]["terminal_id"] == "003412"


def test_csv_gives_the_same_rows_as_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa.parquet.write_table(published(), tmp_path / "a.parquet")
    pa.csv.write_csv(published(), tmp_path / "a.csv")
    import_handbook(tmp_path / "a.parquet", PLAN)
    expected = lake.read("events").sort_by("origin_offset")
    monkeypatch.setattr(settings(), "lake_uri", str(tmp_path / "second"))
    import_handbook(tmp_path / "a.csv", PLAN)
    assert lake.read("events").sort_by("origin_offset").equals(expected)


def test_fraction_of_a_cent_is_refused(tmp_path: Path) -> None:
    pa.parquet.write_table(published([1.0, 2.345]), tmp_path / "a.parquet")
    with pytest.raises(PenstockError, match=r"row 1: TX_AMOUNT 2.345 is no whole number of cents"):
        import_handbook(tmp_path / "a.parquet", PLAN)


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "opened"),)

    (tmp_path / "2018-04-01.pkl").write_bytes(pickle.dumps(Trap()))
    for path in (tmp_path, tmp_path / "2018-04-01.pkl"):
        with pytest.raises(PenstockError, match=r"pickle.*to_parquet"):
            import_handbook(path, PLAN)
    assert not (tmp_path / "opened").exists()


def test_wrong_paths_and_files_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="there is no"):
        find_transactions(tmp_path / "nowhere")
    pa.parquet.write_table(published().drop_columns(["TX_AMOUNT"]), tmp_path / "a.parquet")
    with pytest.raises(PenstockError, match="holds no Parquet or CSV file with the columns"):
        find_transactions(tmp_path)
    with pytest.raises(PenstockError, match="lacks the columns TX_AMOUNT"):
        import_handbook(tmp_path / "a.parquet", PLAN)
    (tmp_path / "b.parquet").write_text("not a table")
    with pytest.raises(PenstockError, match="neither Parquet nor CSV"):
        import_handbook(tmp_path / "b.parquet", PLAN)


@pytest.mark.slow
@pytest.mark.handbook
@pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the handbook's data is not at {FOLDER} (PENSTOCK_HANDBOOK_DIR)"
)
def test_whole_published_data_set_is_loaded() -> None:
    assert [path.name for path in find_transactions(FOLDER)] == [
        "transactions_2018-04-01_2018-08-14.parquet"
    ]
    shares = []
    written = import_handbook(FOLDER, PLAN, lambda rows, done: shares.append(done))
    assert (written.events, written.labels) == (1_303_778, 10_659)
    assert shares[-1] == 1.0
    source = pa.parquet.read_table(find_transactions(FOLDER)[0])
    amounts = lake.read("events", ["event_id", "amount"]).sort_by("event_id")
    assert np.array_equal(amounts["event_id"].to_numpy().astype(int), source["TRANSACTION_ID"])
    assert np.allclose(amounts["amount"].to_numpy() / 100, source["TX_AMOUNT"], rtol=0, atol=1e-9)

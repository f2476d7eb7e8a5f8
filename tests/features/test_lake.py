"""Delta appends happen once, whatever died in between."""

from pathlib import Path

import pytest
from deltalake import DeltaTable

from features import lake
from features.catalog import load_plan
from features.errors import PenstockError
from features.settings import settings

PLAN = load_plan("card_fraud")


@pytest.fixture(autouse=True)
def own_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "lake_uri", str(tmp_path))


def letters(n: int) -> "lake.pa.Table":
    schema = lake.schema("dead_letters", PLAN)
    row = {"topic": "t", "origin_partition": 0, "reason": "empty", "payload": b"\xff"}
    return lake.pa.Table.from_pylist([row | {"origin_offset": i} for i in range(n)], schema=schema)


def test_rows_and_the_writers_place_are_committed_together() -> None:
    lake.append("dead_letters", letters(3), {"t.0": 3})
    lake.append("dead_letters", letters(2), {"t.0": 5, "t.1": 1})
    assert lake.read("dead_letters").num_rows == 5
    assert lake.transaction_version("dead_letters", "t.0") == 5
    assert lake.transaction_version("dead_letters", "t.1") == 1
    assert lake.transaction_version("dead_letters", "t.2") == -1


@pytest.mark.parametrize("version", [8, 9])
def test_writer_that_does_not_go_beyond_another_is_refused(version: int) -> None:
    lake.append("dead_letters", letters(3), {"t.0": 9})
    with pytest.raises(PenstockError, match="another writer"):
        lake.append("dead_letters", letters(1), {"t.0": version})
    assert lake.read("dead_letters").num_rows == 3


@pytest.mark.parametrize("table", lake.TABLES)
def test_every_table_can_be_written_and_read_back(table: str) -> None:
    empty = lake.schema(table, PLAN).empty_table()
    lake.append(table, empty)
    assert lake.read(table).schema.names == empty.schema.names
    found = DeltaTable(lake.table_uri(table))
    wanted = [] if table == "dead_letters" else ["event_date"]
    assert found.metadata().partition_columns == wanted


def test_table_that_lacks_a_column_is_refused_with_its_name() -> None:
    lake.append("dead_letters", letters(1).drop_columns("payload"))
    with pytest.raises(PenstockError, match="has no column payload"):
        lake.append("dead_letters", letters(1))


def test_first_logged_event_is_told_from_the_files() -> None:
    schema = lake.schema("events", PLAN)

    def write(partition: int, time_us: int) -> None:
        row = {"origin_partition": partition, "origin_offset": 0, "event_id": "e"}
        table = lake.pa.Table.from_pylist([row], schema=schema)
        time = lake.pa.array([time_us]).cast(schema.field("event_time").type)
        at = schema.get_field_index("event_time")
        lake.append("events", table.set_column(at, schema.field("event_time"), time))

    assert lake.first_logged_us() == 2**63 - 1
    write(lake.HISTORY_PARTITION, 5_000)
    assert lake.first_logged_us() == 2**63 - 1
    write(0, 70_000)
    write(3, 60_000)
    assert lake.first_logged_us() == 60_000


def test_missing_table_says_where_it_looked() -> None:
    with pytest.raises(PenstockError, match="no table 'scores' yet"):
        lake.read("scores")
    with pytest.raises(PenstockError, match="'card_fraud' has no table 'sores'"):
        lake.schema("sores", PLAN)

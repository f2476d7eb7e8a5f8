"""Markers move a stage's time on, travel to every partition of the next log, and leave no trace."""

import pyarrow as pa
import pytest

from features.fold import Fold
from features.plan import Plan
from features.wire import KIND_MARKER, LOG_MARKERS, NEVER_US, row_schema
from tests.features.rows import batch
from tests.features.test_fold import MINUTE_US, PLAN, sale

HOUR_US = 60 * MINUTE_US


def told(partition: int, minute: int) -> dict:
    """A marker of ingest: so far is a raw partition."""
    time_us = sale(0, minute)["event_time_us"]
    return {
        "kind": KIND_MARKER,
        "origin_partition": partition,
        "position_log": LOG_MARKERS,
        "position_partition": partition,
        "position_seq": time_us,
        "watermark_us": time_us,
        "event_time_us": time_us,
    }


def others(plan: Plan, minute: int, start: int = 1) -> list[dict]:
    return [told(partition, minute) for partition in range(start, plan.partitions)]


def folded(fold: Fold, offset: int, rows: list[dict]) -> list[dict]:
    return fold.fold(batch(fold.plan, rows), 0, offset).to_pylist()


def test_state_of_a_partition_that_hears_of_one_raw_partition_expires() -> None:
    alone, with_markers = Fold(PLAN, 0), Fold(PLAN, 0)
    values = []
    for fold in (alone, with_markers):
        out = []
        for i in range(2000):
            rows = [sale(i, i, origin_partition=0)]
            if fold is with_markers and i % 10 == 0:
                rows = [*others(PLAN, i), *rows]
            out += [row for row in folded(fold, i, rows) if row["kind"] != KIND_MARKER]
        fold.snapshot()
        values.append([[row[c] for c in PLAN.stages[0].columns] for row in out])
    assert values[0] == values[1]
    assert alone.entries == 2000
    assert with_markers.entries < 400


def test_one_marker_passes_when_it_has_something_new_to_tell() -> None:
    fold = Fold(PLAN, 0)
    assert folded(fold, 0, others(PLAN, 5)) == []
    [passed] = folded(fold, 1, [told(0, 7)])
    assert passed["kind"] == KIND_MARKER
    # The smallest over the raw partitions, at the marker's own place in this log.
    assert passed["watermark_us"] == sale(0, 5)["event_time_us"]
    assert (passed["position_log"], passed["position_partition"]) == (2, 0)
    assert passed["position_seq"] == 1 << 20
    assert passed["person_seq"] is None
    # Told again it is a repeat; raised where others lag behind, it changes nothing.
    assert folded(fold, 2, [told(0, 7)]) == []
    assert folded(fold, 3, [told(0, 9)]) == []


def test_markers_lie_between_the_rows_in_the_order_of_the_log() -> None:
    fold = Fold(PLAN, 0)
    rows = [sale(0, 1), *others(PLAN, 5), sale(1, 6, origin_partition=0), told(1, 8), sale(2, 7)]
    found = folded(fold, 4, rows)
    assert [row["event_id"] for row in found] == [
        sale(0, 1)["event_id"],
        sale(1, 6)["event_id"],
        None,
        sale(2, 7)["event_id"],
    ]
    seqs = [row["position_seq"] for row in found]
    assert seqs == sorted(set(seqs))
    # It says what is known up to its own place, not what later rows tell.
    assert found[2]["watermark_us"] == sale(0, 5)["event_time_us"]


def test_the_last_stage_passes_no_marker_on() -> None:
    fold = Fold(PLAN, len(PLAN.stages) - 1)
    rows = [told(p, 5) | {"position_log": 2, "position_seq": 0} for p in range(PLAN.partitions)]
    out = fold.fold(batch(PLAN, rows), 0, 0)
    assert out.num_rows == 0
    assert out.schema == row_schema(PLAN)
    assert fold.keys == 0


def test_a_restored_stage_tells_what_it_would_have_told() -> None:
    fold = Fold(PLAN, 0)
    log = [others(PLAN, 5), [told(0, 7)], others(PLAN, 6), [sale(3, 9)], others(PLAN, 11)]
    for cut in range(len(log)):
        straight, before = Fold(PLAN, 0), Fold(PLAN, 0)
        expected = [folded(straight, i, rows) for i, rows in enumerate(log)]
        found = [folded(before, i, rows) for i, rows in enumerate(log[:cut])]
        fold = Fold(PLAN, 0)
        fold.restore(before.snapshot())
        found += [folded(fold, cut + i, rows) for i, rows in enumerate(log[cut:])]
        assert found == expected


@pytest.mark.parametrize("start", [0, 1])
def test_nothing_expires_until_every_raw_partition_is_heard_of(start: int) -> None:
    fold = Fold(PLAN, 0)
    rows = others(PLAN, 300, start)
    assert isinstance(fold.fold(batch(PLAN, rows), 0, 0), pa.RecordBatch)
    assert (fold._settled_us() > NEVER_US) == (start == 0)

"""The two chains of snapshots: what a restart finds, whatever was damaged and whoever wrote."""

import errno
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from features import failpoints
from features.errors import SnapshotError
from features.fold import Fold
from features.plan import Plan
from features.settings import settings
from streaming.snapshots import MOST_CHANGES, SnapshotStore
from tests.features.rows import batch
from tests.streaming.chain import plan_of

START_US = 1_767_225_600_000_000
MINUTE_US = 60_000_000


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PENSTOCK_SNAPSHOT_URI", f"file://{tmp_path}/snapshots")
    settings.cache_clear()
    yield
    settings.cache_clear()


def envelopes(plan: Plan, count: int, seed: int = 0) -> list[pa.RecordBatch]:
    """A log of sales at few tills by many buyers, some out of order, some ids twice."""
    chance = random.Random(seed)
    found, number = [], 0
    for at in range(count):
        rows = []
        for _ in range(chance.randrange(1, 12)):
            number += 1
            rows.append(sale(plan, number, at, chance))
        found.append(batch(plan, rows))
    return found


def sale(plan: Plan, number: int, step: int, chance: random.Random) -> dict[str, Any]:
    partition = number % plan.partitions
    return {
        "origin_partition": partition,
        "origin_offset": number,
        "position_partition": partition,
        "position_seq": number,
        "watermark_us": START_US + step * MINUTE_US,
        "event_id": f"e{number - (chance.random() < 0.1)}",
        "event_time_us": START_US + (step - chance.randrange(30)) * MINUTE_US,
        "person_id": f"p{chance.randrange(40)}",
        "shop_id": "s",
        "price": chance.randrange(1000),
    }


def folded(fold: Fold, log: list[pa.RecordBatch], first: int, last: int) -> list[dict[str, Any]]:
    return [row for at in range(first, last) for row in fold.fold(log[at], 0, at).to_pylist()]


def restored(plan: Plan) -> tuple[SnapshotStore, Fold]:
    store, fold = SnapshotStore(plan, 0, 0), Fold(plan, 0)
    store.take_over()
    store.restore(fold)
    return store, fold


@pytest.mark.parametrize("seed", range(6))
def test_restarts_anywhere_change_no_value(seed: int) -> None:
    plan = plan_of("t_snapshots")
    log = envelopes(plan, 60, seed)
    expected = folded(Fold(plan, 0), log, 0, len(log))
    chance = random.Random(seed)
    store, fold = restored(plan)
    got: dict[int, dict[str, Any]] = {}
    at, restarts = 0, 0
    while at < len(log):
        for row in folded(fold, log, at, at + 1):
            assert got.setdefault(row["origin_offset"], row) == row
        at += 1
        if chance.random() < 0.5:
            store.write(store.take(fold))
        if chance.random() < 0.15:
            restarts += 1
            covered, newest = store.covered, store.newest
            store, fold = restored(plan)
            assert (store.covered, store.newest) == (covered, newest)
            at = 0 if covered is None else max(covered + 1, 0)
    assert restarts
    assert list(got.values()) == expected


def test_changes_are_written_until_they_outgrow_the_whole() -> None:
    plan = plan_of("t_snapshots")
    log = envelopes(plan, 30)
    store, fold = restored(plan)
    folded(fold, log, 0, 20)
    whole = [store.write(store.take(fold)) for _ in range(2)]
    sizes = []
    for at in range(20, 24):
        folded(fold, log, at, at + 1)
        sizes.append(store.write(store.take(fold)))
    assert max(sizes) < min(whole)
    for at in range(24, 24 + 3 * MOST_CHANGES):
        fold.offset = at
        store.write(store.take(fold))
    # No more files than the changes of two chains, and what they follow.
    assert len(store.offsets()) <= 2 * (MOST_CHANGES + 1)
    assert restored(plan)[1].offset == fold.offset


def test_any_one_damaged_file_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    plan = plan_of("t_snapshots")
    log = envelopes(plan, 41)
    store, fold = restored(plan)
    for at in range(40):
        folded(fold, log, at, at + 1)
        store.write(store.take(fold))
    expected = fold.fold(log[40], 0, 40).to_pylist()
    acknowledged = store.covered
    assert acknowledged == 38
    files = sorted((tmp_path / "snapshots").rglob("*.snap"))
    assert len(files) > 2
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        _, again = restored(plan)
        assert again.offset >= acknowledged
        folded(again, log, again.offset + 1, 40)
        assert again.fold(log[40], 0, 40).to_pylist() == expected
        path.write_bytes(content)


def test_two_processes_may_write_at_once() -> None:
    plan = plan_of("t_snapshots")
    log = envelopes(plan, 30)
    store, fold = restored(plan)
    folded(fold, log, 0, 10)
    for _ in range(2):
        store.write(store.take(fold))
    # A process that was taken for dead, and its successor.
    (store, fold), (other, ahead) = restored(plan), restored(plan)
    chance = random.Random(0)
    for at in range(10, 30):
        folded(ahead, log, at, at + 1)
        other.write(other.take(ahead))
        if chance.random() < 0.5:
            folded(fold, log, fold.offset + 1, min(fold.offset + 3, at + 1))
            store.write(store.take(fold))
        found = Fold(plan, 0)
        SnapshotStore(plan, 0, 0).restore(found)
        assert found.offset == ahead.offset
        assert found.fold(log[0], 0, 99).to_pylist() == []
    _, found = restored(plan)
    more = envelopes(plan, 31, seed=1)[30:]
    assert found.fold(more[0], 0, 30).to_pylist() == ahead.fold(more[0], 0, 30).to_pylist()


def test_nothing_that_can_be_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    plan = plan_of("t_snapshots")
    store, fold = restored(plan)
    store.write(store.take(fold))
    next((tmp_path / "snapshots").rglob("*.snap")).write_bytes(b"torn")
    with pytest.raises(SnapshotError, match=r"no snapshot in .* checksum differs"):
        restored(plan)


def test_full_disk_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("t_snapshots")
    log = envelopes(plan, 3)
    store, fold = restored(plan)
    folded(fold, log, 0, 1)
    store.write(store.take(fold))
    folded(fold, log, 1, 2)
    monkeypatch.setenv(failpoints.VARIABLE, "snapshots.written_not_synced=enospc@1")
    failpoints._armed.cache_clear()
    with pytest.raises(OSError, match="No space left") as raised:
        store.write(store.take(fold))
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints._armed.cache_clear()
    assert list((tmp_path / "snapshots").rglob("*.part"))
    store, fold = restored(plan)
    assert fold.offset == 0
    folded(fold, log, 1, 3)
    for _ in range(2):
        store.write(store.take(fold))
    assert store.covered == 2
    assert not list((tmp_path / "snapshots").rglob("*.part"))

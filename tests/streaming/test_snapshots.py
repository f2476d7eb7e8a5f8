"""Snapshots on a disk: what is left behind, kept and used."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from features import failpoints
from features.errors import SnapshotError
from features.fold import Fold
from features.settings import settings
from streaming.snapshots import SnapshotStore
from tests.streaming.chain import plan_of

PLAN = plan_of("t_snapshots")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnapshotStore]:
    monkeypatch.setenv("PENSTOCK_SNAPSHOT_URI", str(tmp_path))
    settings.cache_clear()
    yield SnapshotStore(PLAN, 0, 0)
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(failpoints.VARIABLE, "snapshots.written_not_synced=enospc@1")
    failpoints._armed.cache_clear()
    yield
    monkeypatch.undo()
    failpoints._armed.cache_clear()


def at(offset: int) -> Fold:
    fold = Fold(PLAN, 0)
    fold.offset = offset
    return fold


def names(store: SnapshotStore) -> list[str]:
    return sorted(path.name for path in Path(store.folder).iterdir())


def test_full_disk_leaves_what_there_was(store: SnapshotStore, full_disk: None) -> None:
    store._files.makedirs(store.folder, exist_ok=True)
    (Path(store.folder) / "5.snap").write_bytes(at(5).snapshot())
    with pytest.raises(OSError, match="No space left") as raised:
        store.write(9, at(9).snapshot())
    assert raised.value.errno == errno.ENOSPC
    assert names(store) == ["5.snap", "9.part"]
    fold = Fold(PLAN, 0)
    assert store.restore(fold) == [5]
    assert fold.offset == 5
    assert store.write(12, at(12).snapshot()) == [5, 12]
    assert names(store) == ["12.snap", "5.snap"]


def test_damaged_newest_gives_way_to_the_older_one(store: SnapshotStore) -> None:
    for offset in (3, 7, 11):
        kept = store.write(offset, at(offset).snapshot())
    assert kept == [7, 11]
    newest = Path(store.folder) / "11.snap"
    newest.write_bytes(newest.read_bytes()[:-1])
    fold = Fold(PLAN, 0)
    assert store.restore(fold) == [7]
    assert fold.offset == 7
    assert names(store) == ["7.snap"]


def test_two_damaged_snapshots_are_refused(store: SnapshotStore) -> None:
    for offset in (3, 7):
        store.write(offset, at(offset).snapshot())
        (Path(store.folder) / f"{offset}.snap").write_bytes(b"")
    with pytest.raises(SnapshotError, match=r"no snapshot in .* can be used"):
        store.restore(Fold(PLAN, 0))
    assert names(store) == ["3.snap", "7.snap"]

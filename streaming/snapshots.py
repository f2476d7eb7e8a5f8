"""Where snapshots of a stage's partition lie: written atomically, the last two kept.

Two are kept so that a damaged newest one is no loss: the log is acknowledged only up to the older.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from features.errors import SnapshotError
from features.failpoints import failpoint
from features.fold import Fold
from features.plan import Plan
from features.settings import settings

log = logging.getLogger(__name__)

KEPT = 2
BOOTSTRAP_OFFSET = -1
"""The offset of a snapshot made from history: nothing of the log is folded yet."""


class SnapshotStore:
    """The snapshots of one partition of one stage, named by the log offset they cover.

    Args:
        plan: the compiled feature set.
        stage: index of the stage.
        partition: of the stage's log.
    """

    def __init__(self, plan: Plan, stage: int, partition: int) -> None:
        root = settings().snapshot_uri.rstrip("/")
        uri = f"{root}/{plan.name}/v{plan.version}/{plan.stages[stage].name}/{partition}"
        self._files, self.folder = fsspec.url_to_fs(uri)

    def offsets(self) -> list[int]:
        """Offsets of the snapshots there are, oldest first."""
        if not self._files.exists(self.folder):
            return []
        self._files.invalidate_cache(self.folder)
        names = (path.rsplit("/", 1)[-1] for path in self._files.ls(self.folder, detail=False))
        return sorted(int(name[:-5]) for name in names if name.endswith(".snap"))

    def write(self, offset: int, snapshot: bytes) -> list[int]:
        """Make a snapshot durable, drop all but the last two, and return the offsets kept."""
        self._files.makedirs(self.folder, exist_ok=True)
        path = self._path(offset)
        # The file appears under its name when it is complete, on a disk as in an object store.
        if isinstance(self._files, LocalFileSystem):
            _write_durably(Path(path), snapshot)
        else:
            self._files.pipe_file(path, snapshot)
        failpoint("snapshots.named_not_dropped")
        offsets = self.offsets()
        for gone in offsets[:-KEPT]:
            self._files.rm_file(self._path(gone))
        self._drop_begun(offset)
        return offsets[-KEPT:]

    def restore(self, fold: Fold) -> list[int]:
        """Restore the newest readable snapshot into a fold; returns the offsets kept.

        Raises:
            SnapshotError: there are snapshots and none of them can be read.
        """
        offsets = self.offsets()
        damaged: SnapshotError | None = None
        for at in range(len(offsets) - 1, -1, -1):
            try:
                fold.restore(self._files.cat_file(self._path(offsets[at])))
            except SnapshotError as error:
                log.warning("%s: %s", self._path(offsets[at]), error)
                damaged = error
            else:
                # A damaged file must not count as one of the two that are kept.
                for gone in offsets[at + 1 :]:
                    self._files.rm_file(self._path(gone))
                failpoint("snapshots.restored")
                return offsets[: at + 1]
        if damaged is not None:
            raise SnapshotError(f"no snapshot in {self.folder} can be used: {damaged}")
        return []

    def _drop_begun(self, offset: int) -> None:
        """Drop files that a process which died, or had no space left, has begun up to an offset."""
        if isinstance(self._files, LocalFileSystem):
            for begun in Path(self.folder).glob("*.part"):
                if int(begun.stem) <= offset:
                    begun.unlink(missing_ok=True)

    def _path(self, offset: int) -> str:
        return f"{self.folder}/{offset}.snap"


def _write_durably(path: Path, content: bytes) -> None:
    """Write beside the file's place and move it there: a power cut leaves all of it or nothing."""
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        failpoint("snapshots.written_not_synced")
        os.fsync(file.fileno())
    failpoint("snapshots.synced_not_named")
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

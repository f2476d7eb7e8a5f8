"""Where snapshots of a stage's partition lie: two chains of files, written in turn.

A chain is a snapshot of the whole state and the changes since then, each naming by checksum what it
follows. Each chain has everything, so a damaged file in one of them is no loss: the log is
acknowledged only up to the older of the two. A file appears under its name when it is complete.
Whoever took over last removes files; what a process writes that was taken for dead does no harm.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from features.errors import SnapshotError
from features.failpoints import failpoint
from features.fold import Fold
from features.plan import Plan
from features.settings import settings
from features.snapshot import Mark, checksum, decode, encode

log = logging.getLogger(__name__)

CHAINS = ("a", "b")
MOST_CHANGES = 64
"""Files of changes before the whole is written again: a restart reads all of them."""

BOOTSTRAP_OFFSET = -1
"""The offset of a snapshot made from history: nothing of the log is folded yet."""

_NOTHING = -2


@dataclass
class _Chain:
    """What this process knows of a chain: its newest file, and what is needed to go on from it."""

    name: str
    offset: int = _NOTHING
    checksum: bytes = b""
    mark: Mark | None = None
    whole_bytes: int = 0
    changes_bytes: int = 0
    changes: int = 0

    @property
    def is_due(self) -> bool:
        """Whether to begin anew: a restart should not read much more than the state."""
        return self.changes >= MOST_CHANGES or self.changes_bytes > self.whole_bytes


@dataclass
class Taken:
    """A stage's state as of an offset, on its way to a file."""

    chain: _Chain
    state: dict[str, Any]
    after: bytes
    mark: Mark


class SnapshotStore:
    """The snapshots of one partition of one stage, named by the log offset they cover.

    Their names also tell their checksums: a process that was taken for dead cannot write over
    what its successor's snapshots follow.

    Args:
        plan: the compiled feature set.
        stage: index of the stage.
        partition: of the stage's log.
    """

    def __init__(self, plan: Plan, stage: int, partition: int) -> None:
        root = settings().snapshot_uri.rstrip("/")
        self._plan, self._stage = plan, plan.stages[stage]
        uri = f"{root}/{plan.name}/v{plan.version}/{self._stage.name}/{partition}"
        self._files, self.folder = fsspec.url_to_fs(uri)
        self._chains = [_Chain(name) for name in CHAINS]
        self._damage = ""
        self._owner = secrets.token_bytes(16)

    @property
    def newest(self) -> int:
        """The offset that the newer chain covers; below -1 where there is none."""
        return max(chain.offset for chain in self._chains)

    @property
    def covered(self) -> int | None:
        """The offset that both chains cover: the log is not needed up to it."""
        offset = min(chain.offset for chain in self._chains)
        return None if offset == _NOTHING else offset

    def offsets(self) -> list[int]:
        """Offsets of the files there are, oldest first."""
        return sorted(offset for name in CHAINS for offset, _ in self._listed(name))

    def take(self, fold: Fold) -> Taken:
        """Copy what the older chain lacks, while nothing else works on the fold."""
        chain = min(self._chains, key=lambda chain: chain.offset)
        mark = chain.mark
        # Where another epoch has begun, the state has just been compacted for the other chain.
        if fold.is_stale or (chain.is_due and mark is not None and mark.epoch == fold.epoch):
            fold.compact()
        state = fold.changes(mark) if mark is not None else None
        after = b"" if state is None else chain.checksum
        if state is None:
            state = fold.changes()
        assert state is not None
        return Taken(chain, state, after, fold.mark())

    def write(self, taken: Taken) -> int:
        """Make it durable; returns its bytes."""
        chain, offset = taken.chain, taken.state["offset"]
        content = encode(self._plan, self._stage, taken.state, taken.after)
        name = f"{offset}-{checksum(content).hex()[:16]}.snap"
        self._put(f"{self.folder}/{chain.name}/{name}", content)
        failpoint("snapshots.named_not_dropped")
        if taken.after:
            chain.changes += 1
            chain.changes_bytes += len(content)
        else:
            if self._is_ours():
                for gone, path in self._listed(chain.name):
                    if gone < offset:
                        self._files.rm_file(path)
                self._drop_begun(chain.name)
            chain.whole_bytes, chain.changes_bytes, chain.changes = len(content), 0, 0
        chain.offset, chain.checksum, chain.mark = offset, checksum(content), taken.mark
        return len(content)

    def take_over(self) -> None:
        """From now on this process removes files, and no other that has taken over before."""
        self._put(f"{self.folder}/owner", self._owner)

    def restore(self, fold: Fold) -> None:
        """Restore the newest readable snapshot into a new fold.

        Raises:
            SnapshotError: there are snapshots and none of them can be read.
        """
        found = [self._newest_of(chain) for chain in self._chains]
        best = max(range(len(CHAINS)), key=lambda i: self._chains[i].offset)
        if not found[best]:
            if self.offsets():
                raise SnapshotError(f"no snapshot in {self.folder} can be used: {self._damage}")
            return
        for path in found[best]:
            fold.take(decode(self._plan, self._stage, self._files.cat_file(path))[1])
        failpoint("snapshots.restored")
        self._chains[best].mark = fold.mark()

    def _is_ours(self) -> bool:
        """Whether no other process has taken over: it may follow what we would remove."""
        path = f"{self.folder}/owner"
        return not self._files.exists(path) or self._files.cat_file(path) == self._owner

    def _newest_of(self, chain: _Chain) -> list[str]:
        """A chain's newest readable file and those it follows, in their order."""
        files: dict[bytes, tuple[bytes, str, int]] = {}
        newest: list[tuple[int, bytes]] = []
        for offset, path in self._listed(chain.name):
            try:
                content = self._files.cat_file(path)
                after, _ = decode(self._plan, self._stage, content)
            except FileNotFoundError:
                # A chain has begun anew meanwhile.
                continue
            except SnapshotError as error:
                log.warning("%s: %s", path, error)
                self._damage = str(error)
                continue
            files[checksum(content)] = after, path, len(content)
            newest.append((offset, checksum(content)))
        for offset, last in reversed(newest):
            paths, at, changes_bytes = [], last, 0
            while at in files:
                after, path, size = files[at]
                paths.append(path)
                if not after:
                    chain.offset, chain.checksum, chain.whole_bytes = offset, last, size
                    chain.changes, chain.changes_bytes = len(paths) - 1, changes_bytes
                    return paths[::-1]
                changes_bytes += size
                at = after
            self._damage = f"what offset {offset} in chain {chain.name} follows is not there"
        return []

    def _listed(self, chain: str) -> list[tuple[int, str]]:
        """(offset, path) of a chain's files, the oldest first."""
        folder = f"{self.folder}/{chain}"
        if not self._files.exists(folder):
            return []
        self._files.invalidate_cache(folder)
        found = []
        for path in self._files.ls(folder, detail=False):
            stem, _, kind = path.rsplit("/", 1)[-1].rpartition(".")
            if kind == "snap":
                found.append((int(stem.rpartition("-")[0]), path))
        return sorted(found)

    def _drop_begun(self, chain: str) -> None:
        """Drop files that a process which died, or had no space left, has begun."""
        if isinstance(self._files, LocalFileSystem):
            for begun in Path(f"{self.folder}/{chain}").glob("*.part"):
                begun.unlink(missing_ok=True)

    def _put(self, path: str, content: bytes) -> None:
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if isinstance(self._files, LocalFileSystem):
            _write_durably(Path(path), content)
        else:
            self._files.pipe_file(path, content)


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

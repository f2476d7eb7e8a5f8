"""What a stage's state is written as: the whole of it, or what has changed since an earlier one.

Changes are relative to one certain snapshot, which they name by its checksum; whoever has that one
and every change after it has the state.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec

from features.errors import SnapshotError
from features.plan import Plan, StagePlan

FORMAT = 2
"""Raised when another release could not read what this one writes."""

_CHECKSUM_BYTES = 32


class Mark(NamedTuple):
    """A moment of a stage's state, to say later what has changed since."""

    epoch: int
    """Another one: keys have other slots, or ids other places, so there are no changes to tell."""
    generation: int
    keys: int
    ids: int
    versions: tuple[int, ...]


def encode(plan: Plan, stage: StagePlan, state: dict[str, Any], after: bytes = b"") -> bytes:
    """A snapshot with its checksum; `after` is that of the one whose changes these are."""
    body = msgspec.msgpack.encode(
        {
            "format": FORMAT,
            "fingerprint": plan.fingerprint,
            "stage": stage.name,
            "after": after,
            "state": state,
        }
    )
    return hashlib.sha256(body).digest() + body


def checksum(snapshot: bytes) -> bytes:
    """The checksum that a snapshot begins with."""
    return snapshot[:_CHECKSUM_BYTES]


def decode(plan: Plan, stage: StagePlan, snapshot: bytes) -> tuple[bytes, dict[str, Any]]:
    """(`after`, state) of a snapshot.

    Raises:
        SnapshotError: it is damaged, of another format, or belongs to another plan or stage.
    """
    body = memoryview(snapshot)[_CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest() != checksum(snapshot):
        raise SnapshotError(f"damaged snapshot of {len(snapshot)} bytes: checksum differs")
    held = msgspec.msgpack.decode(body)
    if held.get("format") != FORMAT:
        raise SnapshotError(
            f"the snapshot has format {held.get('format')}, this release reads format {FORMAT}; "
            "make the state anew with `penstock bootstrap`"
        )
    if held["fingerprint"] != plan.fingerprint or held["stage"] != stage.name:
        raise SnapshotError(
            f"the snapshot is of plan {held['fingerprint']}, stage {held['stage']!r}; this "
            f"process runs plan {plan.fingerprint}, stage {stage.name!r}"
        )
    return held["after"], held["state"]

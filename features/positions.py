"""Whether a log still holds the place where a reader stands: no reader may jump unseen."""

from __future__ import annotations

from features.errors import PositionError


def reading_from(topic: str, partition: int, committed: int, low: int, high: int, mend: str) -> int:
    """The offset a reader goes on from; without a commit it is the first there is.

    Args:
        committed: the next offset to read; negative where nothing was ever committed.
        low: the first offset of the log.
        high: the one after its last.
        mend: what to do about a place that is gone.

    Raises:
        PositionError: the log begins after it, or ends before it.
    """
    if committed < 0:
        return low
    held = f"the log holds offsets {low} to {high}"
    if committed < low:
        raise PositionError(
            f"retention has passed the commit: {topic} [{partition}] is to be read on from offset "
            f"{committed}, but {held}, so {low - committed} were removed unread; {mend}"
        )
    if committed > high:
        raise PositionError(
            f"{topic} [{partition}] is to be read on from offset {committed}, but {held}: the "
            f"topic was deleted and created again; {mend}"
        )
    return committed

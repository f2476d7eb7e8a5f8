"""How a stage's windows lie in the kernel's arrays: ranges, primitives, and the arena itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.aggregations import aggregations
from features.plan import StagePlan
from kernels.windows import ARRIVED, FIRST_CONDITION, KINDS, LABEL, SQUARE_HIGH, Arena, Spec

BY_KEY = Arena._fields.index("time")
"""The arena's arrays before this one have a row for each key, the others one for each entry."""


class Layout:
    """What one stage keeps: its windows as ranges and primitives of the kernel.

    Windows of one length and delay share a range, and equal primitives of a range are kept once.
    """

    def __init__(self, stage: StagePlan) -> None:
        self._stage = stage
        ranges: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        wanted = [self._primitives(index) for index in range(len(stage.windows))]
        for window, needs in zip(stage.windows, wanted, strict=True):
            held = ranges.setdefault((window.over_us, window.delay_us), [])
            held.extend(need for need in needs if need not in held)
        place: dict[tuple[int, int, tuple[int, int, int]], int] = {}
        first, additive_end = [0], []
        for (over_us, delay_us), held in ranges.items():
            # Additive ones first; the halves of a square come one after the other.
            held.sort(key=lambda need: (need[0] > SQUARE_HIGH, *need[1:], need[0]))
            additive_end.append(first[-1] + sum(need[0] <= SQUARE_HIGH for need in held))
            for need in held:
                place[over_us, delay_us, need] = len(place)
            first.append(len(place))
        self._places = [
            [place[window.over_us, window.delay_us, need] for need in needs]
            for window, needs in zip(stage.windows, wanted, strict=True)
        ]
        kinds, columns, masks = np.array([need for *_, need in place], np.int64).reshape(-1, 3).T
        overs, delays = np.array([*ranges], np.int64).reshape(-1, 2).T
        self.spec = Spec(
            *(
                np.ascontiguousarray(array, np.int64)
                for array in (overs, delays, first, additive_end, kinds, columns, masks)
            )
        )

    @property
    def primitives(self) -> int:
        """How many numbers the kernel gives for each event."""
        return len(self.spec.kind)

    def _primitives(self, index: int) -> list[tuple[int, int, int]]:
        """Kind, column of the values and mask of what a window needs."""
        window = self._stage.windows[index]
        column = self._stage.values.index(window.value) if window.value else 0
        mask = ARRIVED | (FIRST_CONDITION << window.where if window.where >= 0 else 0)
        return [
            (
                KINDS.index(need.kind),
                # What reads no value is the same for every column.
                column if need.kind in _OF_VALUES else 0,
                mask | (LABEL if need.labelled else 0),
            )
            for need in aggregations()[window.aggregation].primitives
        ]

    def arena(self, keys: int, entries: int) -> Arena:
        """An empty arena."""
        ranges = len(self.spec.over_us)
        return Arena(
            start=np.zeros(keys, np.int64),
            length=np.zeros(keys, np.int64),
            capacity=np.zeros(keys, np.int64),
            cursor_us=np.zeros(keys, np.int64),
            lower=np.zeros((keys, ranges), np.int32),
            upper=np.zeros((keys, ranges), np.int32),
            sums=np.zeros((keys, self.primitives), np.int64),
            time=np.zeros(entries, np.int64),
            identity=np.zeros(entries if self._stage.uses_label else 0, np.int64),
            flags=np.zeros(entries, np.uint16),
            values=np.zeros((entries, len(self._stage.values)), np.int64),
        )

    def results(
        self, primitives: npt.NDArray[np.int64], times_us: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[np.float64]]:
        """Every window's feature, float64 [n], from int64 [n, primitives]."""
        return [
            aggregations()[window.aggregation].result(
                [primitives[:, place] for place in places], times_us, window.over_us
            )
            for window, places in zip(self._stage.windows, self._places, strict=True)
        ]


_OF_VALUES = set(KINDS) - {"one", "first_time", "last_time", "previous_time"}


def grown(arena: Arena, keys: int = 0, entries: int = 0) -> Arena:
    """A copy with room for more keys or entries."""
    grown = []
    for index, array in enumerate(arena):
        size = keys if index < BY_KEY else entries
        # No identities are kept where no label is used.
        if size <= len(array) or (array.size == 0 and index >= BY_KEY and array.ndim == 1):
            grown.append(array)
            continue
        larger = np.zeros((size, *array.shape[1:]), array.dtype)
        larger[: len(array)] = array
        grown.append(larger)
    return Arena(*grown)

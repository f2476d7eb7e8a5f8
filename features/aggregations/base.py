"""What every aggregation says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]
else:
    # A definition is read where numpy would be a burden, as when Airflow looks for DAGs.
    Ints = Floats = None

NONE = -(2**63)
"""What a primitive that reads a value or time gives where no entry qualifies."""


@dataclass(frozen=True)
class Primitive:
    """One number the window kernel provides: its kind there, and whether only true labels count."""

    kind: str
    labelled: bool = False


@dataclass(frozen=True)
class Entry:
    """An event inside a window, as the plain reference sees it."""

    time_us: int
    value: int
    label: bool
    is_current: bool


class Aggregation(ABC):
    """One aggregation over the events of a window, in order of (event time, arrival).

    `takes` is what it reads: nothing, a number of the event, or the event's label. `formula` uses
    e for an event of the window, x for its value, t for its time, y for its label, n for their
    number; `empty` says what an empty window gives.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["nothing", "number", "label"]]
    primitives: ClassVar[tuple[Primitive, ...]]
    formula: ClassVar[str]
    empty: ClassVar[str] = "0"
    source: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    """Its unit; empty where it is that of the values."""

    @abstractmethod
    def result(self, primitives: Sequence[Ints], times_us: Ints, over_us: int) -> Floats:
        """The feature of each row from its primitives, int64 [n] each, in their order."""

    @abstractmethod
    def reference(self, entries: Sequence[Entry], now_us: int, over_us: int) -> float:
        """The same for one event, from the entries of its window."""

    def bounds(self, low: float, high: float, fewest: int, over_us: int) -> tuple[float, float]:
        """The least and greatest result for values in [low, high] and at least `fewest` events.

        Here for what lies among the values, and is 0 where there are none.
        """
        return (low, high) if fewest else (min(low, 0.0), max(high, 0.0))


def quotient(above: Ints, below: Ints) -> Floats:
    """float64(above) / float64(below); 0 where both are 0."""
    return above / below.clip(1)


def value_or_zero(count: Ints, value: Ints) -> Floats:
    """float64 of a value that was read; 0 where no entry qualified."""
    return (value * (count > 0)).astype("float64")


def seconds_since(newest_us: Ints, times_us: Ints, over_us: int) -> Floats:
    """Seconds from a time that was read to the event; the window's length where none qualified."""
    since_us = times_us - newest_us
    since_us[newest_us == NONE] = over_us
    return since_us.astype("float64") / 1e6

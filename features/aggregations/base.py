"""What every aggregation says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    """One number the window kernel provides, by the name it has in `features/layout.py`.

    `labelled` ones count only events whose label is true; `coding` says how a field becomes an
    integer (`value`, `bucket`, `code`, `hash`); `parameter` is the kind's own.
    """

    kind: str
    labelled: bool = False
    coding: str = "value"
    parameter: int = 0


@dataclass(frozen=True)
class Entry:
    """An event inside a window, as the plain reference sees it.

    `value` is the field's: an integer, a text, or (latitude, longitude) in millionths of a degree.
    """

    time_us: int
    value: Any
    label: bool
    is_current: bool


@dataclass(frozen=True)
class Terms:
    """What a definition says of one window: its length, the aggregation's own parameters, and the
    declared values of a category."""

    over_us: int
    parameters: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()


class Aggregation(ABC):
    """One aggregation over the events of a window, in order of (event time, arrival).

    `takes` is what it reads: nothing, a number of the event, a category, any field, a position, or
    the event's label. `formula` uses e for an event of the window, x for its value, t for its time,
    y for its label, n for their number; `empty` says what an empty window gives.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["nothing", "number", "category", "any", "position", "label"]]
    needs: ClassVar[tuple[Primitive, ...]] = ()
    formula: ClassVar[str]
    empty: ClassVar[str] = "0"
    source: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    """Its unit; empty where it is that of the values."""
    parameters: ClassVar[tuple[str, ...]] = ()
    """Names of its own arguments in a definition."""

    def check(self, **given: Any) -> tuple[int, ...]:
        """The arguments named in `parameters` as integers.

        Raises:
            ValueError: one of them is of no use, with the mend.
        """
        return ()

    def primitives(self, terms: Terms) -> tuple[Primitive, ...]:
        """What it needs of the kernel."""
        return self.needs

    def columns(self, terms: Terms) -> tuple[str, ...]:
        """The endings of its columns' names: one column, unless it says otherwise."""
        return ("",)

    @abstractmethod
    def result(self, primitives: Sequence[Ints], times_us: Ints, terms: Terms) -> Any:
        """The feature of each row, float64 [n], from its primitives in their order, int64 [n] each.

        An aggregation of several columns gives a list with one array for each.
        """

    @abstractmethod
    def reference(self, entries: Sequence[Entry], now: Entry, terms: Terms) -> Any:
        """The same for one event, `now`, from the entries of its window."""

    def bounds(self, low: float, high: float, fewest: int, terms: Terms) -> tuple[float, float]:
        """The least and greatest result for values in [low, high] and at least `fewest` events.

        Here for what lies among the values, and is 0 where there are none.
        """
        return (low, high) if fewest else (min(low, 0.0), max(high, 0.0))


def quotient(above: Ints, below: Ints) -> Floats:
    """float64(above) / float64(below); 0 where both are 0."""
    # Numba, which the plan can do without.
    from kernels.elementwise import integer_quotient

    out = above.astype("float64")
    integer_quotient(above, below, out)
    return out


def value_or_zero(count: Ints, value: Ints) -> Floats:
    """float64 of a value that was read; 0 where no entry qualified."""
    return (value * (count > 0)).astype("float64")


def read_or_zero(value: Ints) -> Floats:
    """float64 of a value that was read; 0 where it is `NONE`."""
    return (value * (value != NONE)).astype("float64")


def counters(coding: str, codes: int) -> tuple[Primitive, ...]:
    """How often each code from 0 on occurs."""
    return tuple(Primitive("counter", coding=coding, parameter=code) for code in range(codes))


def numbered(k: int) -> tuple[str, ...]:
    """The endings of k columns of a list."""
    return tuple(f"_{n}" for n in range(1, k + 1))


def seconds_since(newest_us: Ints, times_us: Ints, over_us: int) -> Floats:
    """Seconds from a time that was read to the event; the window's length where none qualified."""
    since_us = times_us - newest_us
    since_us[newest_us == NONE] = over_us
    return since_us.astype("float64") / 1e6


def small_count(name: str, given: Any, most: int) -> int:
    """An argument that is a number from 1 to `most`.

    Raises:
        ValueError: it is not.
    """
    if type(given) is not int or not 1 <= given <= most:
        raise ValueError(f"{name}= is {given!r}; give a number from 1 to {most}")
    return given

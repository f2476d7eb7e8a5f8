"""Drift of live features and scores against the reference that travels with the champion.

The live window is the last seven days of event time, kept as hourly histograms. Streams of human
activity differ by day and hour, so a shorter window would call every weekend a drift; a window of
exactly one week holds each weekday and each hour as often as a reference of whole weeks does.
Nothing is measured before a window has spanned its week and holds enough rows, so an unchanged
stream raises no alarm at the start, and after a change of model the window starts anew: rows that
an old reference called drifted say nothing about the new one.

The measure is the population stability index, Σ (pᵢ − qᵢ) ln(pᵢ / qᵢ) over bins. For samples of
n and m rows of one distribution with B bins it is about (1/n + 1/m) χ²(B − 1) (Yurdakul 2018,
"Statistical properties of population stability index"), so a high quantile of that is taken off
before it is compared with the threshold: small windows are not blamed for being small.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import BundleError
from kernels import histogram

HOUR_US = 3_600_000_000
WINDOW_HOURS = 7 * 24
SCORE = "score"
"""The reference's name for the model's output; it stands behind the feature columns."""

CHANCE_Z = 4.0
"""One-sided normal quantile of the allowance: chance exceeds it about 3 times in 100,000."""


class ColumnReference(msgspec.Struct, frozen=True):
    """One column of a reference: n cut points and n + 1 counts, as `kernels.histogram` bins."""

    edges: list[float]
    counts: list[int]


class Reference(msgspec.Struct, frozen=True):
    """The content of a bundle's `drift_reference.json`."""

    rows: int
    columns: dict[str, ColumnReference]


@dataclass(frozen=True)
class Watched:
    """What the rows were scored by; a drift event names it."""

    feature_set: str
    fingerprint: str
    model_version: str


@dataclass(frozen=True)
class ColumnDrift:
    """One column's index, after the allowance for chance, over `rows` live rows."""

    column: str
    psi: float
    rows: int


class DriftWatch:
    """Compares a sliding week of live rows with a reference.

    Args:
        reference: what the champion was measured on; the model's output is named `score`. It
            should cover whole weeks, as the window does.
        columns: the feature columns in the order of the vectors.
        watched: the model the reference belongs to.
        threshold: the index above which a column has drifted.
        minimum_rows: rows a window needs before it is measured.
        cooldown_s: seconds (wall clock) before a lasting drift is announced again.

    Raises:
        BundleError: the reference lacks a column, or its counts do not fit its cut points.
    """

    def __init__(
        self,
        reference: Reference,
        columns: Sequence[str],
        watched: Watched,
        *,
        threshold: float = 0.2,
        minimum_rows: int = 1000,
        cooldown_s: float = 21_600.0,
    ) -> None:
        self.columns = [*columns, SCORE]
        self.threshold = threshold
        self._watched = watched
        self._minimum_rows = minimum_rows
        self._cooldown_s = cooldown_s
        self._announced_s: float | None = None
        self._read(reference)
        self._hours = np.zeros((WINDOW_HOURS, *self._reference.shape), dtype=np.int64)
        self._first_hour = self._newest_hour = -1
        self._newest_us = 0
        # Loading the kernel takes a third of a second, which no batch is to wait for.
        nothing = np.zeros((1, len(self.columns)))
        histogram.fold(nothing, self._edges, self._n_edges, np.zeros_like(self._reference))

    def _read(self, reference: Reference) -> None:
        edges, counts = [], []
        for name in self.columns:
            column = reference.columns.get(name)
            if column is None:
                raise BundleError(
                    f"the drift reference has no column {name!r}; train and register a new version"
                )
            if len(column.counts) != len(column.edges) + 1:
                raise BundleError(
                    f"the drift reference of {name!r} has {len(column.edges)} cut points and "
                    f"{len(column.counts)} counts, one more was expected; "
                    "train and register a new version"
                )
            edges.append(np.asarray(column.edges, dtype=np.float64))
            counts.append(column.counts)
        try:
            self._edges, self._n_edges = histogram.pad_edges(edges)
        except ValueError as error:
            raise BundleError(f"the drift reference is damaged: {error}") from error
        self._reference = np.zeros((len(edges), self._edges.shape[1] + 1), dtype=np.int64)
        for j, column_counts in enumerate(counts):
            self._reference[j, : len(column_counts)] = column_counts

    @property
    def rows(self) -> int:
        """Live rows in the window."""
        return int(self._hours[:, 0].sum())

    def fold(
        self,
        vectors: NDArray[np.float64],
        scores: NDArray[np.float64],
        event_time_us: NDArray[np.int64],
    ) -> None:
        """Adds scored rows: `vectors` [n, k], `scores` [n], `event_time_us` [n], in any order."""
        if len(scores) == 0:
            return
        hours = event_time_us // HOUR_US
        self._newest_us = max(self._newest_us, int(event_time_us.max()))
        values = np.column_stack([vectors, scores])
        # Hour by hour: rows read after an outage may span more than the window.
        for hour in np.unique(hours).tolist():
            self._advance(hour)
            if hour > self._newest_hour - WINDOW_HOURS:
                histogram.fold(
                    values[hours == hour],
                    self._edges,
                    self._n_edges,
                    self._hours[hour % WINDOW_HOURS],
                )

    def _advance(self, hour: int) -> None:
        """Moves the window's end to `hour`; a gap longer than the window starts it anew."""
        if hour >= self._newest_hour + WINDOW_HOURS:
            self._hours[:] = 0
            self._first_hour = self._newest_hour = hour
        while self._newest_hour < hour:
            self._newest_hour += 1
            self._hours[self._newest_hour % WINDOW_HOURS] = 0

    def measure(self) -> list[ColumnDrift]:
        """The index of every column, or nothing while the window is not a full week."""
        rows = self.rows
        spanned = self._newest_hour - self._first_hour + 1
        if rows < self._minimum_rows or spanned < WINDOW_HOURS:
            return []
        live = self._hours.sum(axis=0)
        return [
            ColumnDrift(name, beyond_chance(live[j, :bins], self._reference[j, :bins]), rows)
            for j, (name, bins) in enumerate(zip(self.columns, self._n_edges + 1, strict=True))
        ]

    def event(self, measured: Sequence[ColumnDrift]) -> dict[str, Any] | None:
        """The drift event to send now, or None where there is none or it has been announced."""
        drifted = [found for found in measured if found.psi > self.threshold]
        now_s = time.time()
        if not drifted or (
            self._announced_s is not None and now_s - self._announced_s < self._cooldown_s
        ):
            return None
        return {
            "feature_set": self._watched.feature_set,
            "fingerprint": self._watched.fingerprint,
            "model_version": self._watched.model_version,
            "first_seen": {
                "event_time": _rfc3339(self._newest_us / 1e6),
                "wall_time": _rfc3339(now_s),
            },
            "threshold": self.threshold,
            "columns": [
                {"name": found.column, "psi": round(found.psi, 4)}
                for found in sorted(drifted, key=lambda found: -found.psi)
            ],
            "rows": drifted[0].rows,
        }

    def announced(self) -> None:
        """The event has reached the topic: stay silent until the cool-down ends."""
        self._announced_s = time.time()


def psi(live: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    """The population stability index of two histograms over the same bins, counts int64 [bins].

    Half a row is added to every bin, so that an empty one does not make the index infinite.
    """
    p = (live + 0.5) / (live.sum() + 0.5 * len(live))
    q = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    return float(np.dot(p - q, np.log(p / q)))


def beyond_chance(live: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    """`psi` less what chance alone explains, not below 0.

    The quantile of χ² is Wilson and Hilferty's: d (1 − 2/(9d) + z √(2/(9d)))³.
    """
    freedom = len(live) - 1
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    chance = freedom * (1 - spread + CHANCE_Z * spread**0.5) ** 3
    rows = 1 / int(live.sum()) + 1 / int(reference.sum())
    return float(max(0.0, psi(live, reference) - chance * rows))


def _rfc3339(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )

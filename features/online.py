"""The online store: the newest vector of every key, written in batches and read in one round trip.

Feast's registry and SDK work on the same keys (features/redis_layout.py says how they lie). They
are not used here: the SDK takes seconds to import, and many times as long to read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.failpoints import failpoint
from features.plan import Plan
from features.redis_layout import LOAD_SCRIPT, Key, ViewLayout, doubles, opened, stored_stages
from features.resp import Connection
from features.settings import settings
from features.wire import FOLDED, KIND_EVENT
from monitoring import metrics

HIT, MISS, EXPIRED = 0, 1, 2
RESULTS = ("hit", "miss", "expired")


@dataclass(frozen=True)
class Vectors:
    """What the online store holds of some keys of one stage; a row for each key asked for.

    Attributes:
        columns: the stage's columns.
        values: float64 [rows, columns]; NaN where there is no hit.
        result: int8 [rows]; HIT, MISS, or EXPIRED where the vector is older than the set's `ttl`.
        event_time_us: int64 [rows]; 0 where there is a miss.
        age_s: float64 [rows], seconds since the event time; NaN where there is a miss.
        fingerprint: of the definition that computed the row; empty where that is not known,
            because Feast's SDK wrote it.
        version: int64 [rows], of that feature set; 0 where it is not known.
    """

    columns: tuple[str, ...]
    values: npt.NDArray[np.float64]
    result: npt.NDArray[np.int8]
    event_time_us: npt.NDArray[np.int64]
    age_s: npt.NDArray[np.float64]
    fingerprint: list[str]
    version: npt.NDArray[np.int64]


class OnlineStore:
    """The newest vector of every key of a feature set.

    Args:
        plan: the feature set.
    """

    def __init__(self, plan: Plan) -> None:
        self._ttl_us = plan.ttl_us
        self._views = {stage.name: ViewLayout(plan, stage) for stage in stored_stages(plan)}
        self._counters = {
            view.name: [metrics.ONLINE_READS.labels(view.name, result) for result in RESULTS]
            for view in self._views.values()
        }
        self._for_reading = Connection(settings().redis_url)
        # Who only reads need not be allowed to load scripts.
        self._for_writing = Connection(settings().redis_url, [LOAD_SCRIPT])

    def close(self) -> None:
        """Let go of the connections; the next call makes others."""
        self._for_reading.close()
        self._for_writing.close()

    def read(self, keys: Mapping[str, Sequence[Key]]) -> dict[str, Vectors]:
        """The newest vectors of some keys.

        Args:
            keys: the wanted keys of each stage, by its name: a text, or a tuple where the entity
                has several fields, in their declared order.

        Returns:
            The vectors by stage, in the order of its keys.

        Raises:
            ServiceUnavailableError: the online store does not answer.
            WireError: it holds what is no number under the name of a column.
        """
        views = [self._views[stage] for stage in keys]
        asked = [view.ask(wanted) for view, wanted in zip(views, keys.values(), strict=True)]
        replies = self._for_reading.exchange(b"".join(asked), sum(map(len, keys.values())))
        found, start = {}, 0
        for view, (stage, wanted) in zip(views, keys.items(), strict=True):
            end = start + len(wanted)
            found[stage] = self._vectors(view, wanted, replies[start:end])
            start = end
        return found

    def write(self, rows: pa.RecordBatch | pa.Table) -> dict[str, int]:
        """Keep the newest vector of each key.

        Args:
            rows: finished rows of `row_schema(plan)`, in any order; what is no folded event is
                passed over.

        Returns:
            By view, how many keys got a newer vector.

        Raises:
            ServiceUnavailableError: the online store does not answer. Some of the rows may have
                been written; writing all of them again does no harm.
        """
        folded = pc.and_(pc.equal(rows["kind"], KIND_EVENT), pc.equal(rows["verdict"], FOLDED))
        batches = pa.table(rows.filter(folded)).combine_chunks().to_batches()
        if not batches:
            return {}
        written = {}
        for view in self._views.values():
            commands = view.put(batches[0])
            taken = self._for_writing.exchange(b"".join(commands), len(commands))
            written[view.name] = sum(taken)
            failpoint("online.view_not_the_next")
        return written

    def _vectors(
        self, view: ViewLayout, keys: Sequence[Key], stamps: list[bytes | None]
    ) -> Vectors:
        ours = [stamp for stamp in stamps if stamp is not None and stamp.startswith(view.own)]
        held = np.frombuffer(b"".join(ours), view.stamp)
        n = len(keys)
        if len(ours) == n:
            result = np.zeros(n, np.int8)
            values = held["values"].astype(np.float64)
            event_time_us = held["time"].astype(np.int64)
            version, fingerprint = np.full(n, view.version), [view.fingerprint] * n
        else:
            result = np.full(n, MISS, np.int8)
            values = np.full((n, len(view.columns)), np.nan)
            event_time_us, version, fingerprint = np.zeros(n, np.int64), np.zeros(n, np.int64), []
            known = [stamp is not None and stamp.startswith(view.own) for stamp in stamps]
            result[known], values[known] = HIT, held["values"]
            event_time_us[known], version[known] = held["time"], view.version
            fingerprint = [view.fingerprint if each else "" for each in known]
            others = [i for i in range(n) if stamps[i] is not None and not known[i]]
            for i, (*columns, stamp) in zip(
                others, self._columns(view, [keys[i] for i in others]), strict=True
            ):
                if stamp is not None:  # or else it has expired since
                    result[i] = HIT
                    values[i] = doubles(columns)
                    event_time_us[i], version[i], fingerprint[i] = opened(stamp)
        age_s = (time.time_ns() // 1000 - event_time_us) / 1e6
        if len(ours) < n:
            age_s[result == MISS] = np.nan
        if self._ttl_us:
            expired = age_s > self._ttl_us / 1e6
            result[expired], values[expired] = EXPIRED, np.nan
        self._count(view, result, age_s)
        return Vectors(view.columns, values, result, event_time_us, age_s, fingerprint, version)

    def _columns(self, view: ViewLayout, keys: Sequence[Key]) -> list[Any]:
        """Every column and the Timestamp of some keys."""
        return self._for_reading.exchange(view.ask_columns(keys), len(keys)) if keys else []

    def _count(
        self, view: ViewLayout, result: npt.NDArray[np.int8], age_s: npt.NDArray[np.float64]
    ) -> None:
        """Show what a read found."""
        found = np.bincount(result, minlength=3).tolist() if result.any() else [len(result), 0, 0]
        for counter, keys in zip(self._counters[view.name], found, strict=True):
            if keys:
                counter.inc(keys)
        if found[MISS] < len(result):
            oldest_s = float(np.fmax.reduce(age_s))
            metrics.ONLINE_READ_AGE_SECONDS.labels(view.name).observe(oldest_s)

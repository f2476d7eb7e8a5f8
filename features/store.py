"""Feast objects made from the plan, and features as they were known at a point in time.

One feature view per stage, one entity per field that is a key or part of one, one feature service
per feature set. The online store (Redis) holds each key's newest vector; features/online.py reads
and writes it without Feast. The offline store (DuckDB) reads one Parquet file, made from the
published rows whenever they have changed: Feast's Delta support contradicts our deltalake.

Columns that the event itself tells (fields, calendar) are not stored: whoever asks has the event.
"""

from __future__ import annotations

import os
import sys
import tempfile
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from features import lake
from features.errors import PenstockError
from features.plan import Plan, StagePlan
from features.redis_layout import stored_stages, view_name
from features.resp import no_answer
from features.settings import settings
from features.vocabulary import Entity

if TYPE_CHECKING:
    from feast import FeatureStore

_TIME = "event_time"
_VERSION = b"lake_version"


def apply(plan: Plan) -> dict[str, list[str]]:
    """Register a plan's entities, views and service; what it no longer has is removed.

    Returns:
        Names by kind: `entities`, `views`, `services`.

    Raises:
        ServiceUnavailableError: the online store does not answer.
    """
    feast = _library()
    folder = settings().home / "feast"
    folder.mkdir(parents=True, exist_ok=True)
    entities = {
        field: feast.Entity(
            name=Entity(field).name, join_keys=[field], value_type=feast.ValueType.STRING
        )
        for field in _key_fields(plan)
    }
    views = []
    for stage in stored_stages(plan):
        source = feast.FileSource(
            name=view_name(plan, stage),
            path=str(_offline_file(plan)),
            timestamp_field=_TIME,
            created_timestamp_column=_arrived(stage),
        )
        columns = [
            feast.Field(name=name, dtype=feast.types.Float64, description=_meaning(plan, name))
            for name in stage.outputs
        ]
        keys = [feast.Field(name=name, dtype=feast.types.String) for name in stage.key_fields]
        views.append(
            feast.FeatureView(
                name=view_name(plan, stage),
                entities=[entities[name] for name in stage.key_fields],
                schema=[*keys, *columns],
                source=source,
                ttl=timedelta(microseconds=plan.ttl_us),
                owner=plan.owner,
                tags={"fingerprint": plan.fingerprint},
            )
        )
    service = feast.FeatureService(
        name=plan.name, features=views, owner=plan.owner, tags={"fingerprint": plan.fingerprint}
    )
    store = _open(plan)
    names = {
        "entities": [entity.name for entity in entities.values()],
        "views": [view.name for view in views],
        "services": [service.name],
    }
    gone = [v for v in store.list_feature_views() if v.name not in names["views"]]
    gone += [e for e in store.list_entities() if e.name not in names["entities"]]
    with _answering():
        store.apply([*entities.values(), *views, service], objects_to_delete=gone, partial=False)
    return names


def historical_features(plan: Plan, entities: pa.Table) -> pa.Table:
    """Join each entity row with the vectors that were the newest at its time.

    Args:
        plan: the feature set.
        entities: every stage's key fields and `event_time` (timestamp, UTC); other columns are
            kept.

    Returns:
        The rows with every stage's columns; null where a key had no event by then.

    Raises:
        PenstockError: nothing has been published yet.
    """
    _refresh_offline(plan)
    store = _open(plan)
    frame = entities.to_pandas()
    with _offline_engine():
        job = store.get_historical_features(
            entity_df=frame.rename(columns={_TIME: "event_timestamp"}),
            features=store.get_feature_service(plan.name),
        )
        found = job.to_arrow()
    names = [_TIME if name == "event_timestamp" else name for name in found.schema.names]
    stages = [name for stage in stored_stages(plan) for name in stage.outputs]
    renamed: pa.Table = found.rename_columns(names)
    return renamed.select([*entities.schema.names, *stages])


def _refresh_offline(plan: Plan) -> None:
    """Write the offline store's file anew where the published rows have changed."""
    import duckdb

    published, events = lake.open_table("feature_backfill"), lake.open_table("events")
    if published is None or events is None:
        raise PenstockError("no features have been published yet; run `penstock backfill` first")
    file = _offline_file(plan)
    version = f"{plan.fingerprint}.{published.version()}".encode()
    if file.exists() and (pq.read_schema(file).metadata or {}).get(_VERSION) == version:
        return
    columns = [name for stage in stored_stages(plan) for name in stage.outputs]
    keys = _key_fields(plan)
    # Of vectors with one event time the one that came last in the stage's log is the newest.
    arrived = [
        f"make_timestamp(row_number() OVER (ORDER BY {stage.seq_column} NULLS FIRST, event_time,"
        f" event_id)) AS {_arrived(stage)}"
        for stage in stored_stages(plan)
    ]
    with duckdb.connect() as connection:
        connection.register("published", published.to_pyarrow_dataset())
        connection.register("logged", events.to_pyarrow_dataset())
        rows = connection.sql(
            f"SELECT event_id, event_time, {', '.join([*keys, *columns, *arrived])} "
            f"FROM published JOIN (SELECT origin_partition, origin_offset, {', '.join(keys)}, "
            f"{', '.join(stage.seq_column for stage in stored_stages(plan))} FROM logged) "
            "USING (origin_partition, origin_offset)"
        )
        reader = rows.to_arrow_reader(100_000)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        os.close(handle)
        with pq.ParquetWriter(scratch, reader.schema.with_metadata({_VERSION: version})) as writer:
            for batch in reader:
                writer.write_batch(batch)
        Path(scratch).replace(file)


def _key_fields(plan: Plan) -> list[str]:
    """The fields by which stored vectors are found, each once."""
    return list(dict.fromkeys(f for stage in stored_stages(plan) for f in stage.key_fields))


def _offline_file(plan: Plan) -> Path:
    return (settings().home / "feast" / f"{plan.name}.parquet").resolve()


def _arrived(stage: StagePlan) -> str:
    return f"{stage.name}_arrived"


def _meaning(plan: Plan, column: str) -> str:
    return next(c.meaning for c in plan.columns if c.name == column)


def _library() -> Any:
    """Feast, which takes seconds to import, told first to send nothing."""
    os.environ["FEAST_USAGE"] = "False"
    with warnings.catch_warnings(), _without("torch"):
        # What it imports warns of its own old age, which says nothing about our features.
        warnings.simplefilter("ignore")
        import feast
        import feast.types
    return feast


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Feast loads torch, 500 MB, for tensors that nobody here asks for, and does without it too."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


def _open(plan: Plan) -> FeatureStore:
    return _store(plan.name, -(-plan.ttl_us // 1_000_000))


@cache
def _store(project: str, ttl_s: int) -> FeatureStore:
    feast = _library()
    from feast.repo_config import RepoConfig

    folder = settings().home.resolve() / "feast"
    config = RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={
            "type": "redis",
            "connection_string": _redis(settings().redis_url),
            # What Feast itself writes must not vanish when the vector before it would have.
            "key_ttl_seconds": ttl_s or None,
        },
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )
    return feast.FeatureStore(config=config)


def close() -> None:
    """Forget the open store, so that the next call reads the settings again."""
    _store.cache_clear()


def _redis(url: str) -> str:
    """A `redis://` URL in Feast's own form."""
    parts = urllib.parse.urlsplit(url)
    said = [f"{parts.hostname}:{parts.port or 6379}", f"db={parts.path.strip('/') or 0}"]
    if parts.username:
        said.append(f"username={urllib.parse.unquote(parts.username)}")
    if parts.password:
        said.append(f"password={urllib.parse.unquote(parts.password)}")
    if parts.scheme == "rediss":
        said.append("ssl=true")
    return ",".join(said)


@contextmanager
def _offline_engine() -> Iterator[None]:
    """A DuckDB of its own for one join.

    Left to itself Feast's library keeps one, with every table it was ever shown, until the process
    ends.
    """
    import ibis  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        # Feast's own table expressions use an argument that its library has since renamed.
        warnings.simplefilter("ignore")
        engine = ibis.duckdb.connect()
        ibis.options.default_backend = engine
        try:
            yield
        finally:
            ibis.options.default_backend = None
            engine.disconnect()


@contextmanager
def _answering() -> Iterator[None]:
    """Turns a store that does not answer into a sentence that says so."""
    from redis.exceptions import ConnectionError as RedisConnectionError

    try:
        yield
    except RedisConnectionError as error:
        raise no_answer(settings().redis_url, error) from error

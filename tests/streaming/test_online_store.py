"""The online store follows the features topic, also across an outage of the store."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from features.fold import Fold
from features.online import OnlineStore
from features.plan import Plan
from features.settings import settings
from features.wire import partition_of
from monitoring import metrics
from streaming import topics
from streaming.broker import GaplessProducer
from streaming.online_store import OnlineStoreSink
from tests.conftest import SessionStack
from tests.features.rows import batch
from tests.redis_server import free_port, redis
from tests.streaming.chain import committed, plan_of, running, wait_until
from tests.streaming.test_lake_sink import label, row

pytestmark = pytest.mark.slow


@pytest.fixture
def redis_port(
    stack: SessionStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """A free port that the online store is expected at."""
    stack.require("kafka", "registry")
    port = free_port()
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_REDIS_URL", f"redis://127.0.0.1:{port}/0")
    settings.cache_clear()
    yield port
    monkeypatch.undo()
    settings.cache_clear()


def put(plan: Plan, rows: list[dict]) -> None:
    """Through both stages to the features topic, in envelopes of 25; one shop, one partition."""
    first, second, producer = Fold(plan, 0), Fold(plan, 1), GaplessProducer()
    partition = partition_of("shop", plan.partitions)
    for offset, at in enumerate(range(0, len(rows), 25)):
        middle = first.fold(batch(plan, rows[at : at + 25]), 0, offset)
        producer.send_rows(plan, plan.features_topic, partition, second.fold(middle, 0, offset))
    producer.flush()


def stored(plan: Plan) -> float:
    """The shop's count; NaN until there is one."""
    with closing(OnlineStore(plan)) as online:
        found = online.read({"shop": ["shop"]})["shop"]
    return float(found.values[0, found.columns.index("shop_count_1h_delay_5m")])


def offsets_committed(plan: Plan) -> int:
    """The sum over the partitions of the features topic."""
    found = committed(plan, "online-store", plan.features_topic)
    return sum(max(0, place.offset) for place in found.values())


def test_newest_vectors_arrive_and_offsets_follow(redis_port: int, tmp_path: Path) -> None:
    plan = plan_of("online")
    topics.ensure(plan)
    with redis(redis_port, tmp_path):
        with running(OnlineStoreSink(plan)):
            put(plan, [row(n) for n in range(60)])
            # The window ends five minutes before row 59, which is of minute 59.
            wait_until(lambda: stored(plan) == 55.0)
            wait_until(lambda: offsets_committed(plan) == 3)
        with running(OnlineStoreSink(plan)):
            put(plan, [row(60), label(60) | {"person_id": "p6"}, row(61, verdict=1)])
            # Folded afresh, so nothing lies in the window of row 60; row 61 is a duplicate.
            wait_until(lambda: stored(plan) == 0.0)
            wait_until(lambda: offsets_committed(plan) == 4)
    # Labels and duplicates are not seen there, 61 events are.
    for since in ("event", "broker"):
        waits = [
            sample
            for family in metrics.ONLINE_FRESHNESS_SECONDS.collect()
            for sample in family.samples
            if sample.labels.get("since") == since and sample.labels["view"].startswith("online_")
        ]
        assert {each.value for each in waits if each.name.endswith("_count")} == {61}
    assert metrics.ONLINE_FRESHNESS_TARGET_SECONDS.labels("online")._value.get() == 1.0


def test_sink_waits_for_an_absent_store_and_loses_nothing(
    redis_port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of("onlinewait")
    topics.ensure(plan)
    put(plan, [row(n) for n in range(30)])
    with caplog.at_level(logging.WARNING), running(OnlineStoreSink(plan)):
        wait_until(lambda: f"does not answer at redis://127.0.0.1:{redis_port}" in caplog.text)
        assert offsets_committed(plan) == 0
        with redis(redis_port, tmp_path):
            wait_until(lambda: stored(plan) == 25.0)
            wait_until(lambda: offsets_committed(plan) == 2)

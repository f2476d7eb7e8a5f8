"""Quix Streams' sliding and hopping windows over its RocksDB state, in one process, without Kafka.

Messages go into the composed dataframe as its application hands them over, and its own checkpoint
commits the state by its own schedule. There is no broker, so offsets go nowhere; changelogs and
messages' JSON are left out.
"""

from __future__ import annotations

import contextvars
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from quixstreams.context import set_message_context
from quixstreams.dataframe import DataFrameRegistry, StreamingDataFrame
from quixstreams.dataframe.windows.aggregations import Count, Mean
from quixstreams.models import MessageContext, Topic, TopicConfig
from quixstreams.processing import ProcessingContext
from quixstreams.sinks import SinkManager
from quixstreams.state import StateStoreManager

from benchmarks.report import say, spread

TOPIC = "paid"
DAY_MS = 86_400_000


class NoBroker:
    """Stands for the producer and the consumer of a checkpoint."""

    offsets: dict[Any, int] = {}  # noqa: RUF012

    def flush(self, timeout: float | None = None) -> int:
        return 0

    def commit(self, offsets: Any, asynchronous: bool) -> list[Any]:
        return []


def dataframe(folder: str) -> StreamingDataFrame:
    """What `Application.dataframe` gives, with the application's defaults for state."""
    topic = Topic(TOPIC)
    topic.broker_config = TopicConfig(1, 1, {"retention.ms": "-1", "retention.bytes": "-1"})
    registry = DataFrameRegistry()
    context = ProcessingContext(
        commit_interval=5.0,
        producer=NoBroker(),
        consumer=NoBroker(),
        state_manager=StateStoreManager(group_id="bench", state_dir=folder),
        sink_manager=SinkManager(),
        dataframe_registry=registry,
    )
    made = StreamingDataFrame(
        topic, topic_manager=None, registry=registry, processing_context=context, stream_id=TOPIC
    )
    registry.register_root(made)
    return made


def run(
    rows: list[tuple[str, int, int]], windows: Callable[[StreamingDataFrame, int], Any], days: Any
) -> tuple[list[Any], float]:
    """(count, mean) of the oldest window that holds each row, by length; and the seconds it took.

    Of a sliding window only the one that ends with the row is given out.
    """
    with tempfile.TemporaryDirectory() as folder:
        paid = dataframe(folder)
        for d in days:
            windows(paid, d).agg(count=Count(), mean=Mean("amount")).current()
        context = paid.processing_context
        states = context.state_manager
        states.on_partition_assign(TOPIC, 0, {})
        context.init_checkpoint()
        given: list[Any] = []
        handle = paid.compose(sink=lambda value, key, at, headers: given.append(value))[TOPIC]
        named = [(key.encode(), at, {"amount": amount}) for key, at, amount in rows]
        out = []

        def fold() -> float:
            began = time.perf_counter()
            for offset, (key, at, value) in enumerate(named):
                set_message_context(MessageContext(TOPIC, 0, offset, 0))
                given.clear()
                handle(value, key, at, None)
                oldest: dict[int, Any] = {}
                for window in given:
                    # Windows of one length come in the order of their beginning.
                    oldest.setdefault(window["end"] - window["start"], window)
                out.append([(window["count"], window["mean"]) for window in oldest.values()])
                context.checkpoint.store_offset(TOPIC, 0, offset)
                context.commit_checkpoint()
            return time.perf_counter() - began

        seconds = contextvars.copy_context().run(fold)
        context.commit_checkpoint(force=True)
        states.on_partition_revoke(TOPIC, 0)
    return out, seconds


def main() -> None:
    asked = json.load(sys.stdin)
    rows, days, hops = [tuple(row) for row in asked["rows"]], asked["days"], asked["hops"]

    def sliding(paid: StreamingDataFrame, d: int) -> Any:
        # Both ends are in, so one millisecond less.
        return paid.sliding_window(d * DAY_MS - 1)

    def hopping(paid: StreamingDataFrame, d: int) -> Any:
        return paid.hopping_window(d * DAY_MS, d * DAY_MS // hops)

    answer: dict[str, Any] = {"version": version("quixstreams")}
    for windows in (sliding, hopping):
        name = f"{windows.__name__}_window"
        say(f"quixstreams: {name}")
        # The first run warms up and is compared.
        results, _ = run(rows, windows, days)
        figures = spread([run(rows, windows, days)[1] for _ in range(asked["runs"])])
        answer[name] = figures | {"results": results}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()

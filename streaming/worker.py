"""The Faust worker: one process, one agent for each compiled stage.

Faust gives group membership, partition assignment and back-pressure. State, delivery and recovery
are ours (streaming/stage.py): the streams are read without acknowledging, outputs leave through
confluent's producer, and an offset is acknowledged when durable snapshots cover it. Faust would
log an agent's exception, drop the event and go on, so every exception ends the process instead.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

import faust
import uvloop

from features.catalog import load_plan
from features.errors import PenstockError
from features.plan import Plan
from features.settings import settings
from monitoring import metrics
from streaming.broker import (
    GaplessProducer,
    end_process,
    instance_id,
    wait_for_topics,
    watch_topics,
)
from streaming.service import set_up_logging
from streaming.stage import StageHost, warm_up

log = logging.getLogger(__name__)

SNAPSHOT_EVERY_S = 3.0
"""A restart replays at most two of these; a snapshot of a busy partition takes tens of ms."""

SWITCH_INTERVAL_S = 0.0002
"""Faust's consumer thread and the event loop fight for the interpreter lock; the default of 5 ms
adds a tenth of a second to the 99th percentile."""

BUFFERED_ENVELOPES = 512
"""Per agent; past it Faust pauses the partitions."""


class _Worker(faust.Worker):  # type: ignore[misc]
    """Faust's worker without its own logging: ours is set up already."""

    def _setup_logging(self) -> None:
        for name in ("faust", "mode", "aiokafka"):
            logging.getLogger(name).setLevel(logging.WARNING)


def build_app(plan: Plan) -> Any:
    """A Faust app with an agent for each stage of the plan."""
    held = settings()
    app = faust.App(
        f"penstock.{plan.name}.v{plan.version}.stages",
        broker=";".join(f"aiokafka://{host}" for host in held.kafka_bootstrap.split(",")),
        datadir=str(held.home / "faust"),
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        web_bind="127.0.0.1",
        topic_allow_declare=False,
        topic_disable_leader=True,
        # A killed worker's partitions wait this long; its successor has its name and need not.
        broker_session_timeout=6,
        broker_heartbeat_interval=1.5,
        consumer_group_instance_id=instance_id(),
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        stream_buffer_maxsize=BUFFERED_ENVELOPES,
        # Acknowledgements wait for snapshots; a rebalance or a stop must not wait for them.
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
    )
    producer = GaplessProducer(linger_ms=0)
    hosts = {stage.topic: StageHost(plan, stage.index, producer, _end) for stage in plan.stages}
    for topic, host in hosts.items():
        _add_agent(app, topic, host)

    @app.on_partitions_assigned.connect(weak=False)  # type: ignore[untyped-decorator]
    async def assigned(*_: Any, **__: Any) -> None:
        for host in hosts.values():
            host.begin_anew()

    @app.task  # type: ignore[untyped-decorator]
    async def snapshot() -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_EVERY_S)
            try:
                for topic, host in hosts.items():
                    await host.snapshot()
                    _show_lag(app, topic, plan.partitions)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 — state that cannot be kept ends the process
                _end(f"snapshots of {topic} failed", error)

    @app.timer(interval=0.05)  # type: ignore[untyped-decorator]
    async def serve_delivery_reports() -> None:
        producer.poll()

    return app


def _add_agent(app: Any, topic: str, host: StageHost) -> None:
    async def work(stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            try:
                await host.handle(message.partition, message.offset, event.value, event.ack)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 — Faust would drop the event and go on
                _end(f"{topic} [{message.partition}]", error)

    channel = app.topic(topic, value_type=bytes, value_serializer="raw", key_type=bytes)
    app.agent(channel, name=topic)(work)


def _end(where: str, error: BaseException) -> None:
    if not isinstance(error, PenstockError):
        log.critical("%s", where, exc_info=error)
    end_process(f"{where}: {type(error).__name__}: {error}")


def _show_lag(app: Any, topic: str, partitions: int) -> None:
    for tp in app.consumer.assignment():
        if tp.topic == topic and tp.partition < partitions:
            end = app.consumer.highwater(tp)
            at = app.consumer._read_offset[tp]
            if end is not None and at is not None:
                lag = max(0, end - at - 1)
                metrics.CONSUMER_LAG_MESSAGES.labels(topic, str(tp.partition)).set(lag)


def serve(plan: Plan) -> None:
    """Run the stages of a plan until SIGTERM."""
    set_up_logging()
    try:
        metrics.serve(settings().metrics_port, settings().bind_host)
        topics = [*(stage.topic for stage in plan.stages), plan.features_topic]
        never = threading.Event()
        wait_for_topics(topics, never)
        watch_topics(dict.fromkeys(topics, plan.partitions), never)
    except (PenstockError, ValueError) as error:
        log.critical("stages: %s", error)
        sys.exit(1)
    for stage in plan.stages:
        warm_up(plan, stage.index)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    log.info("stages: starting, plan %s of %s", plan.fingerprint, plan.name)
    worker = _Worker(build_app(plan), loop=loop, quiet=True)
    worker.spinner = None
    worker.execute_from_commandline()


def main() -> None:
    """`penstock run stages`."""
    serve(load_plan(settings().feature_set))


if __name__ == "__main__":
    main()

"""The stream's own code from raw record to lake, over logs that are lists.

Records pass ingest's `Source.judge`, travel in envelopes between `StageHost`s, which re-key them,
and end as the lake sink's rows. What is left out is Kafka: its order within a partition, which is
all the stages rely on, is that of the lists.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from features import lake
from features.errors import ContractError
from features.plan import Plan
from features.wire import FOLDED, decode, row_schema
from streaming import lake_rows
from streaming.broker import GaplessProducer
from streaming.ingest import Source
from streaming.raw_rows import RawRow
from streaming.stage import StageHost
from streaming.tokenise import Tokeniser


@dataclass(frozen=True, slots=True)
class Record:
    """A raw record as the broker hands it on."""

    raw_topic: str
    raw_partition: int
    raw_offset: int
    payload: bytes
    broker_ms: int

    def value(self) -> bytes:
        return self.payload

    def partition(self) -> int:
        return self.raw_partition

    def offset(self) -> int:
        return self.raw_offset

    def timestamp(self) -> tuple[int, int]:
        return 2, self.broker_ms


class Logs(GaplessProducer):
    """The logs between the stages; sizes are kept as the real producer keeps them."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.taken: dict[tuple[str, int], int] = defaultdict(int)

    def produce(self, topic, partition, value, key=None, headers=None):  # type: ignore[no-untyped-def]
        self.held[topic, partition].append(value)

    def take(self, topic: str, partition: int) -> list[tuple[int, bytes]]:
        """What is new, by offset; it is let go of."""
        at = (topic, partition)
        fresh, first = self.held.pop(at, []), self.taken[at]
        self.taken[at] += len(fresh)
        return list(enumerate(fresh, first))


def fail(where: str, error: BaseException) -> None:
    """Nothing may fail where nobody awaits it: a poll ends with `flush`."""
    raise AssertionError(where) from error


class Host(StageHost):
    """A stage on lists, of which there is no other log to be compared with."""

    async def _check_end(self, partition: int, folded: int) -> None:
        pass


class Stream:
    """The whole chain of a plan.

    Args:
        plan: the feature set.
        tokeniser: under the chain's key.
        commit_rows: how many rows of the features topic make one commit of the lake.
    """

    def __init__(self, plan: Plan, tokeniser: Tokeniser, commit_rows: int = 200_000) -> None:
        self.plan = plan
        topics = [plan.event_topic, *([plan.label_topic] if plan.label else [])]
        self.sources = {topic: Source(plan, topic, tokeniser) for topic in topics}
        self.logs = Logs()
        self.hosts = [Host(plan, stage.index, self.logs, fail) for stage in plan.stages]
        self.envelopes = 0
        self._commit_rows = commit_rows
        self._done: list[pa.RecordBatch] = []

    async def run(self, polls: Iterable[list[Record]]) -> None:
        """Take polls of records, each through every stage and into the lake."""
        for records in polls:
            self.ingest(records)
            for host, stage in zip(self.hosts, self.plan.stages, strict=True):
                for partition in range(self.plan.partitions):
                    for offset, envelope in self.logs.take(stage.topic, partition):
                        self.envelopes += 1
                        await host.handle(partition, offset, envelope, lambda: None)
                await host.flush()
            self._sink()
        self._commit()

    def ingest(self, records: list[Record]) -> None:
        """Judge and pack one poll, as `Ingest` does."""
        accepted: dict[tuple[str, int], list[RawRow]] = defaultdict(list)
        for topic, source in self.sources.items():
            own = [record for record in records if record.raw_topic == topic]
            for outcome in source.judge(own):  # type: ignore[arg-type]
                if isinstance(outcome, ContractError):
                    raise outcome
                row, target = outcome
                assert target >= 0, "late"
                accepted[topic, target].append(row)
        for (topic, target), rows in accepted.items():
            source = self.sources[topic]
            batch = source.rows.batch(rows, FOLDED)
            self.logs.send_rows(self.plan, source.target, target, batch)

    def _sink(self) -> None:
        for partition in range(self.plan.partitions):
            for _, envelope in self.logs.take(self.plan.features_topic, partition):
                self._done.append(decode(self.plan, envelope))
        if sum(batch.num_rows for batch in self._done) >= self._commit_rows:
            self._commit()

    def _commit(self) -> None:
        rows = pa.Table.from_batches(self._done, schema=row_schema(self.plan))
        self._done = []
        lake.append("events", lake_rows.events(self.plan, rows))
        lake.append("features", lake_rows.features(self.plan, rows))
        if self.plan.label:
            lake.append("labels", lake_rows.labels(self.plan, rows))


def stream(plan: Plan, tokeniser: Tokeniser, polls: Iterable[list[Record]]) -> Stream:
    """Run a whole stream and return what ran it."""
    made = Stream(plan, tokeniser)
    asyncio.run(made.run(polls))
    return made


def payload(record: dict[str, object]) -> bytes:
    """A record as a producer sends it."""
    return json.dumps(record, ensure_ascii=False).encode()

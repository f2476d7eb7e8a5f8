"""The faults: each has a name, what it does, and how it is undone."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from confluent_kafka import KafkaException

from features import failpoints
from features.errors import ServiceUnavailableError
from features.resp import Connection, command
from features.settings import settings
from penstock.chaos.chain import INFRASTRUCTURE, SERVICE_OF, SERVICES, Chain, send_signal
from penstock.chaos.judge import Flush
from penstock.chaos.load import Load

T = TypeVar("T")
Undo = Callable[[], None]


@dataclass
class Field:
    """What faults work on: the chain, its load, and what has been done to them so far."""

    chain: Chain
    load: Load
    draw: random.Random
    flushes: list[Flush] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    armed_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Injected:
    """A fault as it was injected: at what, and how it is undone, after how many seconds."""

    target: str
    undo: Sequence[tuple[float, Undo]] = ()


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `inject` returns None where it cannot be had at this moment.

    `point` is that of a failpoint, whose service may still have others to meet.
    """

    name: str
    meaning: str
    inject: Callable[[Field], Injected | None]
    point: str = ""


STALE_S = 60.0
"""A process that has met nothing for so long of what was armed when it began will not: it is past
the point."""


BACKLOG = 2
"""Points armed for one service at once: a process dies at one, and its successor at the next."""


def arm(at: Field, point: str) -> Injected:
    """Let the next process that comes by a failpoint die there."""
    failpoints.arm(at.chain.failpoints, point, "kill", at.draw.choice([1, 1, 2, 3]))
    at.armed_s[point] = time.time()
    meet(at)
    return Injected(SERVICE_OF[point.partition(".")[0]])


def has_room(at: Field, point: str) -> bool:
    """Whether the service of a point has met nearly all that is armed for it."""
    service = SERVICE_OF[point.partition(".")[0]]
    return len(_waiting(at).get(service, ())) < BACKLOG


def meet(at: Field) -> None:
    """Kill services that have not read what is armed for them, as they did not begin after it."""
    for service, armed_s in _waiting(at).items():
        began_s = at.chain.began_s(service)
        if began_s is None:
            continue
        if min(armed_s) > began_s or time.time() - began_s > STALE_S:
            at.chain.send(service, signal.SIGKILL)


def _waiting(at: Field) -> dict[str, list[float]]:
    """By service, when the points were armed that it has not met."""
    waiting: dict[str, list[float]] = {}
    for point in failpoints.waiting(at.chain.failpoints):
        service = SERVICE_OF[point.partition(".")[0]]
        waiting.setdefault(service, []).append(at.armed_s.get(point, 0.0))
    return waiting


def _kill_service(at: Field) -> Injected | None:
    service = at.draw.choice(SERVICES)
    return Injected(service) if at.chain.send(service, signal.SIGKILL) else None


def _kill_all_services(at: Field) -> Injected:
    for service in SERVICES:
        at.chain.send(service, signal.SIGKILL)
    return Injected("every service")


def _freeze(at: Field) -> Injected | None:
    return _frozen(at, at.draw.choice((*SERVICES, *INFRASTRUCTURE)), at.draw.uniform(1, 12))


def _freeze_and_replace(at: Field) -> Injected | None:
    """The zombie comes back when its successor has long been at work."""
    service = at.draw.choice(SERVICES)
    injected = _frozen(at, service, at.draw.uniform(12, 16))
    if injected is None:
        return None
    second = at.chain.second(service)
    return Injected(service, [*injected.undo, (at.draw.uniform(18, 24), second.kill)])


def _frozen(at: Field, part: str, seconds: float) -> Injected | None:
    pid = at.chain.pid(part)
    if pid is None or part in at.frozen or not at.chain.send(part, signal.SIGSTOP):
        return None
    at.frozen.add(part)

    def thaw() -> None:
        at.frozen.discard(part)
        send_signal(pid, signal.SIGCONT)

    return Injected(part, [(seconds, thaw)])


def _kill_broker(at: Field) -> Injected | None:
    return Injected("kafka") if at.chain.send("kafka", signal.SIGKILL) else None


def _restart_broker(at: Field) -> Injected:
    at.chain.supervisor.stop(["kafka"])
    at.chain.supervisor.start("kafka")
    return Injected("kafka")


def _kill_redis(at: Field) -> Injected | None:
    return Injected("redis") if at.chain.send("redis", signal.SIGKILL) else None


def _flush_redis(at: Field) -> Injected | None:
    try:
        before = at.chain.online_progress()
        connection = Connection(settings().redis_url)
        try:
            connection.exchange(command(b"FLUSHALL"), 1)
        finally:
            connection.close()
    except (KafkaException, ServiceUnavailableError):
        return None
    flush = Flush(before, _until_answered(at.chain.finished))
    at.flushes.append(flush)
    return Injected("redis")


def _until_answered(ask: Callable[[], dict[int, int]]) -> dict[int, int]:
    while True:
        try:
            return ask()
        except KafkaException:
            continue


def _damage_snapshot(at: Field) -> Injected | None:
    """Only where the other chain is whole: against two damaged ones nothing is promised."""
    if any(extra.poll() is None for extra in at.chain.extras) or "stages" in at.frozen:
        return None
    files = list((at.chain.home / "snapshots").rglob("*.snap"))
    folders = sorted({path.parent.parent for path in files})
    at.draw.shuffle(folders)
    at.chain.send("stages", signal.SIGKILL)
    for folder in folders:
        kept = sorted(folder.rglob("*.snap"), key=lambda path: int(path.stem.rpartition("-")[0]))
        chains = {path.parent for path in kept}
        if len(chains) == 2 and not any(_is_damaged(path) for path in kept):
            _damage(kept[-1], at.draw)
            return Injected(f"stages, {folder.parent.name}/{folder.name}")
    return None


_MARK = b"chaos"


def _is_damaged(path: Path) -> bool:
    return path.read_bytes().endswith(_MARK)


def _damage(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    cut = draw.choice([0, len(content) // 2, len(content)])
    path.write_bytes(content[:cut] + _MARK)


def _fill_disk(at: Field) -> Injected | None:
    point = "snapshots.written_not_synced"
    failpoints.arm(at.chain.failpoints, point, "enospc", 1)
    at.armed_s[point] = time.time()
    return Injected("stages") if at.chain.send("stages", signal.SIGKILL) else None


def _storm(at: Field) -> Injected:
    """Workers come and go: partitions change hands four times."""
    service = at.draw.choice(["stages", "stages", "ingest", "online-store"])
    first, second = at.chain.second(service), at.chain.second(service)
    ends = at.draw.uniform(10, 16), at.draw.uniform(12, 20)
    return Injected(service, [(ends[0], first.kill), (ends[1], second.terminate)])


def _poison(at: Field) -> Injected:
    at.load.ask_for("poison", at.draw.randrange(5, 60))
    return Injected("load")


def _repeat(at: Field) -> Injected:
    at.load.ask_for("repeat", at.draw.randrange(20, 200))
    return Injected("load")


def _reorder(at: Field) -> Injected:
    at.load.ask_for("reorder", at.draw.randrange(20, 100))
    return Injected("load")


def _clock(at: Field) -> Injected:
    """Forward within what is accepted, forward beyond it, or back."""
    partition = at.draw.randrange(at.chain.plan.partitions)
    jump_s = at.draw.choice([30.0, 60.0, 3600.0, -300.0])
    at.load.move_clock(partition, jump_s)

    def right() -> None:
        at.load.move_clock(partition, 0.0)

    return Injected(f"load, partition {partition}, {jump_s:+.0f} s", [(4.0, right)])


FAULTS = (
    Fault("kill", "SIGKILL of a service", _kill_service),
    Fault("kill all", "SIGKILL of every service at once", _kill_all_services),
    Fault("freeze", "SIGSTOP of any process for seconds", _freeze),
    Fault("zombie", "SIGSTOP of a service; another takes over; it comes back", _freeze_and_replace),
    Fault("kill broker", "SIGKILL of the broker", _kill_broker),
    Fault("restart broker", "the broker is stopped and started", _restart_broker),
    Fault("kill redis", "SIGKILL of the online store", _kill_redis),
    Fault("flush redis", "everything in the online store is deleted", _flush_redis),
    Fault("damaged snapshot", "the newest snapshot of a partition is cut short", _damage_snapshot),
    Fault("full disk", "no space is left while a snapshot is written", _fill_disk),
    Fault("storm", "workers of a service 1→3→1", _storm),
    Fault("poison", "many records that break the contract", _poison),
    Fault("repeat", "many records sent again", _repeat),
    Fault("reorder", "many records out of order", _reorder),
    Fault("clock", "the producers of a partition tell another time", _clock),
)
"""Every kind, beside the failpoints."""


class Deck:
    """Which fault is next: all failpoints and all kinds come about equally often.

    Args:
        draw: decides the order.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._points: list[str] = []
        self._faults: list[Fault] = []
        self._turn = 0

    def next(self) -> Fault:
        """Two of three are failpoints: each of them is to be met five times in 200 rounds."""
        self._turn += 1
        if self._turn % 3:
            self._points = self._points or self._shuffled(failpoints.FAILPOINTS)
            point = self._points.pop()
            return Fault("failpoint", "death at a named point", lambda at: arm(at, point), point)
        self._faults = self._faults or self._shuffled(FAULTS)
        return self._faults.pop()

    def _shuffled(self, whole: Iterable[T]) -> list[T]:
        cards = list(whole)
        self._draw.shuffle(cards)
        return cards

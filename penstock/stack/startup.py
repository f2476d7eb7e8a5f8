"""Starts parts side by side, each as soon as what it depends on is ready."""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from penstock.stack.logs import last_lines
from penstock.stack.part import Part
from penstock.stack.probes import is_ready
from penstock.stack.site import Site
from penstock.stack.supervisor import StackError, Supervisor

# Far more than a quiet machine needs: a busy one is no failure.
_READY_WITHIN_S = 300
_POLL_S = 0.1
_LOG_LINES = 15

# A part that has ended this often while it is waited for will not come up.
_ENDS_UNTIL_FAILED = 3


class Startup:
    """One run of bringing parts up. `say` receives a line whenever one is ready."""

    def __init__(self, supervisor: Supervisor, site: Site, say: Callable[[str], None]) -> None:
        self._supervisor = supervisor
        self._site = site
        self._say = say
        self._ready: dict[str, threading.Event] = {}
        self._failed = threading.Event()
        self._preparing: dict[str, threading.Lock] = {}

    def run(self, parts: Sequence[Part]) -> None:
        """Bring every part up. Raises the StackError of the first that fails."""
        self._ready = {part.name: threading.Event() for part in parts}
        self._preparing = {part.data: threading.Lock() for part in parts if part.data}
        with ThreadPoolExecutor(max(1, len(parts))) as pool:
            outcomes = [pool.submit(self._bring_up, part) for part in parts]
            try:
                wait(outcomes)
            except KeyboardInterrupt:
                self._failed.set()
                raise
        errors = [outcome.exception() for outcome in outcomes]
        if first := next((error for error in errors if error), None):
            raise first

    def _bring_up(self, part: Part) -> None:
        try:
            started = time.monotonic()
            if self._supervisor.is_running(part.name) and is_ready(part, self._site):
                self._ready[part.name].set()
                return
            self._prepare(part)
            for name in part.depends_on:
                self._wait_for(self._ready[name].is_set)
            if self._failed.is_set():
                return
            ends = self._supervisor.ends().get(part.name, 0)
            self._supervisor.start(part.name)
            since = time.monotonic()
            self._wait_for(lambda: self._judge(part, since, ends))
            if not self._failed.is_set():
                self._ready[part.name].set()
                up = sum(event.is_set() for event in self._ready.values())
                took_s = time.monotonic() - started
                self._say(f"{part.name} ready after {took_s:.1f} s ({up} of {len(self._ready)})")
        except BaseException:
            self._failed.set()
            raise

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not self._failed.is_set() and not condition():
            time.sleep(_POLL_S)

    def _judge(self, part: Part, since: float, ends_before: int) -> bool:
        if is_ready(part, self._site):
            return True
        ends = self._supervisor.ends().get(part.name, 0) - ends_before
        if ends >= _ENDS_UNTIL_FAILED:
            raise self._failure(part, f"ended {ends} times while it was started")
        if time.monotonic() - since > _READY_WITHIN_S:
            raise self._failure(part, f"was not ready after {_READY_WITHIN_S} s")
        return False

    def _failure(self, part: Part, what: str) -> StackError:
        log = self._supervisor.log(part.name)
        return StackError(
            f"{part.name} {what}; its log {log} ends with:\n{last_lines(log, _LOG_LINES)}"
        )

    def _prepare(self, part: Part) -> None:
        """Lay out the part's data folder, once; parts that share a folder wait for each other."""
        if part.data is None:
            return
        folder = self._site.data(part.data)
        done = folder.with_name(f".{part.data}-is-laid-out")
        with self._preparing[part.data]:
            if done.exists():
                return
            folder.mkdir(parents=True, exist_ok=True)
            log = self._supervisor.log(part.name)
            with log.open("ab") as output:
                for command in part.prepare(self._site):
                    answer = subprocess.run(
                        command,
                        env=self._supervisor.base_environment() | part.environment(self._site),
                        cwd=self._site.project,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        check=False,
                    )
                    if answer.returncode:
                        raise self._failure(part, "could not lay out its folder")
            done.touch()

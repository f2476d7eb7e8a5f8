"""The local stack of one home: brings parts up, tells how they are, takes them down."""

import fcntl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from penstock.stack import provision
from penstock.stack.java import pinned_java, spark_java_home
from penstock.stack.part import Part
from penstock.stack.parts import PARTS, select
from penstock.stack.probes import is_ready
from penstock.stack.site import Site
from penstock.stack.startup import Startup
from penstock.stack.state import StackState, read_environment, write_private
from penstock.stack.status import PartStatus, StackStatus, proportional_mib, state_name
from penstock.stack.supervisor import Program, StackError, Supervisor

Say = Callable[[str], None]


def say_nothing(_: str) -> None:
    """For callers that want no progress."""


class Stack:
    """Every part of Penstock on this machine, with all its state under `home`.

    `project` is the folder that holds the packages and `dags/`.
    """

    def __init__(self, home: Path, project: Path) -> None:
        self.home = home.resolve()
        self.project = project.resolve()
        self._python = Path(sys.executable)
        self._cache = provision.cache_folder(self.project)
        self._supervisor = Supervisor(self.home, self.project, self._python)

    def up(self, names: Sequence[str] = (), say: Say = say_nothing) -> None:
        """Start the named parts or groups with what they need, and wait until each is ready.

        All parts without names. What is up stays as it is. `say` receives lines of progress.
        Raises StackError, which names the part and shows its last log lines.
        """
        parts = select(names)
        with self._locked():
            state = self._lay_out()
            loaded = self._supervisor.processes()
            known = [part for part in PARTS.values() if part in parts or part.name in loaded]
            tools = self._provide(known, say)
            absent = {part.name for part in known if not set(part.requires) <= tools.keys()}
            for name in sorted(absent):
                if name in names:
                    raise StackError(f"{name} cannot be had on this machine.")
                say(f"{name} is left out: it cannot be had on this machine")
            state.absent = sorted(absent)
            state.save()
            site = self._site(state, tools)
            self._supervisor.load(
                self._program(part, site) for part in known if part.name not in absent
            )
            startup = Startup(self._supervisor, site, say)
            startup.run([part for part in parts if part.name not in absent])

    def provide_spark_jars(self, say: Say = say_nothing) -> None:
        """Fetch Delta's jars for Spark and write the environment, without starting anything."""
        with self._locked():
            self._lay_out()
        provision.provide("spark-jars", self._cache, say)

    def down(self, say: Say = say_nothing) -> None:
        """End every process of this stack. Raises StackError when one is left."""
        with self._locked():
            running = [PARTS[name] for name in self._supervisor.processes() if name in PARTS]
            needed = {name for part in running for name in part.depends_on}
            for wave in (
                [part.name for part in running if part.name not in needed],
                [part.name for part in running if part.name in needed],
            ):
                if wave:
                    say(f"stopping {', '.join(wave)}")
                    self._supervisor.stop(wave)
            self._supervisor.shutdown()

    def status(self) -> StackStatus:
        """How every part is at this moment."""
        state = StackState(self.home)
        processes = self._supervisor.processes()
        ends = self._supervisor.ends() if processes else {}
        site = self._site(state, {})

        def judge(part: Part) -> PartStatus:
            info = processes.get(part.name)
            pid = info["pid"] if info else None
            ready = bool(pid) and is_ready(part, site)
            return PartStatus(
                name=part.name,
                title=part.title,
                state=state_name(info, absent=part.name in state.absent, ready=ready),
                ready=ready,
                url=self.url(part.name) if pid and part.url_path else None,
                ports=state.ports.get(part.name, {}),
                pid=pid or None,
                restarts=ends.get(part.name, 0),
                pss_mib=proportional_mib(pid),
            )

        with ThreadPoolExecutor(len(PARTS)) as pool:
            parts = list(pool.map(judge, PARTS.values()))
        return StackStatus(parts, proportional_mib(self._supervisor.pid()))

    def environment(self) -> dict[str, str]:
        """The `PENSTOCK_*` variables that point at this stack; empty before its first start."""
        return read_environment(self.home)

    def port(self, part: str, name: str) -> int:
        """A port of a part. Raises StackError before the stack's first start."""
        ports = StackState(self.home).ports
        if not ports:
            raise StackError(f"The stack of {self.home} has no ports yet: run `penstock up`.")
        return ports[part][name]

    def url(self, part: str) -> str:
        """`http://…` of a part with a page or an API, without a slash at its end."""
        path = (PARTS[part].url_path or "").rstrip("/")
        return f"http://127.0.0.1:{self.port(part, next(iter(PARTS[part].ports)))}{path}"

    def log(self, part: str) -> Path:
        """The log file of a part. Raises StackError for a name that is none."""
        if part not in PARTS:
            raise StackError(f"There is no part named {part}. There are: {', '.join(PARTS)}.")
        return self._supervisor.log(part)

    def _lay_out(self) -> StackState:
        """Choose ports and write `stack.json` and `env`."""
        state = StackState(self.home)
        state.choose_ports(keep_all=self._supervisor.pid() is not None)
        state.save()
        variables = self._site(state, {}).environment()
        write_private(
            self.home / "env", "".join(f"{name}={value}\n" for name, value in variables.items())
        )
        return state

    def _provide(self, parts: Sequence[Part], say: Say) -> dict[str, Path]:
        wanted = dict.fromkeys(name for part in parts for name in part.requires)
        wanted["spark-jars"] = None
        with ThreadPoolExecutor(len(wanted)) as pool:
            found = pool.map(lambda name: provision.provide(name, self._cache, say), wanted)
            return {name: path for name, path in zip(wanted, found, strict=True) if path}

    def _program(self, part: Part, site: Site) -> Program:
        folder = site.config(part.name)
        for name, text in part.files(site).items():
            write_private(folder / name, text)
        return Program(
            part.name,
            part.command(site),
            part.directory(site),
            part.environment(site),
            part.stop_seconds,
        )

    def _site(self, state: StackState, tools: Mapping[str, Path]) -> Site:
        return Site(
            home=self.home,
            project=self.project,
            python=self._python,
            java=pinned_java(),
            spark_java_home=spark_java_home(self.home),
            spark_jars=self._cache / "spark",
            bind_host="127.0.0.1",
            hosts={},
            ports=state.ports,
            tools=tools,
            secrets=state.secrets,
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change of the stack at a time."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

"""Runs the parts under supervisord, which is spoken to by XML-RPC over a unix socket."""

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from features.errors import PenstockError

# Every process of a stack carries its home under this name, so that none can be lost.
MARK = "PENSTOCK_SUPERVISED"

# Longest path of a unix socket that every system takes.
_SOCKET_PATH_BYTES = 100

# A part that ends sooner than this after its start is started again ever more slowly.
_SETTLED_AFTER_S = 5
_START_RETRIES = 20

_HEAD = """[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
identifier = penstock
directory = {directory}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command = {command}
directory = {directory}
environment = {environment}
autostart = false
autorestart = true
startsecs = {settled}
startretries = {retries}
stopwaitsecs = {stop_seconds}
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 1
"""


class StackError(PenstockError):
    """The local stack could not do what was asked; names the part and shows its last words."""


@dataclass(frozen=True)
class Program:
    """One process to supervise."""

    name: str
    command: list[str]
    directory: Path
    environment: Mapping[str, str]
    stop_seconds: int


class Supervisor:
    """The supervisord of one home. Logs of parts are `<home>/logs/<part>.log`."""

    def __init__(self, home: Path, project: Path, python: Path) -> None:
        self.home = home
        self._project = project
        self._python = python
        self._folder = home / "supervisor"
        socket = self._folder / "socket"
        if len(str(socket)) > _SOCKET_PATH_BYTES:
            digest = hashlib.sha256(str(socket).encode()).hexdigest()[:16]
            socket = Path(tempfile.gettempdir()) / f"penstock-{digest}.socket"
        self._socket = socket

    def log(self, name: str) -> Path:
        """The log file of a part."""
        return self.home / "logs" / f"{name}.log"

    def pid(self) -> int | None:
        """Process id of supervisord, None when it does not answer."""
        try:
            return int(self._call("getPID"))
        except (OSError, HTTPException, xmlrpc.client.Error):
            return None

    def load(self, programs: Iterable[Program]) -> None:
        """Make supervisord know exactly these programs, without touching one that runs."""
        running = self.pid() is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        self.log("any").parent.mkdir(exist_ok=True)
        configuration = self._folder / "supervisord.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration(programs))
        if not running:
            self._launch(configuration)
        added, changed, _ = self._call("reloadConfig")[0]
        states = self.processes()
        for name in changed:
            # Its new configuration counts from its next start.
            if states[name]["statename"] in ("STOPPED", "EXITED", "FATAL"):
                self._call("removeProcessGroup", name)
                self._call("addProcessGroup", name)
        for name in added:
            self._call("addProcessGroup", name)

    def processes(self) -> dict[str, dict[str, Any]]:
        """What supervisord says of each program, by name; empty when it does not run."""
        try:
            return {info["name"]: info for info in self._call("getAllProcessInfo")}
        except (OSError, HTTPException, xmlrpc.client.Error):
            return {}

    def is_running(self, name: str) -> bool:
        """Whether the program is up as far as supervisord knows."""
        return self.processes().get(name, {}).get("statename") in ("STARTING", "RUNNING")

    def start(self, name: str) -> None:
        """Start a program unless it runs."""
        with contextlib.suppress(xmlrpc.client.Fault):  # it runs already
            self._call("startProcess", name, False)

    def stop(self, names: Iterable[str]) -> None:
        """Stop programs together and wait for their end."""
        waiting = set(names)
        for name in waiting:
            with contextlib.suppress(xmlrpc.client.Fault):  # it does not run
                self._call("stopProcess", name, False)
        while waiting:
            states = self.processes()
            waiting = {
                name
                for name in waiting
                if states.get(name, {}).get("statename") in ("STOPPING", "RUNNING", "STARTING")
            }
            time.sleep(0.05)

    def shutdown(self) -> None:
        """End supervisord and everything that is left of this home; none may survive."""
        pid = self.pid()
        if pid is not None:
            self._call("shutdown")
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                psutil.Process(pid).wait(timeout=30)
        end_strays(self.home)

    def ends(self) -> dict[str, int]:
        """How often each part has ended by itself since supervisord started."""
        log = self._folder / "supervisord.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        lives = text.rpartition("supervisord started with pid")[2]
        counts: dict[str, int] = {}
        for name in re.findall(r"exited: (\S+) \(", lives):
            counts[name] = counts.get(name, 0) + 1
        return counts

    def base_environment(self) -> dict[str, str]:
        """What every process of the stack inherits."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            # Settings of another Airflow, MLflow or Penstock must not reach this one.
            if not name.startswith(("AIRFLOW_", "MLFLOW_", "PENSTOCK_", "PYTEST_"))
        }
        # A process title may be written over the environment that carries the mark.
        return inherited | {MARK: str(self.home), "SPT_NOENV": "1"}

    def _launch(self, configuration: Path) -> None:
        end_strays(self.home)
        answer = subprocess.run(
            [str(self._python), "-m", "supervisor.supervisord", "-c", str(configuration)],
            env=self.base_environment(),
            cwd=self._project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            words = (answer.stdout + answer.stderr).strip()
            raise StackError(f"supervisord did not start from {configuration}: {words}")
        deadline = time.monotonic() + 20
        while self.pid() is None:
            if time.monotonic() > deadline:
                raise StackError(
                    f"supervisord did not answer; read {self._folder / 'supervisord.log'}."
                )
            time.sleep(0.05)

    def _configuration(self, programs: Iterable[Program]) -> str:
        text = _HEAD.format(
            socket=_escape(str(self._socket)),
            folder=_escape(str(self._folder)),
            directory=_escape(str(self._project)),
        )
        for program in programs:
            environment = ",".join(
                f"{name}={_escape(_quote(value))}" for name, value in program.environment.items()
            )
            text += _PROGRAM.format(
                name=program.name,
                command=_escape(shlex.join(program.command)),
                directory=_escape(str(program.directory)),
                environment=environment,
                settled=_SETTLED_AFTER_S,
                retries=_START_RETRIES,
                stop_seconds=program.stop_seconds,
                log=_escape(str(self.log(program.name))),
            )
        return text

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        finally:
            transport.close()


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _quote(value: str) -> str:
    """A value as supervisord's reader of pairs wants it: always quoted, without escapes."""
    return f"'{value}'" if '"' in value else f'"{value}"'


def members(home: Path) -> list[psutil.Process]:
    """Every living process that was started by the stack of this home.

    They carry its mark in their environment or, where they have written over that as Redis does,
    are in supervisord's session.
    """
    session = _session(home)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            marked = process.environ().get(MARK) == str(home)
            if marked or (session and os.getsid(process.pid) == session):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def _session(home: Path) -> int | None:
    """Session of this home's supervisord, also when that was killed; None when it ended well."""
    try:
        session = int((home / "supervisor" / "supervisord.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    try:
        leader = psutil.Process(session).environ().get(MARK)
    except psutil.NoSuchProcess:
        return session
    except psutil.Error:
        return None
    # A number is not given away again while a process of its session lives.
    return session if leader == str(home) else None


def end_strays(home: Path) -> None:
    """End what outlived its supervisor. Raises StackError when something refuses to end."""
    left = members(home)
    for signal in ("terminate", "kill"):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, signal)()
        _, left = psutil.wait_procs(left, timeout=10)
    if left:
        names = ", ".join(f"{process.pid} ({process.name()})" for process in left)
        raise StackError(f"These processes of {home} could not be ended: {names}.")

"""What a part of the stack is: data that says how to run, reach and judge one process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from penstock.stack.site import Site


def _no_environment(_: Site) -> dict[str, str]:
    return {}


def _no_files(_: Site) -> dict[str, str]:
    return {}


def _project(site: Site) -> Path:
    return site.project


def _nothing_to_prepare(_: Site) -> list[list[str]]:
    return []


@dataclass(frozen=True)
class Probe:
    """How to see that a part answers.

    `http` wants status 200 at `path` of `port`; `kafka` wants cluster metadata and `redis` a PONG
    at `port`; `airflow` wants the component `path` healthy in the API server's own judgement.
    """

    kind: Literal["http", "kafka", "redis", "airflow"]
    port: str = "http"
    path: str = "/"


@dataclass(frozen=True)
class Part:
    """One process of the stack.

    `requires` names requirements of `penstock.stack.provision`. `depends_on` names parts that
    must be ready before this one starts, `companions` those that are started beside it. `files`
    gives configuration files by name, written to `site.config(name)`. `directory` is the working
    directory. `data` names the folder under the home that holds its state, and `prepare` the
    commands that run once to lay that folder out. `ports` maps names to the numbers used where
    nothing else is in the way. What `url_path` of its first port shows is worth a user's visit.
    `memory_mib` is what its processes are expected to take at most.
    """

    name: str
    title: str
    command: Callable[[Site], list[str]]
    probe: Probe
    memory_mib: int
    ports: Mapping[str, int]
    environment: Callable[[Site], dict[str, str]] = _no_environment
    files: Callable[[Site], dict[str, str]] = _no_files
    prepare: Callable[[Site], list[list[str]]] = _nothing_to_prepare
    directory: Callable[[Site], Path] = _project
    requires: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    data: str | None = None
    url_path: str | None = None
    stop_seconds: int = 10

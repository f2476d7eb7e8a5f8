"""The committed files of `docker/` speak of things that exist, and of nothing unsafe."""

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from penstock.commands.services import SERVICES
from penstock.stack.compose import files
from penstock.stack.parts import PARTS

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICE_NAMES = sorted(COMPOSE["services"])
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
SECRET_NAMES = (
    "PENSTOCK_TOKEN_KEY",
    "PENSTOCK_JWT_SECRET",
    "PENSTOCK_FERNET_KEY",
    "PENSTOCK_KAFKA_CLUSTER_ID",
)


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = COMPOSE["services"][name]
    return found


def targets() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, by its name."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    stages: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("FROM "):
            stages[line.split(" AS ")[1]] = []
        stages[next(reversed(stages))].append(line)
    return stages


def own_command(name: str) -> list[str]:
    """The command of a target, or of the container that prepares for it."""
    if "entrypoint" in service(name):
        words: list[str] = service(name)["entrypoint"]
        return words
    target = targets()[service(name)["build"]["target"]]
    [command] = [line for line in target if line.startswith("CMD ")]
    parsed: list[str] = yaml.safe_load(command.removeprefix("CMD "))
    return parsed


def settings_variables() -> set[str]:
    """Every environment variable that a settings class of ours reads."""
    known = set()
    for package in ("features", "streaming", "training", "serving", "penstock"):
        for info in pkgutil.iter_modules([str(PROJECT / package)]):
            if info.name != "settings":
                continue
            for value in vars(importlib.import_module(f"{package}.settings")).values():
                if isinstance(value, type) and issubclass(value, BaseSettings):
                    prefix = value.model_config.get("env_prefix", "")
                    known |= {f"{prefix}{field}".upper() for field in value.model_fields}
    return known


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.dockerignore", "compose.yaml"])
def test_committed_file_is_what_the_parts_give(name: str) -> None:
    committed = (FOLDER / name).read_text()
    assert committed == files()[name], "run `python -m penstock.stack.compose`"


def test_every_part_has_a_container() -> None:
    extra = set(COMPOSE["services"]) - set(PARTS)
    assert set(PARTS) <= set(COMPOSE["services"])
    assert extra == {name for name in extra if name.endswith("-prepare")}


@pytest.mark.parametrize("name", [n for n in SERVICE_NAMES if "build" in service(n)])
def test_command_of_our_image_exists(name: str) -> None:
    python, flag, module, *arguments = own_command(name)
    assert (Path(python).name, flag) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None
    if module == "penstock.cli":
        verb, service_name = arguments
        assert verb == "run"
        assert importlib.util.find_spec(SERVICES[service_name]) is not None
    elif module == "airflow":
        from airflow.cli import cli_config

        groups = {command.name: command for command in cli_config.core_commands}
        command = groups[arguments[0]]
        words = [word for word in arguments[1:] if not word.startswith("--")]
        if words:
            command = {each.name: each for each in command.subcommands}[words[0]]
        known = {flag for argument in command.args for flag in argument.flags}
        assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_ports_are_those_of_the_part_and_published_on_loopback_only(name: str) -> None:
    ports = set(PARTS[name].ports.values()) if name in PARTS else set()
    for published in service(name).get("ports", []):
        host, outside, inside = published.split(":")
        assert host == "127.0.0.1"
        assert {int(outside), int(inside)} <= ports
    if "build" in service(name) and name in PARTS:
        exposed = {int(line.split()[1]) for line in targets()[name] if line.startswith("EXPOSE ")}
        assert exposed == ports
    told = own_command(name) + list(service(name).get("environment", {}).values())
    assert {str(port) for port in ports} <= set(
        re.findall(r"\d{4,5}", " ".join(told) + _files(name))
    )


def _files(name: str) -> str:
    return "".join(
        COMPOSE["configs"][mount["source"]]["content"] for mount in service(name).get("configs", [])
    )


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_every_variable_is_read_by_something(name: str) -> None:
    from airflow.configuration import retrieve_configuration_description
    from mlflow import environment_variables as mlflow_variables

    sections = retrieve_configuration_description(include_providers=False)
    options = {
        f"AIRFLOW__{section.upper()}__{option.upper()}"
        for section, content in sections.items()
        for option in content["options"]
    }
    ours = settings_variables() | _read_by_code()
    for variable in service(name).get("environment", {}):
        if variable.startswith("PENSTOCK_"):
            assert variable in ours
        elif variable.startswith("AIRFLOW__"):
            assert variable in options
        elif variable.startswith("AIRFLOW_CONN_"):
            assert variable.removeprefix("AIRFLOW_CONN_").lower() in _dag_text()
        elif "MLFLOW_" in variable:
            assert hasattr(mlflow_variables, variable) or variable in _mlflow_text()
        else:
            assert variable in {"AIRFLOW_HOME", "PYTHONPATH"}


def _read_by_code() -> set[str]:
    """`PENSTOCK_*` that code outside the stack itself asks for by name."""
    return {
        found
        for package in ("penstock", "serving", "streaming", "training", "features", "monitoring")
        for path in (PROJECT / package).rglob("*.py")
        if path.parent.name != "stack"
        for found in re.findall(r"[\"'](PENSTOCK_[A-Z_]+)[\"']", path.read_text())
    }


def _dag_text() -> str:
    return "".join(path.read_text() for path in (PROJECT / "dags").glob("*.py"))


def _mlflow_text() -> str:
    spec = importlib.util.find_spec("mlflow.server")
    folder = Path(str(spec.origin)).parent if spec else Path()
    return "".join(path.read_text() for path in folder.glob("*.py"))


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_volumes_are_declared_and_hold_what_the_container_writes(name: str) -> None:
    mounted = dict(volume.split(":") for volume in service(name).get("volumes", []))
    assert set(mounted) <= set(COMPOSE["volumes"])
    part = PARTS.get(name)
    if part is not None and part.data is not None:
        told = " ".join(
            [*own_command(name), *service(name).get("environment", {}).values(), _files(name)]
        )
        assert any(target in told for target in mounted.values())


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_dependencies_exist_and_can_be_waited_for(name: str) -> None:
    for other, how in service(name).get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in service(other)
        if how["condition"] == "service_completed_successfully":
            assert service(other)["restart"] == "no"


@pytest.mark.parametrize("name", sorted(PARTS))
def test_every_part_has_a_health_check_on_a_port_of_its_own(name: str) -> None:
    test = " ".join(service(name)["healthcheck"]["test"][1:])
    asked = {
        int(port)
        for port in re.findall(r":(\d{4,5})\b|-p (\d{4,5})", test)
        for port in port
        if port
    }
    owner = "airflow-api-server" if name.startswith("airflow-") else name
    assert asked
    assert asked <= set(PARTS[owner].ports.values())


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_nothing_runs_as_root_but_what_gives_a_volume_away(name: str) -> None:
    assert service(name)["cap_drop"] == ["ALL"]
    if "build" in service(name):
        users = [line for line in targets()["base"] if line.startswith("USER ")]
        assert users == ["USER 10001:10001"]
        assert not [
            line
            for target in ("batch", service(name)["build"]["target"])
            for line in targets()[target]
            if line.startswith("USER ")
        ]
    elif service(name)["user"].startswith("0"):
        assert own_command(name)[0] == "chown"
        assert service(name)["cap_add"] == ["CHOWN"]
    else:
        assert service(name)["user"] != "root"


def test_secrets_come_from_the_environment_and_are_demanded() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    references = set(re.findall(r"(?<!\$)\$\{([A-Z_]+):\?[^}]+\}", text))
    assert references == set(SECRET_NAMES)
    assert service("ingest")["environment"]["PENSTOCK_TOKEN_KEY"].startswith("${")
    for name in ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY"):
        assert service("airflow-scheduler")["environment"][name].startswith("${")


def test_copied_files_exist_and_reach_the_build() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        line.split()[1]
        for stage in targets().values()
        for line in stage
        if line.startswith("COPY ") and "--from" not in line
    ]
    assert "features" in copied
    assert "training" in copied
    for source in copied:
        assert (PROJECT / source).exists()
        assert f"!{source}" in ignored


def test_no_step_names_a_processor() -> None:
    assert not re.search(r"amd64|x86|arm64|aarch64|--platform", DOCKERFILE)


def test_official_images_are_of_the_versions_of_the_local_stack() -> None:
    wanted = (PROJECT / "penstock" / "stack" / "ivy.xml").read_text()
    for name, artefact in (("kafka", "kafka_2.13"), ("registry", "apicurio-registry-app")):
        version = service(name)["image"].split(":")[1]
        assert re.search(rf'name="{re.escape(artefact)}" rev="{re.escape(version)}"', wanted)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    answer = subprocess.run(
        [hadolint, "--failure-threshold", "info", FOLDER / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, "")

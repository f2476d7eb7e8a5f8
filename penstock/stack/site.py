"""Where the parts of one stack live: folders, addresses, tools and secrets.

A part's command, environment and files are functions of a `Site`. The local stack and the
compose file describe two different sites to the same parts.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from features.settings import settings


@dataclass(frozen=True)
class Secrets:
    """What the parts share and nobody else may know; made once per home."""

    token_key: str
    jwt: str
    fernet: str
    kafka_cluster_id: str


@dataclass(frozen=True)
class Site:
    """One place where the parts run.

    `ports[part][name]` and `hosts[part]` say where to reach a part; `bind_host` is what it
    listens on. `tools` holds the path of each requirement of `penstock.stack.provision`.
    """

    home: Path
    project: Path
    python: Path
    java: Path
    spark_java_home: Path
    spark_jars: Path
    bind_host: str
    hosts: Mapping[str, str]
    ports: Mapping[str, Mapping[str, int]]
    tools: Mapping[str, Path]
    secrets: Secrets

    def host(self, part: str) -> str:
        """The name or address where other parts reach this one."""
        return self.hosts.get(part, self.bind_host)

    def port(self, part: str, name: str) -> int:
        """A port of a part."""
        return self.ports[part][name]

    def address(self, part: str, name: str) -> str:
        """`host:port` of a part."""
        return f"{self.host(part)}:{self.port(part, name)}"

    def data(self, part: str) -> Path:
        """The folder a part keeps its state in."""
        return self.home / part

    def config(self, part: str) -> Path:
        """The folder of a part's generated configuration."""
        return self.home / "config" / part

    def environment(self) -> dict[str, str]:
        """Every `PENSTOCK_*` variable that all processes share."""
        return {
            "PENSTOCK_HOME": str(self.home),
            "PENSTOCK_FEATURE_SET": settings().feature_set,
            "PENSTOCK_DEFINITIONS": os.pathsep.join(map(str, settings().definition_folders)),
            "PENSTOCK_KAFKA_BOOTSTRAP": self.address("kafka", "client"),
            "PENSTOCK_SCHEMA_REGISTRY_URL": (
                f"http://{self.address('registry', 'http')}/apis/ccompat/v7"
            ),
            "PENSTOCK_REDIS_URL": f"redis://{self.address('redis', 'client')}/0",
            "PENSTOCK_LAKE_URI": str(self.home / "lake"),
            "PENSTOCK_SNAPSHOT_URI": str(self.home / "snapshots"),
            "PENSTOCK_TOKEN_KEY": self.secrets.token_key,
            "PENSTOCK_MLFLOW_URI": f"http://{self.address('mlflow', 'http')}",
            "PENSTOCK_JAVA_HOME": str(self.spark_java_home),
            "PENSTOCK_SPARK_IVY_HOME": str(self.spark_jars),
            "PENSTOCK_AIRFLOW_URL": f"http://{self.address('airflow-api-server', 'http')}",
            "PENSTOCK_PROMETHEUS_URL": f"http://{self.address('prometheus', 'http')}",
            "PENSTOCK_ALERTMANAGER_URL": f"http://{self.address('alertmanager', 'http')}",
            "PENSTOCK_PAGES_URL": f"http://{self.address('page-recorder', 'http')}/pages",
        }

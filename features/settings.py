"""Addresses every package needs: the brokers, the lake, the online store."""

import os
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment (`PENSTOCK_*`); `penstock up` writes the local stack's values."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    home: Path = Path(".penstock")
    feature_set: str = "card_fraud"
    definitions: str = ""
    kafka_bootstrap: str = "127.0.0.1:9092"
    schema_registry_url: str = "http://127.0.0.1:8081/apis/ccompat/v7"
    redis_url: str = "redis://127.0.0.1:6379/0"
    lake_uri: str = ".penstock/lake"
    snapshot_uri: str = ".penstock/snapshots"
    java_home: str = ""
    spark_ivy_home: str = ""
    bind_host: str = "127.0.0.1"
    metrics_port: int = 0

    @property
    def definition_folders(self) -> list[Path]:
        """The folders of `definitions`, absolute, each once."""
        named = [Path(name).resolve() for name in self.definitions.split(os.pathsep) if name]
        return list(dict.fromkeys(named))


@cache
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()


def shown(uri: str) -> str:
    """A URI for people to read: without the user and password it may carry."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

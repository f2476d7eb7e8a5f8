"""What the serving processes read from the environment besides the shared addresses."""

from functools import cache

from pydantic_settings import BaseSettings, SettingsConfigDict


class ServingSettings(BaseSettings):
    """Read from the environment (`PENSTOCK_*`).

    `champion_poll_s` is how often the alias is asked for. `drift_*` are the arguments of
    `monitoring.drift.DriftWatch`. `page_port` is where the page recorder listens.
    """

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    mlflow_uri: str = "http://127.0.0.1:5000"
    champion_poll_s: float = 1.0
    drift_threshold: float = 0.2
    drift_minimum_rows: int = 1000
    drift_cooldown_s: float = 21_600.0
    page_port: int = 9407


@cache
def settings() -> ServingSettings:
    """The process's settings, read once."""
    return ServingSettings()

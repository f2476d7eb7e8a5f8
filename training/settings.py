"""Where training keeps its work and its history."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class TrainingSettings(BaseSettings):
    """Read from the environment (`PENSTOCK_*`)."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    home: Path = Path(".penstock")
    mlflow_uri: str = "http://127.0.0.1:5000"

    @property
    def work_folder(self) -> Path:
        """Holds one folder per training run."""
        return self.home.absolute() / "training"


def settings() -> TrainingSettings:
    """The settings as the environment has them now."""
    return TrainingSettings()

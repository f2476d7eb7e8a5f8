"""What the stream's services need beyond `features.settings`."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StreamingSettings(BaseSettings):
    """Read from the environment (`PENSTOCK_*`)."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    token_key: SecretStr = SecretStr("")
    """The tokeniser's key in hex digits, at least 16 bytes."""

"""A lake of its own for each module of tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from features.settings import settings
from tests.conftest import SessionStack


@pytest.fixture(scope="module")
def own_lake(stack: SessionStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty lake and home; the settings point at it for the module."""
    folder = tmp_path_factory.mktemp("lake")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_LAKE_URI", str(folder / "lake"))
        patch.setenv("PENSTOCK_HOME", str(folder))
        settings.cache_clear()
        yield folder
    settings.cache_clear()

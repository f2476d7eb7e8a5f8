"""A lake of its own for each module, and the plan it belongs to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from features.catalog import load_plan
from features.plan import Plan
from features.settings import settings
from tests.training.history import write_history


@pytest.fixture(scope="session")
def plan() -> Plan:
    return load_plan("card_fraud")


@pytest.fixture(scope="module")
def history(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a lake of 35 days; `PENSTOCK_HOME` and `PENSTOCK_LAKE_URI` point at it."""
    yield from _history(plan, tmp_path_factory.mktemp("home"))


@pytest.fixture
def own_history(plan: Plan, history: Path, tmp_path: Path) -> Iterator[Path]:
    """The same lake in a folder that the test may change."""
    yield from _history(plan, tmp_path / "home")
    settings.cache_clear()


def _history(plan: Plan, folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_HOME", str(folder))
        patch.setenv("PENSTOCK_LAKE_URI", str(folder / "lake"))
        settings.cache_clear()
        write_history(plan)
        yield folder
    settings.cache_clear()

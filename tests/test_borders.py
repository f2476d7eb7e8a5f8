"""Generic top-level names must be ours, and packages keep to their borders."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["dags", "features", "kernels", "monitoring", "penstock", "serving", "streaming"]


@pytest.mark.parametrize("package", [*PACKAGES, "training"])
def test_top_level_name_resolves_to_this_repository(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)


def test_imports_keep_to_the_borders() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_help_of_the_command_line_teaches_without_heavy_imports() -> None:
    script = (
        "import sys; sys.argv = ['penstock', '--help']\n"
        "from penstock.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pyspark', 'feast', 'mlflow', 'faust', 'pandas', 'airflow'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "heavy: []" in result.stdout
    for word in ("up", "plan", "generate", "produce", "sql", "demo"):
        assert f" {word} " in result.stdout

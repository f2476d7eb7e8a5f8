"""Every test that docs/guarantees.md names is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/guarantees.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


def test_every_test_named_exists() -> None:
    for path, name in NAMED:
        held = {
            n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(n, "name")
        }
        assert name in held, f"{path}::{name}"


def test_every_promise_names_a_test() -> None:
    tables = [line for line in TEXT.splitlines() if line.startswith("| ")]
    promises = [line for line in tables if not line.startswith("| promise")]
    assert len(promises) > 15
    for line in promises:
        assert "::test_" in line.split("|")[3], line

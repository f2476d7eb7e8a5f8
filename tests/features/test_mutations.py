"""The contract test is worth something: without any one line of an aggregation it fails.

Every statement of an aggregation's methods is taken out in turn, and every primitive it needs; the
contract test has to notice each time.
"""

import ast
import copy
import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from features.aggregations import aggregations
from features.aggregations.base import Aggregation
from tests.features import test_aggregations as contract

CHECKS: list[Callable[[str], None]] = [
    contract.test_kernel_and_reference_give_the_value_worked_out_by_hand,
    contract.test_empty_window_gives_what_is_stated,
    contract.test_values_lie_within_the_bounds,
    contract.test_aggregation_says_what_it_is,
]
METHODS = ("result", "reference", "primitives", "columns")


EQUIVALENT = {
    # The estimate of a few values is their number.
    "return float(len(values))",
    "if len(values) <= terms.parameters[0]:\n    return float(len(values))",
}
"""Lines without which the value stays the same: they are there for their cost or their error."""


def mutants(module: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """What was taken out, and the module without it."""
    nodes = list(ast.walk(module))
    inside = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name in METHODS
        for inner in ast.walk(node)
    }
    for at, node in enumerate(nodes):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "needs":
            held: list[Any] = getattr(node.value, "elts", [])
            path = "value.elts"
        elif id(node) in inside and isinstance(getattr(node, "body", None), list):
            held, path = node.body, "body"  # type: ignore[attr-defined]
        else:
            continue
        for index, part in enumerate(held):
            if isinstance(part, ast.Import | ast.ImportFrom):
                continue
            without = copy.deepcopy(module)
            parts = operator.attrgetter(path)(list(ast.walk(without))[at])
            parts[index : index + 1] = [ast.Pass()] if path == "body" else []
            yield ast.unparse(part), without


def of_module(module: ast.Module, like: Aggregation) -> Aggregation:
    names: dict[str, Any] = {"__name__": type(like).__module__}
    exec(compile(ast.fix_missing_locations(module), "mutant.py", "exec"), names)
    made = names[type(like).__name__]()
    assert isinstance(made, Aggregation)
    return made


def notices(name: str) -> bool:
    for check in CHECKS:
        try:
            check(name)
        except Exception:  # noqa: BLE001 - a mutant may fail in any way
            return True
    return False


@pytest.mark.parametrize("name", sorted(aggregations()))
def test_every_line_of_an_aggregation_matters(name: str) -> None:
    right = aggregations()[name]
    module = ast.parse(inspect.getsource(sys.modules[type(right).__module__]))
    assert not notices(name)
    survivors, tried = [], 0
    try:
        for removed, mutant in mutants(module):
            if removed in EQUIVALENT:
                continue
            tried += 1
            aggregations()[name] = of_module(mutant, right)
            if not notices(name):
                survivors.append(removed)
    finally:
        aggregations()[name] = right
    assert tried >= 2
    assert survivors == []

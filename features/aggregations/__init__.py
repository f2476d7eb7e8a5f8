"""What a window can compute: one small class a file, found by its name.

An aggregation is made of primitives that the window kernel keeps or reads (`kernels/windows.py`),
a formula that turns them into the feature's value, and a plain reference that says what it means.
A new one is a file here, its word in `features/vocabulary.py`, and its line in the contract test.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from features.aggregations.base import Aggregation


@cache
def aggregations() -> dict[str, Aggregation]:
    """Every aggregation by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {each.name: each() for each in Aggregation.__subclasses__()}

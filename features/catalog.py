"""Finds the feature sets that definitions files declare.

They lie in `features/definitions` and in every folder named by `PENSTOCK_DEFINITIONS`. Each of
those folders is a package under a name that only this module knows: nothing in it can shadow a
module of ours or of another folder, two folders may hold files of one name, and a file may import
its neighbours (`from .shared import customer`).
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import features.definitions
from features.errors import DefinitionError
from features.place import Place, did_you_mean, wrong
from features.plan import Plan, compile_plan
from features.settings import settings
from features.vocabulary import FeatureSet


@dataclass(frozen=True)
class Catalog:
    """What was found: plans by name, and what is wrong by the module, folder or name it is in."""

    plans: dict[str, Plan] = field(default_factory=dict)
    broken: dict[str, DefinitionError] = field(default_factory=dict)


def load_catalog() -> Catalog:
    """Read every definitions file; one that is wrong is no hindrance to the others."""
    found = Catalog()
    own = Path(features.definitions.__path__[0]).resolve()
    sets = _read(features.definitions, found)
    for folder in settings().definition_folders:
        if folder == own:
            continue
        if folder.is_dir():
            sets += _read(_package(folder), found)
        else:
            found.broken[str(folder)] = DefinitionError(
                f"PENSTOCK_DEFINITIONS names {str(folder)!r}, which is no folder; make it, or take "
                "it out of the setting"
            )
    first: dict[str, FeatureSet] = {}
    for each in sets:
        # A file may import the set of another.
        if first.setdefault(each.name, each) is not each:
            found.broken[each.name] = wrong(
                each.place,
                f"the feature set {each.name!r} is declared a second time "
                f"(first at {first[each.name].place})",
                "give one another name",
            )
    for name, feature_set in first.items():
        try:
            found.plans[name] = compile_plan(feature_set)
        except DefinitionError as error:
            found.broken[name] = error
    return found


def load_plan(name: str) -> Plan:
    """The plan of a feature set.

    Raises:
        DefinitionError: there is none of that name or more than one, or it cannot be compiled.
    """
    found = load_catalog()
    if name in found.broken:
        raise found.broken[name]
    if name in found.plans:
        return found.plans[name]
    if found.broken:
        raise next(iter(found.broken.values()))
    named = "".join(f" and {folder}" for folder in settings().definition_folders)
    raise DefinitionError(
        f"no feature set {name!r}; {did_you_mean(name, sorted(found.plans))} (read were "
        f"features/definitions{named or ' alone: PENSTOCK_DEFINITIONS names no folder'})"
    )


def _package(folder: Path) -> ModuleType:
    """The folder as a package that no import statement of others can reach."""
    name = f"penstock_definitions_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return sys.modules[name]


def _read(package: ModuleType, found: Catalog) -> list[FeatureSet]:
    """The feature sets in a package's files."""
    sets: list[FeatureSet] = []
    for info in pkgutil.iter_modules(package.__path__):
        name = f"{package.__name__}.{info.name}"
        try:
            module = importlib.import_module(name)
        except DefinitionError as error:
            found.broken[name] = error
            continue
        # A user's own file may raise whatever it likes, and may be a script that exits.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            found.broken[name] = _unreadable(Path(package.__path__[0]), info.name, error)
            continue
        sets += [each for each in vars(module).values() if isinstance(each, FeatureSet)]
    return sets


def _unreadable(folder: Path, name: str, error: BaseException) -> DefinitionError:
    """A mistake in Python rather than in the vocabulary, with the line that holds it."""
    if isinstance(error, SyntaxError):
        return DefinitionError(f"{Place(str(error.filename), error.lineno or 1)}: {error.msg}")
    places = [
        Place(frame.filename, frame.lineno or 1)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    place = places[-1] if places else Place(str(folder / f"{name}.py"), 1)
    return DefinitionError(f"{place}: {error or type(error).__name__}")

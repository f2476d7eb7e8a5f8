"""What differs between the plan that was applied last and the one to be applied.

Pure functions over two plans as plain data (`Plan.to_dict`, or read back from JSON). The walk knows
no attribute by name, so that nothing a plan may hold one day goes unseen; it leaves out only what
follows from something else that it names.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from features.duration import duration_name
from features.plan import SILENT, SILENT_OF_COLUMN

_SINGULAR = {
    "columns": "column",
    "fields": "field",
    "references": "reference",
    "stages": "stage",
    "windows": "window",
}

_FOLLOWS = {
    "stages": {
        *("index", "topic", "windows", "retention_us", "uses_label"),
        *("outputs", "conditions", "where", "key_fields"),
    },
    "label": {"stage", "keys"},
    "references": {"stage"},
}
"""Attributes that the compiler works out from columns, names and the version."""


@dataclass(frozen=True)
class Change:
    """One difference.

    `alters` says that values, or the columns there are, would no longer be those of the version
    that was applied. `before` and `after` are None where there was or will be nothing.
    """

    kind: str  # added, removed, changed
    what: str
    before: Any
    after: Any
    alters: bool

    def to_dict(self) -> dict[str, Any]:
        """The change as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """A line for people: `~ lateness: 1h → 30m`."""
        if self.kind != "changed":
            return f"{'+' if self.kind == 'added' else '-'} {self.what}"
        name = self.what.removesuffix("_us")
        is_duration = name != self.what
        return f"~ {name}: {_shown(self.before, is_duration)} → {_shown(self.after, is_duration)}"


def changes(before: dict[str, Any] | None, after: dict[str, Any]) -> list[Change]:
    """Every difference, in the order of the plan.

    Args:
        before: the plan that was applied last; None where none was.
        after: the plan to be applied.
    """
    if before is None:
        what = f"feature set {after['name']} v{after['version']}"
        return [Change("added", what, None, after["version"], alters=False)]
    old, new = (json.loads(json.dumps(plan)) for plan in (before, after))
    found = list(_walk((), old, new))
    told = [change for path, change in found if not _follows(path)]
    if old["fingerprint"] == new["fingerprint"] or old["version"] != new["version"]:
        return told
    if not any(change.alters for change in told):
        told += [change for path, change in found if change.alters]
    if not any(change.alters for change in told):
        both = old["fingerprint"], new["fingerprint"]
        told.append(Change("changed", "fingerprint", *both, alters=True))
    return told


def refusal(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    """Why the plan must not be applied, and what to do; empty where it may.

    Values of one version never change: whoever reads a topic, a table or a model made under it
    relies on that. A higher version has topics and state of its own.
    """
    if before is None:
        return ""
    name, applied, wanted = after["name"], before["version"], after["version"]
    if wanted < applied:
        return (
            f"version {wanted} of {name!r} is older than version {applied}, which is applied; "
            f"give the FeatureSet version={applied + 1} or more"
        )
    altering = [str(change) for change in changes(before, after) if change.alters]
    if wanted > applied or not altering:
        return ""
    return (
        f"{name!r} is applied as version {applied}, and this would alter its values: "
        f"{'; '.join(altering)}; give the FeatureSet version={applied + 1}, which has topics and "
        "state of its own, or take the changes back"
    )


_Path = tuple[str, ...]


def _walk(path: _Path, old: Any, new: Any) -> Iterator[tuple[_Path, Change]]:
    """Differences of two values with their paths; None is what was or will not be there."""
    if old is None and isinstance(new, dict):
        yield path, Change("added", _name(path), None, new, _alters(path))
    elif new is None and isinstance(old, dict):
        yield path, Change("removed", _name(path), old, None, _alters(path))
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*new, *old)):
            # A record of an earlier release lacks what has been empty ever since.
            if (key in old and key in new) or old.get(key) or new.get(key):
                yield from _walk((*path, key), old.get(key), new.get(key))
    elif (named := _by_name(old, new)) is not None:
        before, after = named
        for key in dict.fromkeys((*after, *before)):
            yield from _walk((*path, key), before.get(key), after.get(key))
        kept_before = [key for key in before if key in after]
        kept_after = [key for key in after if key in before]
        if kept_before != kept_after:
            what = f"order of {_name(path)}"
            yield path, Change("changed", what, kept_before, kept_after, _alters(path))
    elif old != new:
        yield path, Change("changed", _name(path), old, new, _alters(path))


def _by_name(old: Any, new: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Two lists of named things as dictionaries; None where they are something else."""
    found = []
    for each in (old, new):
        if not isinstance(each, list) or not all(isinstance(entry, dict) for entry in each):
            return None
        if not all("name" in entry or "columns" in entry for entry in each):
            return None
        # A window is known by its first column.
        by_name = {entry.get("name") or entry["columns"][0]: entry for entry in each}
        if len(by_name) != len(each):
            return None
        found.append(by_name)
    return found[0], found[1]


def _alters(path: _Path) -> bool:
    if path[0] == "columns" and len(path) > 2:
        return path[2] not in SILENT_OF_COLUMN
    # The version is what makes room for a change.
    return path[0] not in (*SILENT, "version")


def _follows(path: _Path) -> bool:
    """Whether a difference is only what another one brings with it."""
    if path == ("fingerprint",):
        return True
    if path[-1] in _FOLLOWS.get(path[0], ()):
        return True
    # A window comes and goes with the column that is it, or reads it.
    return path[0] == "stages" and path[-2:-1] == ("windows",)


def _name(path: _Path) -> str:
    """`column customer_count_1d: unit` of its path."""
    parts: list[str] = []
    words = iter(path)
    for word in words:
        member = next(words, "") if word in _SINGULAR else ""
        parts.append(f"{_SINGULAR[word]} {member}" if member else word)
    return ": ".join(parts)


def _shown(value: Any, is_duration: bool) -> str:
    if value in (None, "", []):
        return "nothing"
    if is_duration:
        return duration_name(value)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return textwrap.shorten(text, 120, placeholder=" …")

"""What a feature set compiles to: stages, columns and names, as pure data.

The plan is the only thing the rest of the code reads. It is compiled from a `FeatureSet` and holds
no reference to it, so that it can be printed, compared and hashed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import features.definitions
from features.aggregations import aggregations
from features.errors import DefinitionError
from features.vocabulary import (
    LARGEST_SUMMED,
    Calendar,
    Comparison,
    Condition,
    Event,
    Feature,
    FeatureSet,
    FieldRef,
    Integer,
    LabelRef,
    Money,
    Ratio,
    Text,
    Window,
    did_you_mean,
    wrong,
)

DEFAULT_PARTITIONS = 4
"""Partitions of every topic of a chain. More spread the load over more workers, but make
envelopes smaller; it never changes for a chain that has run."""

MOST_CONDITIONS = 14
"""An entry of the window kernel has 16 flags, two of them its own."""


@dataclass(frozen=True)
class FieldPlan:
    """A field of the event: its JSON form and how it travels in a row."""

    name: str
    type: str  # text, money, integer
    max_length: int = 0
    token: bool = False
    currency: str = ""
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True)
class LabelPlan:
    """The label's contract."""

    topic: str
    field: str
    known_after_us: int
    stage: int  # the stage whose log ingest routes it into
    keys: tuple[str, ...]  # the entity keys it carries, in stage order


@dataclass(frozen=True)
class WindowPlan:
    """One window of one stage; `value` is a field of the event, or empty where none is read.

    `where` is the index of its condition in the stage's `conditions`, or -1.
    """

    column: str
    aggregation: str
    value: str
    over_us: int
    delay_us: int
    where: int = -1


@dataclass(frozen=True)
class StagePlan:
    """One fold over one log, by one entity."""

    index: int
    name: str
    key_column: str
    topic: str
    windows: tuple[WindowPlan, ...]
    values: tuple[str, ...]  # the integer fields its windows read
    conditions: tuple[tuple[Comparison, ...], ...]
    uses_label: bool
    retention_us: int  # the farthest any window looks back

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns this stage computes, in the plan's order."""
        return tuple(window.column for window in self.windows)

    @property
    def seq_column(self) -> str:
        """The row column that holds the row's place in this stage's log."""
        return f"{self.name}_seq"


@dataclass(frozen=True)
class Column:
    """One output column, and so one input of the model."""

    name: str
    kind: str  # field, calendar, window, ratio
    unit: str
    stage: str  # the stage that computes it; empty for what the row itself tells
    meaning: str
    of: str = ""
    to: str = ""


@dataclass(frozen=True)
class Plan:
    """A compiled feature set."""

    name: str
    version: int
    owner: str
    event_topic: str
    id_field: str
    time_field: str
    key_field: str
    lateness_us: int
    freshness_us: int
    ttl_us: int
    fields: tuple[FieldPlan, ...]
    label: LabelPlan | None
    stages: tuple[StagePlan, ...]
    columns: tuple[Column, ...]
    fingerprint: str
    partitions: int = DEFAULT_PARTITIONS

    @property
    def features_topic(self) -> str:
        """The log of finished rows, written by the last stage."""
        return f"penstock.{self.name}.features.v{self.version}"

    @property
    def label_topic(self) -> str:
        """The users' topic of the label; empty where the set has none."""
        return self.label.topic if self.label else ""

    @property
    def scored_topic(self) -> str:
        """The users' topic of scores: the event topic's family, `scored.v1`."""
        return f"{self.event_topic.split('.')[0]}.scored.v1"

    @property
    def drift_topic(self) -> str:
        """Where drift events of every feature set go."""
        return "penstock.drift.v1"

    @property
    def column_names(self) -> list[str]:
        """The model's inputs, in order."""
        return [column.name for column in self.columns]

    def stage_named(self, name: str) -> StagePlan:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `penstock plan --json` and for comparing."""
        return asdict(self)


def compile_plan(feature_set: FeatureSet) -> Plan:
    """Compile a feature set.

    Raises:
        DefinitionError: names the line that is wrong and the mend.
    """
    event = feature_set.event
    _refuse_duplicates(feature_set.features)
    for feature in feature_set.features:
        _check_sources(feature, feature_set)
    _refuse_cycles([f for f in feature_set.features if isinstance(f, Ratio)], feature_set)

    entities = [event.key]
    for feature in feature_set.features:
        if isinstance(feature, Window) and feature.entity not in entities:
            entities.append(feature.entity)
    stages = tuple(
        _stage(index, entity.name, event.field_of_entity(entity), feature_set)
        for index, entity in enumerate(entities)
    )
    label = None
    if feature_set.label is not None:
        users = [stage.index for stage in stages if stage.uses_label]
        first = users[0] if users else len(stages) - 1
        label = LabelPlan(
            topic=feature_set.label.topic,
            field=feature_set.label.field,
            known_after_us=feature_set.label.known_after_us,
            stage=first,
            keys=tuple(stage.key_column for stage in stages[first:]),
        )
    fields = tuple(_field(name, kind) for name, kind in event.fields.items())
    columns = tuple(_column(feature, event) for feature in feature_set.features)
    plan = Plan(
        name=feature_set.name,
        version=feature_set.version,
        owner=feature_set.owner,
        event_topic=event.topic,
        id_field=event.id,
        time_field=event.time,
        key_field=event.key.key,
        lateness_us=event.lateness_us,
        freshness_us=feature_set.freshness_us,
        ttl_us=feature_set.ttl_us,
        fields=fields,
        label=label,
        stages=stages,
        columns=columns,
        fingerprint="",
    )
    values = plan.to_dict()
    for silent in ("owner", "freshness_us", "ttl_us", "fingerprint", "partitions"):
        del values[silent]
    for column in values["columns"]:
        del column["meaning"]
    canonical = json.dumps(values, sort_keys=True).encode()
    return Plan(**{**plan.__dict__, "fingerprint": hashlib.sha256(canonical).hexdigest()[:16]})


def load_feature_sets() -> tuple[dict[str, FeatureSet], list[DefinitionError]]:
    """Every feature set under `features/definitions` by name, and what is wrong with the others.

    A file that cannot be read is no hindrance to a set that another one defines.
    """
    found: dict[str, FeatureSet] = {}
    broken: list[DefinitionError] = []
    for info in pkgutil.iter_modules(features.definitions.__path__):
        try:
            module = importlib.import_module(f"features.definitions.{info.name}")
        except DefinitionError as error:
            broken.append(error)
            continue
        except Exception as error:  # noqa: BLE001 - a user's own file may raise whatever it likes
            broken.append(_unreadable(f"{info.name}.py", error))
            continue
        for each in vars(module).values():
            if not isinstance(each, FeatureSet):
                continue
            first = found.setdefault(each.name, each)
            if first is not each:
                broken.append(
                    wrong(
                        each.place,
                        f"the feature set {each.name!r} is declared a second time "
                        f"(first at {first.place})",
                        "give one another name",
                    )
                )
    return found, broken


def load_plan(name: str) -> Plan:
    """Find a feature set by name and compile it.

    Raises:
        DefinitionError: there is none of that name, or it cannot be compiled.
    """
    found, broken = load_feature_sets()
    if name in found:
        return compile_plan(found[name])
    if broken:
        raise broken[0]
    raise DefinitionError(f"no feature set {name!r}; {did_you_mean(name, sorted(found))}")


def _unreadable(file: str, error: Exception) -> DefinitionError:
    """A mistake in Python rather than in the vocabulary, with the line that holds it."""
    if isinstance(error, SyntaxError):
        return DefinitionError(f"{file}:{error.lineno}: {error.msg}")
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == file
    ]
    return DefinitionError(f"{file}:{lines[-1] if lines else 1}: {error}")


def _refuse_duplicates(features_: list[Feature]) -> None:
    first: dict[str, Feature] = {}
    for feature in features_:
        if feature.name in first:
            raise wrong(
                feature.place,
                f"the feature {feature.name!r} is declared a second time "
                f"(first at {first[feature.name].place})",
                "remove one",
            )
        first[feature.name] = feature


def _check_sources(feature: Feature, feature_set: FeatureSet) -> None:
    event, label = feature_set.event, feature_set.label
    if isinstance(feature, FieldRef):
        _check_field(feature, feature, event)
        if isinstance(feature.type, Text):
            raise wrong(
                feature.place, f"the text field {feature.name!r} is no feature", "give a number"
            )
    if isinstance(feature, Window):
        if not isinstance(event.fields.get(feature.entity.key), Text):
            raise wrong(
                feature.place,
                f"{event.topic!r} has no column {feature.entity.key!r} to group by",
                did_you_mean(
                    feature.entity.key,
                    [n for n, t in event.fields.items() if isinstance(t, Text)],
                ),
            )
        if isinstance(feature.of, FieldRef):
            _check_field(feature, feature.of, event)
            _check_range(feature, feature.of)
        if feature.where is not None and feature.where.source != event.topic:
            raise wrong(
                feature.place,
                f"the condition of {feature.name!r} is on {feature.where.source!r}",
                f"compare a field of {event.topic!r}",
            )
        if isinstance(feature.of, LabelRef) and (label is None or feature.of.source != label.topic):
            raise wrong(
                feature.place,
                f"{feature.name!r} reads the label {feature.of.source!r}, not this set's",
                "pass that label as label= of the FeatureSet",
            )


def _check_field(feature: Feature, ref: FieldRef, event: Event) -> None:
    if ref.source != event.topic:
        raise wrong(
            feature.place,
            f"{ref.name!r} belongs to {ref.source!r}, not to {event.topic!r}",
            "use a field of the set's own event",
        )


def _check_range(feature: Window, ref: FieldRef) -> None:
    """What is added up must not overflow, whatever a producer sends."""
    kinds = {primitive.kind for primitive in aggregations()[feature.aggregation].primitives}
    if not kinds & {"value", "square_low"}:
        return
    bounds = _bounds(ref.type)
    if any(bound is None or abs(bound) > LARGEST_SUMMED for bound in bounds):
        raise wrong(
            feature.place,
            f"{feature.name!r} adds up {ref.name!r}, which reaches from {bounds[0]} to {bounds[1]}",
            f"declare min= and max= of the field within ±{LARGEST_SUMMED}, so that sums fit",
        )


def _bounds(kind: Text | Money | Integer) -> tuple[int | None, int | None]:
    if isinstance(kind, Text):
        return None, None
    # An amount is as large below zero as above, unless it says otherwise.
    low = -kind.max if isinstance(kind, Money) and kind.min is None else kind.min
    return low, kind.max


def _refuse_cycles(ratios: list[Ratio], feature_set: FeatureSet) -> None:
    by_name = {ratio.name: ratio for ratio in ratios}
    names = [feature.name for feature in feature_set.features]
    done: set[str] = set()

    def visit(ratio: Ratio, path: tuple[str, ...]) -> None:
        if ratio.name in path:
            circle = " → ".join([*path[path.index(ratio.name) :], ratio.name])
            raise wrong(ratio.place, f"the features form a cycle {circle}", "break it")
        if ratio.name in done:
            return
        for operand in (ratio.of, ratio.to):
            if operand not in names:
                raise wrong(
                    ratio.place,
                    f"{ratio.name!r} uses the unknown column {operand!r}",
                    did_you_mean(operand, names),
                )
            if operand in by_name:
                visit(by_name[operand], (*path, ratio.name))
        done.add(ratio.name)

    for ratio in ratios:
        visit(ratio, ())


def _stage(index: int, name: str, key_column: str, feature_set: FeatureSet) -> StagePlan:
    windows: list[WindowPlan] = []
    conditions: list[Condition] = []
    for feature in feature_set.features:
        if not isinstance(feature, Window) or feature.entity.key != key_column:
            continue
        value = feature.of.name if isinstance(feature.of, FieldRef) else ""
        if feature.where is not None and feature.where not in conditions:
            conditions.append(feature.where)
        where = -1 if feature.where is None else conditions.index(feature.where)
        windows.append(
            WindowPlan(
                feature.name, feature.aggregation, value, feature.over_us, feature.delay_us, where
            )
        )
    if len(conditions) > MOST_CONDITIONS:
        raise wrong(
            feature_set.place,
            f"features by {key_column!r} have {len(conditions)} different conditions",
            f"use at most {MOST_CONDITIONS}",
        )
    return StagePlan(
        index=index,
        name=name,
        key_column=key_column,
        topic=f"penstock.{feature_set.name}.{name}.v{feature_set.version}",
        windows=tuple(windows),
        values=tuple(dict.fromkeys(w.value for w in windows if w.value)),
        conditions=tuple(condition.comparisons for condition in conditions),
        uses_label=any(aggregations()[w.aggregation].takes == "label" for w in windows),
        retention_us=max((w.over_us + w.delay_us for w in windows), default=0),
    )


def _field(name: str, kind: Text | Money | Integer) -> FieldPlan:
    if isinstance(kind, Text):
        return FieldPlan(name, "text", max_length=kind.max, token=kind.token)
    low, high = _bounds(kind)
    if isinstance(kind, Money):
        return FieldPlan(name, "money", currency=kind.currency, minimum=low, maximum=high)
    return FieldPlan(name, "integer", minimum=low, maximum=high)


def _unit(kind: Text | Money | Integer) -> str:
    return f"{kind.currency} minor" if isinstance(kind, Money) else ""


_CALENDAR_MEANING = {
    "is_weekend": "1 on Saturday and Sunday (UTC), else 0",
    "is_night": "1 from 00:00:00 to 06:59:59 (UTC), else 0",
}


def _column(feature: Feature, event: Event) -> Column:
    if isinstance(feature, FieldRef):
        return Column(
            feature.name, "field", _unit(feature.type), "", f"{feature.name} of the event"
        )
    if isinstance(feature, Calendar):
        return Column(feature.name, "calendar", "0 or 1", "", _CALENDAR_MEANING[feature.part])
    if isinstance(feature, Ratio):
        return Column(
            feature.name,
            "ratio",
            "",
            "",
            f"{feature.of} / {feature.to}, 0 where the divisor is 0",
            of=feature.of,
            to=feature.to,
        )
    aggregation = aggregations()[feature.aggregation]
    unit = aggregation.unit
    if not unit and isinstance(feature.of, FieldRef):
        unit = _unit(feature.of.type)
    what = "events" if feature.of is None else feature.of.name
    only = (
        " and ".join(c.name for c in feature.where.comparisons) if feature.where is not None else ""
    )
    return Column(
        feature.name,
        "window",
        unit,
        feature.entity.name,
        f"{feature.aggregation} of {what} of the same {feature.entity.key} "
        f"over {feature.over_us / 8.64e10:g} d, delayed {feature.delay_us / 8.64e10:g} d"
        f"{', where ' + only if only else ''}: {aggregation.formula}; "
        f"{aggregation.empty} where there is none",
    )

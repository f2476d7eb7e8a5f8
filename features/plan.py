"""What a feature set compiles to: stages, columns and names, as pure data.

The plan is the only thing the rest of the code reads. It is compiled from a `FeatureSet` and holds
no reference to it, so that it can be printed, compared and hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from features.aggregations import aggregations
from features.aggregations.base import Terms
from features.duration import duration_name
from features.place import Place, wrong
from features.types import (
    Boolean,
    Category,
    FieldType,
    Float,
    List,
    Money,
    Position,
    Text,
    Timestamp,
)
from features.vocabulary import (
    LARGEST_SUMMED,
    Comparison,
    Condition,
    Entity,
    Event,
    Expression,
    Feature,
    FeatureSet,
    FieldRef,
    LabelRef,
    Reference,
    Window,
)

DEFAULT_PARTITIONS = 4
"""Partitions of every topic of a chain. More spread the load over more workers, but make
envelopes smaller; it never changes for a chain that has run."""

ROW_COLUMNS = (
    "kind",
    "verdict",
    "origin_log",
    "origin_partition",
    "origin_offset",
    "position_log",
    "position_partition",
    "position_seq",
    "watermark_us",
    "broker_time_us",
    "event_id",
    "event_time_us",
)
"""Every row begins with these (features/wire.py says what they are)."""

LAKE_COLUMNS = (
    "event_time",
    "event_date",
    "broker_time",
    "watermark",
    "known_time",
    "fingerprint",
)
"""What the lake's tables have beside a row's columns (features/lake.py)."""

REFERENCE_COLUMNS = ("origin_partition", "origin_offset", "broker_time", "valid_from")
"""What the lake's table of a reference has beside its key and its fields."""

MOST_REFERENCES = 64
"""A row tells in 8 bits which log it comes from (features/wire.py)."""

MOST_CONDITIONS = 14
"""An entry of the window kernel has 16 flags, two of them its own."""


SILENT = (
    "owner",
    "freshness_us",
    "ttl_us",
    "fingerprint",
    "partitions",
    "description",
    "tags",
)
"""What of a plan no value depends on: it is left out of the fingerprint."""

SILENT_OF_COLUMN = ("meaning",)


@dataclass(frozen=True)
class FieldPlan:
    """A field of the event: its JSON form and how it travels in a row."""

    name: str
    type: str  # text, category, money, integer, float, boolean, timestamp, position, list
    max_length: int = 0
    token: bool = False
    currency: str = ""
    minimum: float | None = None  # in the row's own unit, as `maximum`
    maximum: float | None = None
    decimals: int | None = None  # of a float that travels as an integer
    values: tuple[str, ...] = ()  # of a category
    max_items: int = 0  # of a list


@dataclass(frozen=True)
class LabelPlan:
    """The label's contract."""

    topic: str
    field: str
    known_after_us: int
    stage: int  # the stage whose log ingest routes it into
    keys: tuple[str, ...]  # the fields of entity keys it carries, in stage order


@dataclass(frozen=True)
class ReferencePlan:
    """A reference's contract, and the stage that looks it up."""

    name: str
    topic: str
    key_column: str
    key_fields: tuple[str, ...]  # the key column alone, or the fields it is made of
    time_field: str
    stage: int  # the stage of its key, whose log ingest routes it into
    fields: tuple[FieldPlan, ...]  # by the names of its topic, which are those of its table

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns of its table that hold its key."""
        return tuple(dict.fromkeys((*self.key_fields, self.key_column)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The row's columns of its fields."""
        return tuple(f"{self.name}__{field.name}" for field in self.fields)

    @property
    def table(self) -> str:
        """Its table in the lake."""
        return f"reference_{self.name}"


@dataclass(frozen=True)
class WindowPlan:
    """One window of one stage; `value` is a field of the event, or empty where none is read.

    `where` is the index of its condition in the stage's `conditions`, or -1.
    """

    columns: tuple[str, ...]
    aggregation: str
    value: str
    type: str  # of the value
    over_us: int
    delay_us: int
    resolution_us: int = 0
    where: int = -1
    parameters: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms:
        """What the aggregation is told of this window."""
        return Terms(self.over_us, self.parameters, self.categories)


@dataclass(frozen=True)
class StagePlan:
    """One fold over one log, by one entity."""

    index: int
    name: str
    key_column: str
    key_fields: tuple[str, ...]  # the key column alone, or the fields it is made of
    topic: str
    windows: tuple[WindowPlan, ...]
    outputs: tuple[str, ...]  # its columns that are features; others only feed expressions
    conditions: tuple[tuple[Comparison, ...], ...]
    uses_label: bool
    retention_us: int  # the farthest any window looks back

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns this stage computes, those that only expressions read included."""
        return tuple(column for window in self.windows for column in window.columns)

    @property
    def seq_column(self) -> str:
        """The row column that holds the row's place in this stage's log."""
        return f"{self.name}_seq"


@dataclass(frozen=True)
class Column:
    """One output column, and so one input of the model."""

    name: str
    kind: str  # field, reference, window, expression
    unit: str
    stage: str  # the stage whose windows compute it; empty where it is no window
    meaning: str
    formula: tuple[Any, ...] = ()  # of all but fields and windows (features/expressions.py)


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
    description: str = ""
    tags: tuple[str, ...] = ()
    references: tuple[ReferencePlan, ...] = ()

    @property
    def features_topic(self) -> str:
        """The log of finished rows, written by the last stage."""
        return f"penstock.{self.name}.features.v{self.version}"

    @property
    def label_topic(self) -> str:
        """The users' topic of the label; empty where the set has none."""
        return self.label.topic if self.label else ""

    @property
    def raw_topics(self) -> list[str]:
        """The users' topics it reads: of the event, the label and the references."""
        labels = [self.label.topic] if self.label else []
        return [self.event_topic, *labels, *(each.topic for each in self.references)]

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

    @property
    def field_names(self) -> list[str]:
        """The event's fields, in order."""
        return [field.name for field in self.fields]

    def derived_keys(self, fields: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The key columns that are made of several of these fields, each with its own.

        They are columns of rows and of the lake, never members of a record.
        """
        return {
            stage.key_column: stage.key_fields
            for stage in self.stages
            if len(stage.key_fields) > 1 and set(stage.key_fields) <= set(fields)
        }

    def stage_named(self, name: str) -> StagePlan:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def reference_on(self, topic: str) -> ReferencePlan | None:
        """The reference that a topic holds."""
        return next((each for each in self.references if each.topic == topic), None)

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
    windows = _windows(feature_set.features)
    references = _references(feature_set)
    windowed = {window.entity for window in windows}
    entities = {event.key: feature_set.place}
    for each in references:
        # A stage that only looks up lies before the windows': labels need not carry its key.
        if each.key not in windowed:
            entities.setdefault(each.key, each.place)
    for window in windows:
        entities.setdefault(window.entity, window.place)
    _refuse_entities_alike(entities)
    stages = tuple(
        _stage(index, entity, windows, feature_set) for index, entity in enumerate(entities)
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
            keys=tuple(dict.fromkeys(f for stage in stages[first:] for f in stage.key_fields)),
        )
    _refuse_taken_names(feature_set, stages, references)
    fields = tuple(_field(name, kind) for name, kind in event.fields.items())
    columns = tuple(column for each in feature_set.features for column in _columns(each))
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
        description=feature_set.description,
        tags=feature_set.tags,
        references=tuple(_reference(each, stages) for each in references),
    )
    values = plan.to_dict()
    for name in SILENT:
        del values[name]
    for column in values["columns"]:
        for name in SILENT_OF_COLUMN:
            del column[name]
    canonical = json.dumps(values, sort_keys=True).encode()
    return Plan(**{**plan.__dict__, "fingerprint": hashlib.sha256(canonical).hexdigest()[:16]})


def _refuse_duplicates(features_: list[Feature]) -> None:
    first: dict[str, Feature] = {}
    for feature in features_:
        if isinstance(feature, Condition) or (isinstance(feature, Expression) and not feature.name):
            raise wrong(feature.place, "an expression without a name", 'add .named("its_name")')
        for name in _names(feature):
            if name in first:
                raise wrong(
                    feature.place,
                    f"the feature {name!r} is declared a second time "
                    f"(first at {first[name].place})",
                    "remove one",
                )
            first[name] = feature


def _refuse_entities_alike(entities: dict[Entity, Place]) -> None:
    """A stage has a name of its own, and Feast knows each field of a key by such a name too."""
    named: dict[str, Entity] = {}
    ordered: dict[tuple[str, ...], Entity] = {}
    for entity, place in entities.items():
        other = ordered.setdefault(tuple(sorted(entity.fields)), entity)
        if other != entity:
            raise wrong(
                place, f"{entity} is {other} in another order", f"use {other} in both places"
            )
        for each in (entity, *map(Entity, entity.fields)):
            other = named.setdefault(each.name, each)
            if other != each:
                raise wrong(
                    place,
                    f"{each} and {other} are both named {each.name!r}",
                    "give a field of the event another name",
                )


def _references(feature_set: FeatureSet) -> list[Reference]:
    """Every reference that a feature reads, once."""
    found: dict[str, Reference] = {}
    topics = [feature_set.event.topic, *([feature_set.label.topic] if feature_set.label else [])]
    for feature in feature_set.features:
        for read in feature.fields() if isinstance(feature, Expression) else [feature]:
            reference = None if isinstance(read, Window | Expression) else read.reference
            if reference is None or found.setdefault(reference.name, reference) is reference:
                continue
            raise wrong(
                reference.place,
                f"the reference {reference.name!r} is declared a second time "
                f"(first at {found[reference.name].place})",
                "give one another name=",
            )
    for reference in found.values():
        _check_reference(reference, feature_set.event, topics)
        topics.append(reference.topic)
    if len(found) > MOST_REFERENCES:
        raise wrong(feature_set.place, f"{len(found)} references", f"use at most {MOST_REFERENCES}")
    return list(found.values())


def _check_reference(reference: Reference, event: Event, topics: list[str]) -> None:
    event.check_entity(reference.key, reference.place)
    if reference.topic in topics:
        raise wrong(
            reference.place,
            f"the reference {reference.name!r} reads {reference.topic!r}, which is read already",
            "give it a topic of its own",
        )
    if reference.topic.endswith((".dlq", ".late")) or reference.topic.split(".")[1:2] == ["scored"]:
        raise wrong(
            reference.place,
            f"the reference {reference.name!r} reads {reference.topic!r}, which Penstock writes",
            "give it a topic of its own",
        )
    for name in reference.fields:
        if name in (*REFERENCE_COLUMNS, reference.key.key, f"{reference.key.name}_seq"):
            raise wrong(
                reference.place,
                f"the field {name!r} is a column of every reference's table",
                "give it another name",
            )


def _reference(reference: Reference, stages: tuple[StagePlan, ...]) -> ReferencePlan:
    key = reference.key.key
    return ReferencePlan(
        name=reference.name,
        topic=reference.topic,
        key_column=key,
        key_fields=reference.key.fields,
        time_field=reference.time,
        stage=next(stage.index for stage in stages if stage.key_column == key),
        fields=tuple(_field(name, kind) for name, kind in reference.fields.items()),
    )


def _refuse_taken_names(
    feature_set: FeatureSet, stages: tuple[StagePlan, ...], references: list[Reference]
) -> None:
    """A row has one column of a name, to SQL's eyes, which see no difference of case."""
    taken = dict.fromkeys((*ROW_COLUMNS, *LAKE_COLUMNS), "a column of every row")

    def claim(name: str, place: Place, what: str, mend: str, whose: str) -> None:
        if name.lower() in taken:
            raise wrong(place, f"the {what} {name!r} is {taken[name.lower()]}", mend)
        taken[name.lower()] = whose

    for stage in stages:
        taken[stage.seq_column] = "a column of every row"
        if len(stage.key_fields) > 1:
            taken[stage.key_column.lower()] = f"the key made of {' and '.join(stage.key_fields)}"
    event, label = feature_set.event, feature_set.label
    for name in event.fields:
        whose = f"a field of {event.topic!r}"
        claim(name, feature_set.place, "field", "give it another name", whose)
    if label is not None:
        claim(label.field, label.place, "label", "rename it", f"the label of {label.topic!r}")
    for reference in references:
        for column in map(reference.column, reference.fields):
            what, mend = f"column of {reference.topic!r}", "give the reference another name="
            claim(column, reference.place, what, mend, f"a {what}")
    for feature in feature_set.features:
        own = isinstance(feature, FieldRef) and feature.reference is None
        for name in _names(feature):
            if not own or name not in event.fields:
                claim(name, feature.place, "feature", "give it another name", "another feature")


def _names(feature: Feature) -> tuple[str, ...]:
    if isinstance(feature, Window):
        return feature.columns
    if isinstance(feature, FieldRef) and isinstance(feature.type, Category):
        # The field's own name is that of the text.
        return (f"{feature.name}_code",)
    return (feature.name,)


def _windows(features_: list[Feature]) -> list[Window]:
    """Every window once: the features and what expressions read beside them."""
    found: dict[tuple[str, ...], Window] = {}
    for feature in features_:
        inner = feature.windows() if isinstance(feature, Expression) else [feature]
        for window in inner:
            if isinstance(window, Window):
                found.setdefault(window.columns, window)
    return list(found.values())


def _check_sources(feature: Feature, feature_set: FeatureSet) -> None:
    event = feature_set.event
    if isinstance(feature, Expression):
        for read in feature.fields():
            _check_source(feature, read, event)
        for window in feature.windows():
            if len(window.columns) > 1:
                raise wrong(
                    feature.place,
                    f"{feature.name!r} computes with {window.aggregation}(), which is "
                    f"{len(window.columns)} columns",
                    "use aggregations of one column",
                )
            _check_window(window, feature_set)
    elif isinstance(feature, FieldRef):
        _check_source(feature, feature, event)
        if isinstance(feature.type, Text | Timestamp | Position | List):
            kind = type(feature.type).__name__.lower()
            mend = {
                "text": "use category_hash(…), or give a number",
                "timestamp": "use age_seconds(…)",
                "position": "use speed(…)",
                "list": "use length(…)",
            }
            raise wrong(
                feature.place, f"the {kind} field {feature.name!r} is no feature", mend[kind]
            )
    else:
        _check_window(feature, feature_set)


def _check_window(window: Window, feature_set: FeatureSet) -> None:
    event, label = feature_set.event, feature_set.label
    event.check_entity(window.entity, window.place)
    if isinstance(window.of, FieldRef):
        _check_source(window.of, window.of, event)
        _check_range(window, window.of)
    if window.where is not None and window.where.source != event.topic:
        raise wrong(
            window.place,
            f"the condition of {window.name!r} is on {window.where.source!r}",
            f"compare a field of {event.topic!r}",
        )
    if isinstance(window.of, LabelRef) and (label is None or window.of.source != label.topic):
        raise wrong(
            window.place,
            f"{window.name!r} reads the label {window.of.source!r}, not this set's",
            "pass that label as label= of the FeatureSet",
        )


def _check_source(feature: Feature, read: FieldRef | Condition, event: Event) -> None:
    if read.reference is None and read.source != event.topic:
        raise wrong(
            feature.place,
            f"{feature.name!r} belongs to {read.source!r}, not to {event.topic!r}",
            "use a field of the set's own event",
        )


def _check_range(window: Window, ref: FieldRef) -> None:
    """What is added up must not overflow, whatever a producer sends."""
    needs = aggregations()[window.aggregation].primitives(window.terms)
    if not {primitive.kind for primitive in needs} & {"value", "square_low"}:
        return
    bounds = _bounds(ref.type)
    if any(bound is None or abs(bound) > LARGEST_SUMMED for bound in bounds):
        raise wrong(
            window.place,
            f"{window.name!r} adds up {ref.name!r}, which reaches from {bounds[0]} to {bounds[1]}",
            f"declare min= and max= of the field within ±{LARGEST_SUMMED}, so that sums fit",
        )


def _bounds(kind: FieldType) -> tuple[float | None, float | None]:
    """The least and greatest value in the row's unit."""
    if isinstance(kind, Boolean):
        return 0, 1
    if isinstance(kind, Category):
        return 0, len(kind.values) - 1
    if isinstance(kind, Float):
        if kind.decimals is None:
            return kind.min, kind.max
        low, high = (
            None if b is None else round(b * 10**kind.decimals) for b in (kind.min, kind.max)
        )
        return low, high
    if isinstance(kind, Text | Timestamp | Position | List):
        return None, None
    # An amount is as large below zero as above, unless it says otherwise.
    low = -kind.max if isinstance(kind, Money) and kind.min is None else kind.min
    return low, kind.max


def _stage(index: int, entity: Entity, windows: list[Window], feature_set: FeatureSet) -> StagePlan:
    own: list[WindowPlan] = []
    conditions: list[Condition] = []
    for window in windows:
        if window.entity != entity:
            continue
        field = window.of if isinstance(window.of, FieldRef) else None
        if window.where is not None and window.where not in conditions:
            conditions.append(window.where)
        own.append(
            WindowPlan(
                columns=window.columns,
                aggregation=window.aggregation,
                value=field.name if field else "",
                type=type(field.type).__name__.lower() if field else "",
                over_us=window.over_us,
                delay_us=window.delay_us,
                resolution_us=window.resolution_us,
                where=-1 if window.where is None else conditions.index(window.where),
                parameters=window.parameters,
                categories=window.terms.categories,
            )
        )
    if len(conditions) > MOST_CONDITIONS:
        raise wrong(
            feature_set.place,
            f"features by {entity} have {len(conditions)} different conditions",
            f"use at most {MOST_CONDITIONS}",
        )
    return StagePlan(
        index=index,
        name=entity.name,
        key_column=entity.key,
        key_fields=entity.fields,
        topic=f"penstock.{feature_set.name}.{entity.name}.v{feature_set.version}",
        windows=tuple(own),
        outputs=tuple(
            name
            for feature in feature_set.features
            if isinstance(feature, Window) and feature.entity == entity
            for name in feature.columns
        ),
        conditions=tuple(condition.comparisons for condition in conditions),
        uses_label=any(aggregations()[w.aggregation].takes == "label" for w in own),
        # Edges are rounded up, so a coarse window reaches no farther back.
        retention_us=max((w.over_us + w.delay_us for w in own), default=0),
    )


def _field(name: str, kind: FieldType) -> FieldPlan:
    low, high = _bounds(kind)
    type_ = type(kind).__name__.lower()
    if isinstance(kind, Text):
        return FieldPlan(name, type_, max_length=kind.max, token=kind.token)
    if isinstance(kind, Category):
        return FieldPlan(name, type_, values=kind.values, minimum=low, maximum=high)
    if isinstance(kind, List):
        return FieldPlan(name, type_, max_length=kind.max_text, max_items=kind.max)
    if isinstance(kind, Money):
        return FieldPlan(name, type_, currency=kind.currency, minimum=low, maximum=high)
    decimals = kind.decimals if isinstance(kind, Float) else None
    return FieldPlan(name, type_, minimum=low, maximum=high, decimals=decimals)


def _unit(kind: FieldType) -> str:
    if isinstance(kind, Money):
        return f"{kind.currency} minor"
    if isinstance(kind, Float) and kind.decimals:
        return f"10^-{kind.decimals}"
    return "0 or 1" if isinstance(kind, Boolean) else ""


def _columns(feature: Feature) -> list[Column]:
    if isinstance(feature, FieldRef):
        (name,) = _names(feature)
        if feature.reference is not None:
            return [_looked_up(feature, name, feature.reference)]
        if isinstance(feature.type, Category):
            meaning = f"the place of {feature.name} among its values, from 0"
            return [Column(name, "expression", "", "", meaning, formula=_formula(feature))]
        return [Column(name, "field", _unit(feature.type), "", f"{feature.name} of the event")]
    if isinstance(feature, Expression):
        formula = _formula(feature)
        return [Column(feature.name, "expression", feature.unit, "", spelt(formula), formula)]
    aggregation = aggregations()[feature.aggregation]
    unit = aggregation.unit
    if not unit and isinstance(feature.of, FieldRef):
        unit = _unit(feature.of.type)
    what = "events" if feature.of is None else feature.of.name
    only = (
        " and ".join(c.name for c in feature.where.comparisons) if feature.where is not None else ""
    )
    after = f", delayed {duration_name(feature.delay_us)}" if feature.delay_us else ""
    coarse = (
        f", edges every {duration_name(feature.resolution_us)}" if feature.resolution_us else ""
    )
    meaning = (
        f"{feature.aggregation} of {what} of the same {' and '.join(feature.entity.fields)} "
        f"over {duration_name(feature.over_us)}{after}{coarse}"
        f"{', where ' + only if only else ''}: {aggregation.formula}; "
        f"{aggregation.empty} where there is none"
    )
    return [Column(name, "window", unit, feature.entity.name, meaning) for name in feature.columns]


def _looked_up(feature: FieldRef, name: str, reference: Reference) -> Column:
    member = feature.name.removeprefix(f"{reference.name}_")
    key = " and ".join(reference.key.fields)
    of = f"{reference.topic} for the event's {key}, as of its time"
    if isinstance(feature.type, Category):
        meaning = f"the place of {member} among its values, from 0, in {of}; -1 where it has none"
    else:
        meaning = f"{member} in {of}; 0 where it has none"
    # As in arithmetic, a float is in its own unit.
    unit = "" if isinstance(feature.type, Category | Float) else _unit(feature.type)
    return Column(name, "reference", unit, "", meaning, _formula(feature))


_OPERATOR = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _formula(of: Any) -> tuple[Any, ...]:
    """An operand as plain data."""
    if isinstance(of, int | float):
        return ("number", float(of))
    if isinstance(of, Window):
        has_unit_of_field = not aggregations()[of.aggregation].unit
        return _in_units(("column", of.name), of.of if has_unit_of_field else None)
    if isinstance(of, FieldRef):
        if isinstance(of.type, Category):
            return ("code", of.column, of.type.values)
        if isinstance(of.type, Text | Timestamp | Position | List):
            kind = type(of.type).__name__.lower()
            raise wrong(of.place, f"arithmetic with the {kind} field {of.name!r}", "use a number")
        return _in_units(("column", of.column), of)
    if isinstance(of, Condition):
        made = [_holds(comparison, of) for comparison in of.comparisons]
        formula = made[0]
        for more in made[1:]:
            formula = ("*", formula, more)
        return formula
    if of.operator in ("hash", "length", "age_seconds", "known"):
        return (of.operator, of.operands[0].column, *of.operands[1:])
    inner = _formula(of.operands[0]) if of.operands else ()
    if of.operator in ("clip", "bucket"):
        return (of.operator, inner, *of.operands[1:])
    return (of.operator, *(_formula(operand) for operand in of.operands))


def _in_units(formula: tuple[Any, ...], of: Any) -> tuple[Any, ...]:
    """A number of a field in the field's own unit: rows hold floats with decimals as integers."""
    if isinstance(of, FieldRef) and isinstance(of.type, Float) and of.type.decimals:
        return ("/", formula, ("number", float(10**of.type.decimals)))
    return formula


def _holds(comparison: Comparison, of: Condition) -> tuple[Any, ...]:
    if comparison.operator == "in":
        return ("in", comparison.field, comparison.operand)
    column = ("column", comparison.field)
    return (_OPERATOR[comparison.operator], column, ("number", float(comparison.operand)))  # type: ignore[arg-type]


_INFIX = ("+", "-", "*", "/", "<", "<=", ">", ">=")


def spelt(formula: tuple[Any, ...]) -> str:
    """A formula as one would write it."""
    name, *rest = formula
    if name == "number":
        return f"{rest[0]:g}"
    if name == "column":
        return str(rest[0])
    if name in _INFIX:
        return f"({spelt(rest[0])} {name} {spelt(rest[1])})"
    if name in ("log1p", "clip", "bucket"):
        return f"{name}({', '.join([spelt(rest[0]), *map(str, rest[1:])])})"
    return f"{name}({', '.join(map(str, rest))})" if rest else str(name)

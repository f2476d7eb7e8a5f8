"""The quality gate: a Great Expectations suite made from the plan, run over the whole candidate.

Every rule follows from what was declared: a count is a whole number of events, a rate is a share,
a mean lies where its field may lie, and a longer window holds at least what a shorter one holds.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features import lake
from features.aggregations import aggregations
from features.errors import GateError
from features.plan import FieldPlan, Plan, WindowPlan

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations import Expectation

KEYS = ("origin_partition", "origin_offset", "event_id", "event_time")


@dataclass(frozen=True)
class Rule:
    """One rule in words and as an expectation; `unexpected` rows of it break it."""

    name: str
    expectation: Expectation


def check(plan: Plan, table: str = "feature_candidate") -> dict[str, Any]:
    """Check every row of a feature table.

    Returns:
        `rows`, `rules` checked and `seconds`.

    Raises:
        GateError: names each broken rule and how many rows break it, or says that the table is
            empty or of another plan.
    """
    started = time.monotonic()
    names = [*KEYS, *plan.column_names, "fingerprint"]
    found = lake.read(table)
    missing = [name for name in names if name not in found.schema.names]
    if missing:
        raise GateError(
            f"{table!r} lacks the columns {', '.join(missing)}: another definition wrote it; run "
            "the backfill again"
        )
    foreign = set(found["fingerprint"].unique().to_pylist()) - {plan.fingerprint}
    if foreign:
        raise GateError(
            f"{table!r} holds rows of plan {', '.join(sorted(map(str, foreign)))}, the definition "
            f"of {plan.name!r} has {plan.fingerprint}; run the backfill again"
        )
    made = rules(plan)
    broken = _broken(made, found.select(names[:-1]).to_pandas())
    if broken:
        raise GateError(
            f"{len(broken)} of {len(made)} rules are broken by {table!r} "
            f"({found.num_rows} rows): {'; '.join(broken)}; the published features stay as they "
            "are, so mend the source and run the backfill again"
        )
    return {
        "rows": found.num_rows,
        "rules": len(made),
        "seconds": round(time.monotonic() - started, 3),
    }


def rules(plan: Plan) -> list[Rule]:
    """Every rule a plan implies."""
    gx = _library()
    made = [
        Rule("there is at least one row", gx.ExpectTableRowCountToBeBetween(min_value=1)),
        Rule(
            "origin and event_id are unique",
            gx.ExpectCompoundColumnsToBeUnique(column_list=list(KEYS[:3])),
        ),
    ]
    for name in (*KEYS, *plan.column_names):
        made.append(Rule(f"{name} is present", gx.ExpectColumnValuesToNotBeNull(column=name)))
    for column in plan.columns:
        if column.unit == "0 or 1":
            rule = gx.ExpectColumnValuesToBeInSet(column=column.name, value_set=[0.0, 1.0])
            made.append(Rule(f"{column.name} is 0 or 1", rule))
            continue
        low, high = bounds(plan, column.name)
        rule = gx.ExpectColumnValuesToBeBetween(
            column=column.name, min_value=_finite(low), max_value=_finite(high)
        )
        made.append(Rule(f"{low:g} ≤ {column.name} ≤ {high:g}", rule))
    for shorter, longer in _nested(plan):
        rule = gx.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A=longer.columns[0], column_B=shorter.columns[0], or_equal=True
        )
        made.append(Rule(f"{shorter.columns[0]} ≤ {longer.columns[0]}", rule))
    return made


def bounds(plan: Plan, column: str) -> tuple[float, float]:
    """The least and the greatest value a column can have by its declaration."""
    fields = {field.name: field for field in plan.fields}
    for stage in plan.stages:
        for window in stage.windows:
            if column not in window.columns:
                continue
            # The event itself lies in a window without delay, unless a condition keeps it out.
            fewest = 0 if window.delay_us or window.where >= 0 else 1
            field = fields.get(window.value)
            low, high = _bounds(field) if field else (-math.inf, math.inf)
            meaning = aggregations()[window.aggregation]
            return meaning.bounds(low, high, fewest, window.terms)
    if column in fields:
        return _bounds(fields[column])
    formula = {each.name: each.formula for each in plan.columns}.get(column, ())
    scale = 1.0
    if formula[:1] == ("/",) and formula[2][0] == "number" and formula[2][1] > 0:
        # A float with decimals, in its own unit.
        formula, scale = formula[1], formula[2][1]
    for reference in plan.references:
        for name, field in zip(reference.columns, reference.fields, strict=True):
            if formula[1:2] != (name,):
                continue
            if formula[0] == "code":
                return -1.0, len(field.values) - 1.0
            if formula[0] == "column":
                # 0 where no version is known.
                low, high = _bounds(field)
                return min(low, 0.0) / scale, max(high, 0.0) / scale
    return -math.inf, math.inf


def _bounds(field: FieldPlan) -> tuple[float, float]:
    return (
        -math.inf if field.minimum is None else float(field.minimum),
        math.inf if field.maximum is None else float(field.maximum),
    )


def _finite(bound: float) -> float:
    """An unbounded side still refuses infinity: no feature is infinite."""
    return max(-1e300, min(1e300, bound))


def _nested(plan: Plan) -> list[tuple[WindowPlan, WindowPlan]]:
    """Counts of one stage and delay, each with the next longer one."""
    pairs: list[tuple[WindowPlan, WindowPlan]] = []
    for stage in plan.stages:
        counts = [w for w in stage.windows if w.aggregation == "count" and w.where < 0]
        for delay_us in dict.fromkeys(w.delay_us for w in counts):
            same = sorted((w for w in counts if w.delay_us == delay_us), key=lambda w: w.over_us)
            pairs.extend(itertools.pairwise(same))
    return pairs


def _library() -> Any:
    """Great Expectations, told first to be quiet and to send nothing."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    # It logs hundreds of lines while it is imported.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # What it imports warns of its own old age, which says nothing about the rows.
        warnings.simplefilter("ignore")
        import great_expectations.expectations as gx

    return gx


def _broken(made: list[Rule], rows: pd.DataFrame) -> list[str]:
    """What each broken rule says, with the number of rows that break it."""
    import great_expectations

    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("lake")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": rows})
    )
    suite = great_expectations.ExpectationSuite("plan", [rule.expectation for rule in made])
    results = batch.validate(suite, result_format="BASIC").results
    names = {_identity(rule.expectation.configuration): rule.name for rule in made}
    broken = []
    for result in results:
        if result.success:
            continue
        name = names[_identity(result.expectation_config)]
        error = next(iter((result.exception_info or {}).values()), None)
        if isinstance(error, dict) and error.get("raised_exception"):
            broken.append(f"{name} (could not be checked: {error['exception_message']})")
        else:
            count = result.result.get("unexpected_count", len(rows))
            broken.append(f"{name} ({count} rows)")
    return broken


def _identity(configuration: Any) -> tuple[Any, ...]:
    kwargs = configuration.kwargs
    columns = (kwargs.get("column"), kwargs.get("column_A"), kwargs.get("column_B"))
    return (configuration.type, *columns)

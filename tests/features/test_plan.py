"""What a definition compiles to, and how a wrong one is refused."""

import dataclasses
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from features import lake
from features.catalog import load_plan
from features.errors import DefinitionError
from features.plan import compile_plan
from features.vocabulary import FeatureSet
from features.wire import row_schema

HEAD = """
from features.vocabulary import *
customer, terminal = Entity("customer_id"), Entity("terminal_id")
payments = Event(
    "pay.made.v1", id="pay_id", time="at", key=customer,
    fields={"customer_id": Text(), "terminal_id": Text(), "amount": Money("EUR", min=0)},
)
chargebacks = Label("pay.back.v1", of=payments, field="is_fraud", known_after=days(7))
terminals = Reference(
    "pay.terminal.v1", key=terminal, time="since", fields={
        "rate": Float(decimals=2, min=1, max=100), "sort": Category("food", "fuel"),
        "owner": Text()},
)
other = Event(
    "other.v1", id="o", time="at", key=customer,
    fields={"customer_id": Text(), "terminal_id": Text(), "size": Integer()},
)
"""


def define(tmp_path: Path, body: str) -> FeatureSet:
    """Run a definitions file, as a data scientist's import would."""
    file = tmp_path / "mine.py"
    file.write_text(HEAD + textwrap.dedent(body))
    names: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    found = names["mine"]
    assert isinstance(found, FeatureSet)
    return found


def line_of(body: str, text: str) -> int:
    whole = (HEAD + textwrap.dedent(body)).splitlines()
    return next(n for n, line in enumerate(whole, 1) if text in line)


WRONG = {
    "unknown column": (
        'mine = FeatureSet("m", event=payments, features=[payments.amuont])',
        "amuont",
        "did you mean 'amount'",
    ),
    "unknown column of a label": (
        """
        mine = FeatureSet("m", event=payments, label=chargebacks, features=[
            rate(chargebacks.fraud, by=customer, over=days(1)),
        ])
        """,
        "chargebacks.fraud,",
        "did you mean 'is_fraud'",
    ),
    "window of zero": (
        """
        mine = FeatureSet("m", event=payments, features=[
            payments.amount,
            count(by=customer, over=days(0)),
        ])
        """,
        "days(0)",
        "make over= positive",
    ),
    "a duration without its unit": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over=7),
        ])
        """,
        "over=7",
        "write days(7)",
    ),
    "duplicate feature": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over=days(1)),
            count(by=customer, over=hours(24)),
        ])
        """,
        "hours(24)",
        "remove one",
    ),
    "expression without a name": (
        """
        mine = FeatureSet("m", event=payments, features=[
            payments.amount / 2,
        ])
        """,
        "payments.amount / 2",
        'add .named("its_name")',
    ),
    "arithmetic with a text": (
        """
        mine = FeatureSet("m", event=payments, features=[
            (payments.terminal_id + 1).named("x"),
        ])
        """,
        "payments.terminal_id + 1",
        "use a number",
    ),
    "arithmetic with None": (
        """
        mine = FeatureSet("m", event=payments, features=[
            (payments.amount + None).named("x"),
        ])
        """,
        "payments.amount + None",
        "use fields, features and numbers",
    ),
    "list among the features": (
        """
        mine = FeatureSet("m", event=payments, features=[
            [payments.amount],
        ])
        """,
        "FeatureSet(",
        "write * before it",
    ),
    "word that is not called": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count,
        ])
        """,
        "FeatureSet(",
        "call it",
    ),
    "type that is not called": (
        """
        paid = Event("pay.made.v1", id="pay_id", time="at", key=customer, fields={
            "customer_id": Text(), "size": Integer})
        mine = FeatureSet("m", event=paid, features=[count(by=customer, over=days(1))])
        """,
        "paid = Event(",
        "write Integer(",
    ),
    "field that is no name": (
        """
        paid = Event("pay.made.v1", id="pay_id", time="at", key=customer, fields={
            "customer_id": Text(), "the size": Integer()})
        mine = FeatureSet("m", event=paid, features=[count(by=customer, over=days(1))])
        """,
        "paid = Event(",
        "use letters, digits and _",
    ),
    "event that is none": (
        """
        mine = FeatureSet("m", event="payments", features=[payments.amount])
        """,
        "FeatureSet(",
        "give an Event",
    ),
    "condition by equality": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over=days(1), where=payments.terminal_id == "t"),
        ])
        """,
        "count(",
        "is_in(",
    ),
    "window of a text": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over="1d"),
        ])
        """,
        "count(",
        "give a duration",
    ),
    "arithmetic with a constant text": (
        """
        mine = FeatureSet("m", event=payments, features=[
            (payments.amount * "2").named("x"),
        ])
        """,
        "payments.amount *",
        "use fields, features and numbers",
    ),
    "expression over several columns": (
        """
        mine = FeatureSet("m", event=payments, features=[
            (1 + last_k(payments.amount, k=2, by=customer, over=days(1))).named("x"),
        ])
        """,
        "last_k(",
        "use aggregations of one column",
    ),
    "argument of another aggregation": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over=days(1), dely=days(2)),
        ])
        """,
        "count(",
        "did you mean 'delay'",
    ),
    "argument out of range": (
        """
        mine = FeatureSet("m", event=payments, features=[
            percentile(payments.amount, p=101, by=customer, over=days(1)),
        ])
        """,
        "percentile(",
        "give a percentage",
    ),
    "resolution longer than the delay": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over=days(1), delay=hours(1), resolution=hours(2)),
        ])
        """,
        "count(",
        "make resolution=",
    ),
    "sum of a float without decimals": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "weight": Float()})
        sum(bad.weight, by=customer, over=days(1))
        """,
        "sum(bad",
        "declare its decimals",
    ),
    "entropy of a text": (
        """
        entropy(payments.terminal_id, by=customer, over=days(1))
        """,
        "entropy(",
        "declare its values",
    ),
    "category that is never so": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "sort": Category("food", "fuel")})
        count(by=customer, over=days(1), where=bad.sort.is_in("feul"))
        """,
        "count(",
        "did you mean 'fuel'",
    ),
    "field with the name of a row's column": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "kind": Text()})
        mine = FeatureSet("m", event=bad, features=[count(by=customer, over=days(1))])
        """,
        "mine =",
        "give it another name",
    ),
    "unknown column of a reference": (
        """
        mine = FeatureSet("m", event=payments, features=[
            terminals.rtae,
        ])
        """,
        "terminals.rtae",
        "did you mean 'rate'",
    ),
    "window over a reference": (
        """
        mine = FeatureSet("m", event=payments, features=[
            mean(terminals.rate, by=customer, over=days(1)),
        ])
        """,
        "mean(",
        "windows read fields of the event",
    ),
    "window where a reference says so": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=customer, over=days(1), where=terminals.sort.is_in("food")),
        ])
        """,
        "count(",
        "windows read fields of the event",
    ),
    "reference to what is no field": (
        """
        bad = Reference("pay.shop.v1", key=Entity("terminal"), time="t", fields={"x": Integer()})
        mine = FeatureSet("m", event=payments, features=[bad.x])
        """,
        "bad =",
        "did you mean 'terminal_id'",
    ),
    "reference without fields": (
        'bad = Reference("pay.shop.v1", key=terminal, time="t", fields={})',
        "bad =",
        "declare what is looked up",
    ),
    "reference whose key is a field": (
        'bad = Reference("a.v1", key=terminal, time="t", fields={"terminal_id": Text()})',
        "bad =",
        "leave it out of fields",
    ),
    "reference that cannot be named": (
        'bad = Reference("a.b-c.v1", key=terminal, time="t", fields={"x": Integer()})',
        "bad =",
        "give name=",
    ),
    "reference by a name": (
        'bad = Reference("a.v1", key="terminal_id", time="t", fields={"x": Integer()})',
        "bad =",
        "give an Entity",
    ),
    "two references of one name": (
        """
        more = Reference("other.terminal.v1", key=terminal, time="t", fields={"x": Integer()})
        mine = FeatureSet("m", event=payments, features=[terminals.rate, more.x])
        """,
        "more =",
        "give one another name=",
    ),
    "two references on one topic": (
        """
        more = Reference(
            "pay.terminal.v1", key=terminal, time="t", fields={"x": Integer()}, name="more")
        mine = FeatureSet("m", event=payments, features=[terminals.rate, more.x])
        """,
        "more =",
        "give it a topic of its own",
    ),
    "reference on the label's topic": (
        """
        more = Reference("pay.back.v1", key=terminal, time="t", fields={"x": Integer()})
        mine = FeatureSet("m", event=payments, label=chargebacks, features=[more.x])
        """,
        "more =",
        "give it a topic of its own",
    ),
    "reference with a column of its table": (
        """
        more = Reference("a.b.v1", key=terminal, time="t", fields={"valid_from": Integer()})
        mine = FeatureSet("m", event=payments, features=[more["valid_from"]])
        """,
        "more =",
        "give it another name",
    ),
    "column of a reference that is taken": (
        """
        bad = Event("b", id="i", time="t", key=terminal, fields={
            "terminal_id": Text(), "terminal__rate": Integer()})
        mine = FeatureSet("m", event=bad, features=[terminals.rate])
        """,
        "terminals =",
        "give the reference another name=",
    ),
    "feature of a reference that is a field": (
        """
        bad = Event("b", id="i", time="t", key=terminal, fields={
            "terminal_id": Text(), "terminal_rate": Integer()})
        mine = FeatureSet("m", event=bad, features=[
            terminals.rate,
        ])
        """,
        "terminals.rate,",
        "give it another name",
    ),
    "text of a reference": (
        """
        mine = FeatureSet("m", event=payments, features=[
            terminals.owner,
        ])
        """,
        "terminals.owner",
        "use category_hash(…)",
    ),
    "is_known of a field": ("is_known(terminals.rate)", "is_known(", "give a Reference"),
    "unknown entity": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=Entity("terminal"), over=days(1)),
        ])
        """,
        'Entity("terminal")',
        "did you mean 'terminal_id'",
    ),
    "entity without a field": (
        "count(by=Entity(), over=days(1))",
        "Entity()",
        "name one or more text fields",
    ),
    "field twice in an entity": (
        'count(by=Entity("customer_id", "customer_id"), over=days(1))',
        "count(",
        "name each field once",
    ),
    "unknown part of an entity": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=Entity("customer_id", "terminl_id"), over=days(1)),
        ])
        """,
        "terminl_id",
        "did you mean 'terminal_id'",
    ),
    "part of an entity that is no text": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=Entity("customer_id", "amount"), over=days(1)),
        ])
        """,
        '"amount"), over',
        "there is 'customer_id', 'terminal_id'",
    ),
    "one entity in two orders": (
        """
        mine = FeatureSet("m", event=payments, features=[
            count(by=Entity("customer_id", "terminal_id"), over=days(1)),
            count(by=Entity("terminal_id", "customer_id"), over=days(2)),
        ])
        """,
        "days(2)",
        "use Entity('customer_id', 'terminal_id') in both places",
    ),
    "two entities of one name": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "terminal_id": Text(), "customer_terminal_id": Text()})
        mine = FeatureSet("m", event=bad, features=[
            count(by=Entity("customer_id", "terminal_id"), over=days(1)),
            count(by=Entity("customer_terminal_id"), over=days(2)),
        ])
        """,
        "days(2)",
        "are both named 'customer_terminal'; give a field of the event another name",
    ),
    "two parts of one name": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "customer": Text()})
        mine = FeatureSet("m", event=bad, features=[
            count(by=Entity("customer_id", "customer"), over=days(1)),
        ])
        """,
        "count(",
        "Entity('customer') and Entity('customer_id') are both named 'customer'",
    ),
    "field with the name of a made key": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "terminal_id": Text(), "customer_terminal_key": Text()})
        mine = FeatureSet("m", event=bad, features=[
            count(by=Entity("customer_id", "terminal_id"), over=days(1))])
        """,
        "mine =",
        "is the key made of customer_id and terminal_id; give it another name",
    ),
    "message key of two fields": (
        """
        bad = Event("b", id="i", time="t", key=Entity("customer_id", "terminal_id"), fields={
            "customer_id": Text(), "terminal_id": Text()})
        """,
        "bad =",
        "give an entity of one field here, and the other to by=",
    ),
    "field of another event": (
        """
        mine = FeatureSet("m", event=payments, features=[
            mean(other.size, by=customer, over=days(1)),
        ])
        """,
        "other.size",
        "the set's own event",
    ),
    "label of another set": (
        """
        mine = FeatureSet("m", event=payments, features=[
            rate(chargebacks.is_fraud, by=customer, over=days(1)),
        ])
        """,
        "rate(",
        "pass that label",
    ),
    "mean of text": (
        """
        mine = FeatureSet("m", event=payments, features=[
            mean(payments.terminal_id, by=customer, over=days(1)),
        ])
        """,
        "mean(",
        "give a number",
    ),
    "tags that are one text": (
        'mine = FeatureSet("m", event=payments, tags="risk", features=[payments.amount])',
        "tags=",
        "write ('risk',)",
    ),
    "tag that is no word": (
        'mine = FeatureSet("m", event=payments, tags=("risk", 7), features=[payments.amount])',
        "tags=",
        "give words",
    ),
    "version of zero": (
        'mine = FeatureSet("m", event=payments, version=0, features=[payments.amount])',
        "version=0",
        "from 1 on",
    ),
    "negative time to live": (
        'mine = FeatureSet("m", event=payments, features=[payments.amount], ttl=days(-1))',
        "ttl=",
        "0 for ever",
    ),
    "time to live that is no duration": (
        'mine = FeatureSet("m", event=payments, features=[payments.amount], ttl="30d")',
        "ttl=",
        "such as days(30)",
    ),
    "unknown currency": (
        """
        bad = Event("b", id="i", time="t", key=customer, fields={
            "customer_id": Text(), "price": Money("EUX")})
        """,
        "EUX",
        "did you mean 'EUR'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_definition_names_its_line_and_the_mend(tmp_path: Path, case: str) -> None:
    body, text, mend = WRONG[case]
    with pytest.raises(DefinitionError) as raised:
        compile_plan(define(tmp_path, body))
    assert str(raised.value).startswith(f"{tmp_path / 'mine.py'}:{line_of(body, text)}: ")
    assert mend in str(raised.value)


def test_card_fraud_compiles_to_two_stages_and_44_columns() -> None:
    plan = load_plan("card_fraud")
    assert [stage.topic for stage in plan.stages] == [
        "penstock.card_fraud.customer.v1",
        "penstock.card_fraud.terminal.v1",
    ]
    assert len(plan.columns) == 44
    assert plan.scored_topic == "payments.scored.v1"
    assert plan.label is not None
    # Only the terminal's windows read labels, so only its log carries them.
    assert (plan.label.stage, plan.label.keys) == (1, ("terminal_id",))
    assert plan.stages[1].retention_us == 67 * 86_400_000_000


def test_fingerprint_changes_exactly_when_a_value_could(tmp_path: Path) -> None:
    body = """
    mine = FeatureSet("m", event=payments, {about}, features=[
        count(by=customer, over=days({over})),
    ])
    """
    first = compile_plan(define(tmp_path, body.format(about="owner='a'", over=1)))
    about = "owner='b', freshness=minutes(1), ttl=hours(2), description='So.', tags=('x', 'y')"
    renamed = compile_plan(define(tmp_path, body.format(about=about, over=1)))
    longer = compile_plan(define(tmp_path, body.format(about="owner='a'", over=2)))
    assert (first.ttl_us, renamed.ttl_us) == (0, 7_200_000_000)
    assert first.fingerprint == renamed.fingerprint != longer.fingerprint
    assert (renamed.description, renamed.tags) == ("So.", ("x", "y"))
    assert dataclasses.replace(first, partitions=9).fingerprint == first.fingerprint


def test_first_stage_is_the_events_own_key_even_without_a_window(tmp_path: Path) -> None:
    body = """
    mine = FeatureSet("m", event=payments, features=[
        (count(by=terminal, over=days(1)) / 7).named("a_day"),
    ])
    """
    plan = compile_plan(define(tmp_path, body))
    assert [stage.key_column for stage in plan.stages] == ["customer_id", "terminal_id"]


def test_entity_of_several_fields_is_a_stage_with_a_key_of_its_own(tmp_path: Path) -> None:
    body = """
    pair = Entity({fields})
    mine = FeatureSet("m", event=payments, label=chargebacks, features=[
        count(by=pair, over=days(30)),
        rate(chargebacks.is_fraud, by=pair, over=days(7)),
    ])
    """
    plan = compile_plan(define(tmp_path, body.format(fields='"terminal_id", "customer_id"')))
    pair = plan.stages[1]
    assert (pair.name, pair.key_column) == ("terminal_customer", "terminal_customer_key")
    assert pair.key_fields == ("terminal_id", "customer_id")
    assert plan.column_names[0] == "terminal_customer_count_30d"
    assert "of the same terminal_id and customer_id over" in plan.columns[0].meaning
    # It is made of fields of the event, and is none.
    assert plan.field_names == ["customer_id", "terminal_id", "amount"]
    made = {"terminal_customer_key": ("terminal_id", "customer_id")}
    assert plan.derived_keys(plan.field_names) == made
    assert plan.derived_keys(["customer_id"]) == {}
    # A label carries both fields, from which its key is made.
    assert plan.label is not None
    assert (plan.label.stage, plan.label.keys) == (1, ("terminal_id", "customer_id"))
    other = compile_plan(define(tmp_path, body.format(fields='"customer_id", "terminal_id"')))
    assert other.fingerprint != plan.fingerprint


def test_made_key_is_a_column_of_rows_and_of_the_lake(tmp_path: Path) -> None:
    body = """
    mine = FeatureSet("m", event=payments, label=chargebacks, features=[
        count(by=Entity("customer_id", "terminal_id"), over=days(30)),
        rate(chargebacks.is_fraud, by=terminal, over=days(7)),
    ])
    """
    plan = compile_plan(define(tmp_path, body))
    for schema in (row_schema(plan), lake.schema("events", plan)):
        after = schema.names.index("amount") + 1
        assert schema.field(after) == pa.field("customer_terminal_key", pa.string())
    assert plan.label is not None
    # Labels enter behind the pair's log, so they need no key of it.
    assert plan.label.stage == 2
    assert "customer_terminal_key" not in lake.schema("labels", plan).names


def test_name_of_a_window_has_letters_digits_and_underscores(tmp_path: Path) -> None:
    body = """
    paid = Event("pay.made.v1", id="pay_id", time="at", key=customer, fields={
        "customer_id": Text(), "heat": Float(), "size": Integer(), "place": Text()})
    mine = FeatureSet("m", event=paid, features=[
        count(by=customer, over=days(1), where=paid.heat > 0.5),
        count(by=customer, over=days(1), where=paid.size > -5),
        count(by=customer, over=days(1), where=paid.place.is_in("Côte d'Or")),
        percentile(paid.size, p=99.9, by=customer, over=days(1)),
    ])
    """
    assert compile_plan(define(tmp_path, body)).column_names == [
        "customer_count_1d_where_heat_gt_0_5",
        "customer_count_1d_where_size_gt__5",
        "customer_count_1d_where_place_in_C_te_d_Or_404264",
        "customer_size_percentile_p99_9_1d",
    ]


def test_floats_are_in_their_own_unit_in_expressions(tmp_path: Path) -> None:
    body = """
    paid = Event("pay.made.v1", id="pay_id", time="at", key=customer, fields={
        "customer_id": Text(), "heat": Float(decimals=2, min=-50, max=50), "size": Integer()})
    mine = FeatureSet("m", event=paid, features=[
        (mean(paid.heat, by=customer, over=days(1)) - paid.heat).named("colder"),
        (count(by=customer, over=days(1)) * paid.size).named("busy"),
        bucket(paid.heat, [1.5]).named("warm"),
    ])
    """
    told = {column.name: column.meaning for column in compile_plan(define(tmp_path, body)).columns}
    assert told == {
        "colder": "((customer_heat_mean_1d / 100) - (heat / 100))",
        "busy": "(customer_count_1d * size)",
        "warm": "bucket((heat / 100), (1.5,))",
    }

"""History written into a lake, and the world remembered for the live run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from features import lake
from features.catalog import load_plan
from features.errors import PenstockError
from features.plan import compile_plan
from features.settings import settings
from features.vocabulary import (
    Entity,
    Event,
    Feature,
    FeatureSet,
    Label,
    Text,
    count,
    hours,
    rate,
)
from penstock.commands.generate import app
from penstock.generator.history import (
    HistoryWriter,
    load_world,
    payments_per_day,
    save_world,
    write_history,
)
from penstock.generator.payments import PaymentWorld, to_us
from streaming.bootstrap import bootstrap
from streaming.tokenise import Tokeniser

PLAN = load_plan("card_fraud")
START = datetime(2026, 1, 5, tzinfo=UTC)
UNTIL = START + timedelta(days=20)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "home", tmp_path)
    monkeypatch.setattr(settings(), "lake_uri", str(tmp_path / "lake"))
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", "ab" * 32)


def small_world() -> PaymentWorld:
    return PaymentWorld(3, 200, None, 300.0, START)


def test_history_holds_every_payment_once_tokenised_and_in_order() -> None:
    written = write_history(small_world(), PLAN, UNTIL)
    expected = small_world().payments(to_us(START), to_us(UNTIL)).table().to_pylist()
    rows = lake.read("events").sort_by("origin_offset").to_pylist()
    assert written.events == len(rows) == len(expected) > 5000
    tokeniser = Tokeniser.from_settings()
    for offset, (row, payment) in enumerate(zip(rows, expected, strict=True)):
        assert row["origin_partition"] == -1
        assert row["origin_offset"] == offset
        assert row["verdict"] == "folded"
        assert row["event_id"] == payment["event_id"]
        assert to_us(row["event_time"]) == payment["event_time_us"]
        assert row["event_date"] == row["event_time"].date()
        assert row["customer_id"] == tokeniser.token(payment["customer_id"])
        assert row["terminal_id"] == payment["terminal_id"]
        assert row["amount"] == payment["amount_minor"]
        assert row["customer_seq"] is None
        assert row["broker_time"] is None


def test_history_holds_the_labels_known_by_its_end() -> None:
    written = write_history(small_world(), PLAN, UNTIL)
    expected = small_world().labels(to_us(START), to_us(UNTIL)).table().to_pylist()
    rows = lake.read("labels").sort_by("origin_offset").to_pylist()
    assert written.labels == len(rows) == len(expected) > 50
    for row, label in zip(rows, expected, strict=True):
        assert row["event_id"] == label["event_id"]
        assert row["terminal_id"] == label["terminal_id"]
        assert row["is_fraud"] is label["is_fraud"]
        assert to_us(row["known_time"]) == label["known_time_us"]
        assert to_us(row["event_time"]) == label["event_time_us"]


def test_history_refuses_a_lake_that_holds_events() -> None:
    write_history(small_world(), PLAN, START + timedelta(days=1))
    before = lake.read("events").num_rows
    with pytest.raises(PenstockError, match="already holds events"):
        write_history(small_world(), PLAN, START + timedelta(days=1))
    assert lake.read("events").num_rows == before


def test_history_needs_the_token_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_TOKEN_KEY")
    with pytest.raises(PenstockError, match="PENSTOCK_TOKEN_KEY"):
        write_history(small_world(), PLAN, START + timedelta(days=1))


def test_saved_world_continues_as_the_same_world() -> None:
    assert load_world() is None
    drifting = small_world().with_drift(UNTIL)
    save_world(drifting, UNTIL)
    saved = load_world()
    assert saved is not None
    assert saved.until == UNTIL
    span = to_us(UNTIL), to_us(UNTIL + timedelta(days=5))
    assert saved.world.payments(*span).table().equals(drifting.payments(*span).table())


def test_rate_and_scale_give_payments_per_day() -> None:
    assert payments_per_day(rate=500, scale=21_600) == 2000


def test_history_command_reports_and_remembers() -> None:
    arguments = ["history", "--days", "3", "--customers", "100", "--payments-per-day", "200"]
    result = CliRunner().invoke(app, [*arguments, "--seed", "5", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["events"] == lake.read("events").num_rows
    assert found["until"] == "2026-01-08T00:00:00+00:00"
    saved = load_world()
    assert saved is not None
    assert (saved.world.seed, saved.world.customers) == (5, 100)


def test_history_command_refuses_days_that_lie_ahead() -> None:
    result = CliRunner().invoke(app, ["history", "--start", "2099-01-01"])
    assert isinstance(result.exception, PenstockError)
    assert "lies ahead" in str(result.exception)
    bad = CliRunner().invoke(app, ["history", "--start", "tomorrow"])
    assert "no date" in str(bad.exception)


def test_keys_of_several_fields_are_made_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "snapshot_uri", str(tmp_path / "snapshots"))
    who, shop = Entity("who_id"), Entity("shop_id")
    pair = Entity("who_id", "shop_id")
    sale = Event(
        "sale.v1",
        id="sale_id",
        time="at",
        key=who,
        fields={"who_id": Text(token=True), "shop_id": Text()},
    )
    refund = Label("refund.v1", of=sale, field="refunded", known_after=hours(1))
    wanted: list[Feature] = [
        count(by=shop, over=hours(1)),
        rate(refund.refunded, by=pair, over=hours(2)),
    ]
    plan = compile_plan(FeatureSet("sales", event=sale, label=refund, features=wanted))
    people, shops = ["a", "a", "aa", "b"], ["1:", "x", "x", "x"]
    ids, times_us = pa.array(["s0", "s1", "s2", "s3"]), np.arange(4) * 1_000_000 + to_us(START)
    keys = {"who_id": pa.array(people), "shop_id": pa.array(shops)}
    writer = HistoryWriter(plan)
    writer.append_events(ids, times_us, keys)
    writer.append_labels(ids, times_us, times_us + 5, keys, np.ones(4, np.bool_))
    token = Tokeniser.from_settings().token
    expected = [f"32:{token(who)}{shop}" for who, shop in zip(people, shops, strict=True)]
    for table in ("events", "labels"):
        held = lake.read(table).sort_by("origin_offset")
        assert held["who_shop_key"].to_pylist() == expected
    assert bootstrap(plan)["keys"] == {"who": 3, "shop": 2, "who_shop": 4}

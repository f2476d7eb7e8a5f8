"""`penstock features get`: what the online store holds of one key, for people and programs."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from click.testing import Result
from typer.testing import CliRunner

from features.errors import PenstockError
from features.online import OnlineStore
from features.plan import Plan
from features.settings import settings
from penstock.cli import app
from penstock.commands import features
from streaming.tokenise import Tokeniser
from tests.features.rows import batch
from tests.features.vectors import CUSTOMER, PLAN, TERMINAL, row, rows
from tests.redis_server import free_port, redis

TOKEN_KEY = "5a" * 32
TOKEN = Tokeniser(bytes.fromhex(TOKEN_KEY)).token("c-1")
HOUR_US = 3_600_000_000


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    port = free_port()
    with (
        redis(port, tmp_path_factory.mktemp("redis")),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(settings(), "redis_url", f"redis://127.0.0.1:{port}/0")
        patch.setenv("PENSTOCK_TOKEN_KEY", TOKEN_KEY)
        with closing(OnlineStore(PLAN)) as online:
            numbers = {name: 0.1 + n for n, name in enumerate(CUSTOMER.outputs)}
            online.write(
                rows(
                    row(TOKEN, event_time_us=now_us() - 26 * HOUR_US, terminal_id="é-9", **numbers)
                )
            )
        yield


def get(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["features", "get", *arguments])


def follow(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    monkeypatch.setattr(features, "load_plan", lambda name: plan)


def test_hit_shows_columns_with_units_time_age_and_definition() -> None:
    said = get("customer", "c-1")
    assert said.exit_code == 0, said.output
    words = [line.replace("│", " ").split() for line in said.stdout.splitlines()]
    assert ["customer_amount_mean_7d", "4.1", "EUR", "minor"] in words
    assert ["key", "c-1,", "stored", "as", TOKEN] in words
    assert ["version", "1"] in words
    assert ["fingerprint", PLAN.fingerprint] in words
    (age,) = [line for line in said.stdout.splitlines() if line.startswith("age")]
    assert "1 day, 2:0" in age


def test_json_holds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    follow(monkeypatch, PLAN)
    said = json.loads(get("customer", "c-1", "--json").stdout)
    assert said.pop("age_s") == pytest.approx(26 * 3600, abs=600)
    assert said.pop("event_time").endswith("Z")
    assert said == {
        "entity": "customer",
        "key": "c-1",
        "stored_key": TOKEN,
        "result": "hit",
        "version": 1,
        "fingerprint": PLAN.fingerprint,
        "values": {name: 0.1 + n for n, name in enumerate(CUSTOMER.outputs)},
    }


def test_only_a_tokenised_key_becomes_a_token() -> None:
    assert json.loads(get("terminal", "é-9", "--json").stdout)["stored_key"] == "é-9"
    assert get("customer", TOKEN).exit_code == 1
    assert json.loads(get("customer", TOKEN, "--token", "--json").stdout)["result"] == "hit"


def test_miss_is_a_sentence_and_exit_code_1() -> None:
    said = get("terminal", "nowhere")
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr == (
        "the online store has no features of terminal 'nowhere': it has seen no event of it\n"
    )
    said = get("terminal", "nowhere", "--json")
    assert said.exit_code == 1
    assert json.loads(said.stdout)["result"] == "miss"


def test_features_older_than_ttl_are_told_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    follow(monkeypatch, dataclasses.replace(PLAN, ttl_us=24 * HOUR_US))
    said = get("customer", "c-1")
    assert (said.exit_code, said.stdout) == (1, "")
    assert "1 day, 2:0" in said.stderr
    assert said.stderr.endswith("old: they are served for 1d\n")
    assert "no event of it in the last 1d" in get("terminal", "nowhere").stderr


def test_vector_of_another_definition_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    follow(monkeypatch, dataclasses.replace(PLAN, fingerprint="cd" * 8))
    said = get("customer", "c-1")
    assert said.exit_code == 0
    assert f"fingerprint  {PLAN.fingerprint}" in said.stdout
    assert "the definition in use is another: cdcdcdcdcdcdcdcd" in said.stderr


def test_key_of_several_fields_is_one_argument_each(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = dataclasses.replace(
        TERMINAL,
        name="terminal_customer",
        key_column="terminal_customer_key",
        key_fields=("terminal_id", "customer_id"),
    )
    plan = dataclasses.replace(PLAN, stages=(CUSTOMER, pair), fingerprint="ab" * 8)
    follow(monkeypatch, plan)
    event = row(TOKEN, event_time_us=now_us(), terminal_id="é 9", value=2.5)
    named = {"terminal_customer_seq": event.pop("terminal_seq")}
    with closing(OnlineStore(plan)) as online:
        online.write(batch(plan, [event | named]))
    said = get("terminal_customer", "é 9", "c-1")
    assert said.exit_code == 0, said.output
    assert f"key          é 9 c-1, stored as é 9 {TOKEN}\n" in said.stdout
    said = json.loads(get("terminal_customer", "é 9", "c-1", "--json").stdout)
    assert (said["key"], said["stored_key"]) == (["é 9", "c-1"], ["é 9", TOKEN])
    assert set(said["values"].values()) == {2.5}
    assert get("terminal_customer", "é 9", TOKEN, "--token").exit_code == 0
    assert (
        "no features of terminal_customer 'é 9' 'c-2':"
        in get("terminal_customer", "é 9", "c-2").stderr
    )
    for wrong in (("é 9",), ("é 9", "c-1", "x")):
        said = get("terminal_customer", *wrong)
        assert said.exit_code == 2
        shown = " ".join(said.stderr.replace("│", " ").split())
        assert f"is terminal_id and customer_id: give 2, not {len(wrong)}" in shown


def test_wrong_entity_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    said = get("custmer_id", "c-1")
    assert said.exit_code == 2
    assert "did you mean 'customer'?" in " ".join(said.stderr.replace("│", " ").split())
    # A stage that computes nothing stores nothing.
    bare = dataclasses.replace(CUSTOMER, outputs=())
    follow(monkeypatch, dataclasses.replace(PLAN, stages=(bare, TERMINAL)))
    said = get("customer", "c-1")
    assert said.exit_code == 2
    assert "no features of 'customer'" in said.stderr


def test_missing_token_key_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_TOKEN_KEY")
    said = get("customer", "c-1")
    assert isinstance(said.exception, PenstockError)
    assert str(said.exception).startswith("customer_id is stored as a token")
    assert "PENSTOCK_TOKEN_KEY is not set" in str(said.exception)
    assert get("terminal", "é-9").exit_code == 0


def test_key_that_is_no_text_is_refused() -> None:
    said = get("terminal", "\udcff")
    assert said.exit_code == 2
    assert "KEY is no UTF-8" in said.stderr

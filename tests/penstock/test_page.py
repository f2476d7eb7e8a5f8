"""The page of a feature set says what the plan holds, and can be read anywhere."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from features.catalog import load_plan
from features.contract import Contract
from features.plan import Plan, compile_plan
from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Integer,
    Label,
    Money,
    Text,
    count,
    days,
    hours,
    mean,
    minutes,
    rate,
    seconds_between,
)
from penstock import page
from tests.features import test_references as references
from tests.penstock.test_definitions import penstock

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def odd_plan(label: bool = True) -> Plan:
    """Names, bounds and texts that a page could stumble over."""
    who, where_ = Entity("who_id"), Entity("the_place_where_it_happened_id")
    calls = Event(
        "calls.made.v1",
        id="call_id",
        time="at",
        key=who,
        lateness=minutes(90),
        fields={
            "who_id": Text(max=2, token=True),
            where_.key: Text(),
            "note": Text(max=3),
            "cost": Money("JPY", max=5),
            "debt": Integer(max=-7),
            "size": Integer(min=5000, max=6000),
            "any": Integer(),
        },
    )
    dropped = Label("calls.dropped.v1", of=calls, field="is_dropped", known_after=hours(1))
    return compile_plan(
        FeatureSet(
            "calls",
            event=calls,
            label=dropped if label else None,
            description="Calls & <b>their</b> costs.",
            tags=("<i>", "a-tag-of-many-words-without-a-single-space-in-it-to-break-at"),
            features=[
                calls.any,
                mean(calls.size, by=who, over=days(1)),
                seconds_between(by=who, over=minutes(45)),
                count(
                    by=where_,
                    over=days(2),
                    delay=hours(3),
                    where=(calls.size >= 5500) & calls.note.is_in("a", "b"),
                ),
                count(by=Entity("who_id", "note"), over=days(3)),
                *([rate(dropped.is_dropped, by=where_, over=days(1))] if label else []),
                (mean(calls.size, by=who, over=days(1)) / calls.any).named("share"),
            ],
        )
    )


class Document(HTMLParser):
    """What a reader of the page's structure finds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag not in ("meta", "wbr"):
            self.open.append(tag)
        self.ids += filter(None, [found.get("id")])
        href = found.get("href") or ""
        (self.links if href.startswith("#") else self.outside).extend(filter(None, [href]))
        self.outside += filter(None, [found.get("src")])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def facts(plan: Plan, column: str) -> dict[str, str]:
    [found] = [each for each in plan.columns if each.name == column]
    return dict(page.entry(plan, found).facts)


def test_window_tells_everything_about_itself() -> None:
    plan = odd_plan()
    name = "the_place_where_it_happened_count_2d_delay_3h_where_size_ge_5500_note_in_a_b"
    assert facts(plan, name.replace("_note", "_where_note")) == {
        "Of": "events of the same the_place_where_it_happened_id "
        "(stage the_place_where_it_happened)",
        "Window": "2 days, ending 3 hours before the event",
        "Only events with": "size ≥ 5,500 and note among a, b",
        "Formula": "n",
        "Unit": "events",
        "Where there is none": "0",
    }
    assert facts(plan, "who_size_mean_1d") == {
        "Of": "events of the same who_id (stage who)",
        "Window": "1 day up to the event, itself included",
        "Formula": "float64(Σ x) / float64(n), where x is size",
        "Where there is none": "0",
    }
    between = facts(plan, "who_seconds_between_45m")
    assert between["Where there is none"] == "the window's length, as with one event"
    rated = facts(plan, "the_place_where_it_happened_is_dropped_rate_1d")
    assert rated["Formula"].endswith("where y is is_dropped")
    of_both = facts(plan, "who_note_count_3d")["Of"]
    assert of_both == "events of the same who_id and note (stage who_note)"
    shown = page.render(plan).replace("<wbr>", "")
    assert "<strong>who_note</strong>, by <code>who_id</code> and <code>note</code>:" in shown
    assert facts(plan, "any") == {
        "Where there is none": "the event is refused: its contract demands it"
    }


@pytest.mark.parametrize("plan", [odd_plan(), load_plan("card_fraud")], ids=lambda plan: plan.name)
def test_shown_messages_are_accepted_by_the_contract(plan: Plan) -> None:
    for topic, members in (
        (plan.event_topic, page.event_members(plan)),
        (plan.label_topic, page.label_members(plan)),
    ):
        contract = Contract(plan, topic)
        assert tuple(member.name for member in members) == contract.names
        contract.read(page.sample(members).encode())


def test_shown_versions_are_accepted_by_the_contract() -> None:
    plan = references.PLAN
    text = page.render(plan)
    assert Document(text).open == []
    for each in plan.references:
        members = page.reference_members(plan, each)
        contract = Contract(plan, each.topic)
        assert tuple(member.name for member in members) == contract.names
        contract.read(page.sample(members).encode())
        for word in (each.topic, each.table, f"{each.topic}.dlq"):
            assert word in text.replace("<wbr>", "")
    assert facts(plan, "merchant_rate") == {"Where there is none": "0"}
    assert facts(plan, "merchant_category_code") == {"Where there is none": "-1"}
    assert "Rate in pay.merchant.v3 for the event&#39;s terminal_id, as of its time." in text
    assert "eference" not in page.render(odd_plan())


def test_page_is_whole_escaped_and_needs_nothing_else() -> None:
    plan = odd_plan()
    text = page.render(plan)
    found = Document(text)
    assert found.open == []
    assert found.outside == []
    assert len(set(found.ids)) == len(found.ids)
    assert found.links == [f"#column-{name}" for name in plan.column_names]
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert "Calls &amp; &lt;b&gt;their&lt;/b&gt; costs." in text
    for word in (plan.fingerprint, "&lt;i&gt;", plan.label_topic, "calls.made.v1.late", "JPY"):
        assert word in text.replace("<wbr>", "")


def test_set_without_a_label_has_no_word_about_labels() -> None:
    text = page.render(odd_plan(label=False))
    assert "abel" not in text.replace("aria-label", "")


def test_docs_writes_the_page_where_it_is_wanted(tmp_path: Path) -> None:
    home = {"PENSTOCK_HOME": str(tmp_path)}
    text = page.render(load_plan("card_fraud"))
    made = penstock("docs", "card_fraud", "--json", **home)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == {"path": str(tmp_path / "docs" / "card_fraud.html")}
    assert (tmp_path / "docs" / "card_fraud.html").read_text() == text
    assert penstock("docs", "--out", "-").stdout == f"{text}\n"
    (tmp_path / "note").touch()
    refused = penstock("docs", "--out", str(tmp_path / "note" / "page.html"))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("width", [320, 380, 1000])
def test_page_fits_the_screen(tmp_path: Path, width: int) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on this machine")
    (tmp_path / "page.html").write_text(page.render(odd_plan()))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        sheet = chromium.new_page(viewport={"width": width, "height": 900})
        sheet.goto((tmp_path / "page.html").as_uri())
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width
        chromium.close()

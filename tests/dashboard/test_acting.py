"""What people do on the dashboard is done, and shown; and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from detector.bundle import Bundle
from detector.feedback import said
from tests.dashboard.site import Site, at_work, keep, telemetry
from tests.dashboard.watching import Watched
from tests.detector.machines import trained


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("other"), training={"records": 2_000, "seed": 3})


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, champion: Bundle, other: Bundle) -> Iterator[Site]:
    """A detector of which `champion` serves, and `other` served before."""
    folder = tmp_path_factory.mktemp("own")
    keep(folder, other, champion)
    with at_work(folder, telemetry()) as site:
        site.store.promote(champion.version)
        yield site


@pytest.fixture
def versions(own: Site, champion: Bundle, other: Bundle) -> Iterator[tuple[str, str]]:
    """The version that serves, and the one that served before it; at the end they are so again."""
    yield champion.version, other.version
    own.store.unpin()
    own.store.promote(other.version)
    own.store.promote(champion.version)


def incident(site: Site, at: int = 0) -> str:
    name: str = site.ask("incidents")["incidents"][at]["incident"]
    return name


@pytest.mark.parametrize("label", ["false_alarm", "confirmed", "known"])
def test_one_click_labels_an_incident_and_another_takes_it_back(page: Page, own: Site, label: str) -> None:
    name = incident(own)
    page.goto(own.view(f"/incident/{name}"))
    page.get_by_test_id(f"label-{label}").click()
    expect(page.get_by_test_id("opinion")).to_contain_text("by dashboard")
    expect(page.get_by_test_id(f"label-{label}")).to_have_attribute("aria-pressed", "true")
    assert said(own.broker, own.settings)[name].label == label
    page.get_by_test_id("label-undo").click()
    expect(page.get_by_test_id("opinion")).to_have_count(0)
    expect(page.get_by_test_id(f"label-{label}")).to_have_attribute("aria-pressed", "false")
    assert said(own.broker, own.settings)[name].label == "retracted"


def test_a_label_tells_who_said_it_and_what_for_and_shows_in_the_list(page: Page, own: Site) -> None:
    name = incident(own, 1)
    page.goto(own.view(f"/incident/{name}"))
    page.get_by_label("Note").fill("backup ran late </textarea><b>twice</b>")
    page.get_by_label("Your name").fill("ada")
    page.get_by_test_id("label-known").click()
    expect(page.get_by_test_id("opinion")).to_contain_text("backup ran late </textarea><b>twice</b>")
    word = said(own.broker, own.settings)[name]
    assert (word.label, word.author, word.text) == ("known", "ada", "backup ran late </textarea><b>twice</b>")
    page.get_by_test_id("nav-now").click()
    expect(page.get_by_test_id("incident-row").filter(has_text="Known")).to_have_count(1)


def test_a_label_of_somebody_else_appears_by_itself(page: Page, own: Site) -> None:
    name = incident(own, 2)
    page.goto(own.view(f"/incident/{name}"))
    expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")
    elsewhere = page.context.new_page()
    elsewhere.goto(own.view(f"/incident/{name}"))
    elsewhere.get_by_test_id("label-confirmed").click()
    expect(page.get_by_test_id("opinion")).to_contain_text("Confirmed")


def test_a_version_is_promoted_and_rolled_back_once_that_is_confirmed(
    page: Page, own: Site, versions: tuple[str, str]
) -> None:
    serving, before = versions
    page.goto(own.view(f"/models?version={before}"))
    page.get_by_test_id("promote").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Promote {before}?")
    page.get_by_test_id("confirm-yes").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("tr", has_text=before).first).to_contain_text("serves")
    assert own.store.champion() == before
    page.get_by_test_id("rollback").click()
    page.get_by_test_id("confirm-yes").click()
    expect(page.locator("tr", has_text=serving).first).to_contain_text("serves")
    assert own.store.champion() == serving


def test_a_version_is_pinned_until_it_is_unpinned(page: Page, own: Site, versions: tuple[str, str]) -> None:
    serving, _ = versions
    page.goto(own.view("/models"))
    page.get_by_test_id("pin").click()
    page.get_by_test_id("confirm-yes").click()
    expect(page.locator("tr", has_text=serving).first).to_contain_text("pinned")
    assert own.store.pinned() == serving
    page.get_by_test_id("unpin").click()
    page.get_by_test_id("confirm-yes").click()
    expect(page.get_by_test_id("unpin")).to_have_count(0)
    assert own.store.pinned() is None


@pytest.mark.parametrize("action", ["promote", "pin", "rollback", "retrain"])
@pytest.mark.parametrize("leave", ["Cancel", "Escape"])
def test_nothing_is_done_unless_it_is_confirmed(
    page: Page, own: Site, watched: Watched, versions: tuple[str, str], action: str, leave: str
) -> None:
    serving, before = versions
    page.goto(own.view(f"/models?version={before}"))
    page.get_by_test_id(action).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    if leave == "Cancel":
        page.get_by_test_id("confirm-no").click()
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_test_id(action)).to_be_enabled()
    assert watched.sent == []
    assert (own.store.champion(), own.store.pinned()) == (serving, None)


def test_what_the_daemon_refuses_is_told_in_its_words(
    page: Page, own: Site, watched: Watched, versions: tuple[str, str]
) -> None:
    _, before = versions
    page.goto(own.view(f"/models?version={before}"))
    (Path(own.settings.store.url) / "machines" / before / "manifest.json").rename(
        hidden := Path(own.settings.store.url) / "hidden.json"
    )
    watched.expect("409")
    try:
        page.get_by_test_id("promote").click()
        page.get_by_test_id("confirm-yes").click()
        expect(page.locator(".toast.bad")).to_contain_text(before)
    finally:
        hidden.rename(Path(own.settings.store.url) / "machines" / before / "manifest.json")


def test_without_a_token_in_the_settings_one_may_look_and_is_told_why_not_act(
    page: Page, tmp_path: Path, champion: Bundle, other: Bundle
) -> None:
    keep(tmp_path, champion, other)
    with at_work(tmp_path, telemetry(), token=None) as site:
        page.goto(site.view("/now", token=""))
        page.get_by_test_id("incident-row").first.get_by_role("link").first.click()
        for label in ("false_alarm", "confirmed", "known"):
            expect(page.get_by_test_id(f"label-{label}")).to_be_disabled()
        expect(page.get_by_text("OFFNOMINAL__WEB__TOKEN")).to_be_visible()
        page.get_by_test_id("nav-models").click()
        for action in ("rollback", "pin", "retrain"):
            expect(page.get_by_test_id(action)).to_be_disabled()
        expect(page.get_by_text("OFFNOMINAL__WEB__TOKEN")).to_be_visible()


def test_a_wrong_token_is_asked_for_again(page: Page, own: Site, watched: Watched) -> None:
    watched.expect("401")
    page.goto(own.view("/now", token=""))
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("wants a token")
    page.keyboard.press("Escape")
    expect(asked).to_be_visible()
    page.get_by_test_id("token").fill("not-this-one")
    page.get_by_test_id("token-enter").click()
    expect(asked).to_contain_text(re.compile("not right"))
    page.get_by_test_id("token").fill("canary-51c07e")
    page.keyboard.press("Enter")
    expect(asked).to_have_count(0)
    expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")

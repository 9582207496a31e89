"""For whoever sees little, or hears the page, or has no mouse."""

from __future__ import annotations

import itertools
from importlib.resources import files
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.site import Site

AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
"""The rules of WCAG as a script; given to the page by the driver, as its policy lets no script in."""
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
VIEWS = {"now": "/now?range=1w", "incident": "", "models": "/models", "health": "/health"}


def route(site: Site, view: str) -> str:
    if view != "incident":
        return VIEWS[view]
    return f"/incident/{site.ask('incidents', entity='m1', severity='critical')['incidents'][0]['incident']}"


def settled(page: Page, view: str) -> None:
    expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")
    shown = {"now": "incident-row", "incident": "track", "models": "version-detail", "health": "check"}
    expect(page.get_by_test_id(shown[view]).first).to_be_visible()
    expect(page.locator("main .skeleton")).to_have_count(0)


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe calls serious or critical."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        {"rule": it["id"], "where": [node["target"] for node in it["nodes"]][:3]}
        for it in found
        if it["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious_in_either_theme_at_any_width(page: Page, site: Site, view: str) -> None:
    page.goto(site.view(route(site, view)))
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            settled(page, view)
            assert violations(page) == [], (theme, width)
            across = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert across[0] <= across[1], width


def test_axe_finds_nothing_serious_in_a_dialog(page: Page, site: Site) -> None:
    page.goto(site.view("/models"))
    page.get_by_test_id("retrain").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize(("theme", "dark"), [("light", False), ("dark", True)])
def test_the_theme_that_is_chosen_is_kept(page: Page, site: Site, theme: str, dark: bool) -> None:
    page.emulate_media(color_scheme="light" if dark else "dark")
    page.goto(site.view("/health"))
    page.get_by_test_id("theme").select_option(theme)
    for _ in range(2):
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(background[:3]) < 128) is dark
        page.reload()
        expect(page.get_by_test_id("theme")).to_have_value(theme)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_one_heading_above_all_and_skips_no_level(page: Page, site: Site, view: str) -> None:
    page.goto(site.view(route(site, view)))
    settled(page, view)
    levels = page.locator("h1, h2, h3, h4").evaluate_all("(all) => all.map((it) => Number(it.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_first_stop_of_the_tabulator_skips_to_the_content(page: Page, site: Site) -> None:
    page.goto(site.view("/now"))
    expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.get_by_test_id("status")).to_be_visible()


def test_with_the_keyboard_alone_one_comes_from_lane_to_lane_and_into_an_incident(page: Page, site: Site) -> None:
    page.goto(site.view("/now?range=1w&entity=web-000"))
    spans = page.get_by_test_id("span")
    expect(spans.first).to_be_visible()
    assert page.locator('[data-testid="span"][tabindex="0"]').count() == 1
    page.locator('[data-testid="span"][tabindex="0"]').focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator('[data-testid="lane"][data-row="1"] [data-testid="span"]:focus')).to_have_count(1)
    page.keyboard.press("ArrowUp")
    focused = page.locator('[data-testid="lane"][data-row="0"] [data-testid="span"]:focus')
    expect(focused).to_have_count(1)
    target = focused.get_attribute("href")
    assert target is not None
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("web-000")
    assert target.split("?")[0] in page.url


def test_a_dialog_keeps_the_focus_and_gives_it_back(page: Page, site: Site) -> None:
    page.goto(site.view("/models"))
    button = page.get_by_test_id("retrain")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for _ in range(4):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()

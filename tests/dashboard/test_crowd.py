"""A thousand entities in trouble, and what stays small all the same."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.dashboard.site import Site

MOST_LANES = 60
"""Lanes in the page at once: those in sight, and some above and below."""
MOST_ELEMENTS = 3_000
"""Of the whole page, with the table of incidents."""


def elements(page: Page) -> int:
    count: int = page.evaluate("document.querySelectorAll('*').length")
    return count


def test_only_the_lanes_in_sight_are_in_the_page(page: Page, site: Site) -> None:
    page.goto(site.view("/now?range=1w&entity=web-"))
    lanes = page.get_by_test_id("lane")
    expect(lanes.first).to_be_visible()
    told = site.ask("lanes", entity="web-", limit=1_000)
    assert told["total"] == 1_000
    assert 0 < lanes.count() < MOST_LANES
    assert elements(page) < MOST_ELEMENTS
    expect(page.get_by_role("grid")).to_have_attribute("aria-rowcount", str(len(told["lanes"])))


def test_scrolling_comes_to_the_last_lane_and_leaves_the_others_behind(page: Page, site: Site) -> None:
    page.goto(site.view("/now?range=1w&entity=web-"))
    lanes = page.get_by_test_id("lane")
    expect(lanes.first).to_be_visible()
    before, scroller = elements(page), page.locator(".lanes .scroller")
    for part in (0.25, 0.5, 0.75, 1.0):
        scroller.evaluate("(it, part) => (it.scrollTop = part * it.scrollHeight)", part)
        row = min(999, round(part * 999))
        expect(page.locator(f'[data-testid="lane"][data-row="{row}"]')).to_have_count(1)
        assert lanes.count() < MOST_LANES
    assert elements(page) < 1.2 * before
    last = site.ask("lanes", entity="web-", limit=1_000)["lanes"][-1]["entity"]
    expect(lanes.filter(has_text=last)).to_be_visible()


def test_a_name_narrows_the_lanes_and_the_list_alike(page: Page, site: Site) -> None:
    page.goto(site.view("/now?range=1w"))
    page.get_by_test_id("filter-entity").fill("web-0123")
    expect(page.get_by_test_id("lane")).to_have_count(1)
    expect(page.get_by_test_id("lane")).to_contain_text("web-0123")
    rows = page.get_by_test_id("incident-row")
    expect(rows.first).to_contain_text("web-0123")
    assert all("web-0123" in it for it in rows.all_inner_texts())


def test_a_span_leads_to_its_incident(page: Page, site: Site) -> None:
    told = site.ask("lanes", entity="web-0000")["lanes"][0]["spans"][-1]
    page.goto(site.view("/now?range=1w&entity=web-0000"))
    page.locator(f'[data-testid="span"][href*="{told["incident"]}"]').click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("web-0000")

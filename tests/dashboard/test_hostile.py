"""What records hold is shown as text, whatever it is: nothing of it runs, hides, turns the text around or bursts the
page."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.dashboard.crowd import HOSTILE
from tests.dashboard.site import Site
from tests.dashboard.watching import Watched

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
"""Characters that show nothing, or move what stands beside them; tab and line feed are the page's own."""
MOST_TEXT = 60_000
"""Letters of a whole page, whatever a record holds."""
NARROW: ViewportSize = {"width": 400, "height": 900}
WIDE: ViewportSize = {"width": 1280, "height": 900}


def incident(site: Site, name: str) -> str:
    found: str = next(
        it["incident"]
        for it in site.ask("incidents", severity="critical", limit=2_000)["incidents"]
        if it["entity"] == name
    )
    return found


def require_harmless(page: Page) -> None:
    """Beside what `page` itself watches: no markup of a record's, nothing hidden, no scrolling sideways."""
    assert page.locator("img, iframe, object, embed, h1 h1, script:not([src]), [onerror], [onload]").count() == 0
    assert page.locator('[href^="javascript:"]').count() == 0
    assert not HIDDEN.findall(page.locator("main").inner_text())
    for attribute in ("title", "aria-label"):
        everywhere = page.locator(f"[{attribute}]")
        told = everywhere.evaluate_all("(all, name) => all.map((it) => it.getAttribute(name))", attribute)
        assert not HIDDEN.findall("".join(told))
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        across = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert across[0] <= across[1]


def test_in_lanes_and_lists_hostile_names_are_text(page: Page, site: Site) -> None:
    page.goto(site.view("/now?range=15m&severity=critical&open=true"))
    expect(page.get_by_test_id("incident-row")).to_have_count(len(HOSTILE))
    expect(page.get_by_test_id("lane").first).to_be_visible()
    expect(page.get_by_role("link", name=HOSTILE[0]).first).to_be_visible()
    require_harmless(page)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_an_incident_of_a_hostile_name_is_text(page: Page, site: Site, name: str) -> None:
    page.goto(site.view(f"/incident/{incident(site, name)}"))
    expect(page.get_by_test_id("reason")).to_have_count(2)
    expect(page.get_by_role("heading", level=1)).to_contain_text("has been unlike its normal")
    assert len(page.locator("main").inner_text()) < MOST_TEXT
    require_harmless(page)


def test_a_long_text_is_cut_and_opens_on_request(page: Page, site: Site) -> None:
    page.goto(site.view(f"/incident/{incident(site, HOSTILE[-1])}"))
    quoted = page.get_by_test_id("reason").first.locator("details").first
    expect(quoted.locator("pre")).to_be_hidden()
    quoted.locator("summary").click()
    expect(quoted.locator("pre")).to_be_visible()
    require_harmless(page)


@pytest.mark.parametrize(
    "name", [it for it in HOSTILE if len(it) < 200], ids=range(sum(len(it) < 200 for it in HOSTILE))
)
def test_a_lane_of_a_hostile_name_leads_to_that_name_alone(page: Page, site: Site, name: str) -> None:
    page.goto(site.view("/now?range=15m&severity=critical"))
    row = [it["entity"] for it in site.ask("lanes", severity="critical")["lanes"]].index(name)
    page.locator(f'[data-testid="lane"][data-row="{row}"] a').first.click()
    expect(page.get_by_test_id("lane")).to_have_count(1)
    expect(page.get_by_test_id("incident-row")).to_have_count(1)


@pytest.mark.parametrize(
    "route",
    [
        "/incident/%3Cimg%20src=x%20onerror=alert(1)%3E",
        "/now?entity=%3Cscript%3Ealert(1)%3C/script%3E&severity=worst&range=forever&begin=x&tz=%3Cb%3E",
        "/models?version=%22%3E%3Cimg%20src=x%3E",
        "/__proto__",
        "/constructor",
    ],
)
def test_an_address_made_to_do_harm_does_none(page: Page, site: Site, route: str, watched: Watched) -> None:
    watched.expect("404|422")
    page.goto(site.view(route))
    expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")
    expect(page.locator("main .skeleton")).to_have_count(0)
    require_harmless(page)

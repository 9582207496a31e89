"""Each view shows what the API says, and its address says which."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.site import NEWEST_MS, TROUBLE, Site
from tests.dashboard.watching import Watched
from tests.detector.machines import TOPIC

PAGE = 25
"""Incidents in the table at first."""


def trouble(site: Site) -> dict[str, Any]:
    """What the daemon told of the machine that went wrong."""
    found = site.ask("incidents", entity="m1", severity="critical")["incidents"]
    told: dict[str, Any] = found[0]
    return told


def names(page: Page) -> list[str]:
    return page.get_by_test_id("incident-row").locator("th").all_inner_texts()


def test_now_tells_in_a_sentence_and_in_figures_how_the_detector_fares(page: Page, site: Site) -> None:
    page.goto(site.view("/now"))
    now = site.ask("overview")["now"]
    assert now["alarms"]
    assert now["open_incidents"]
    expect(page.get_by_test_id("status")).to_contain_text(f"{now['alarms']} alarm")
    expect(page.get_by_test_id("tile-open")).to_contain_text(str(now["open_incidents"]))
    expect(page.get_by_test_id("tile-promise")).to_contain_text(str(now["alarms"]))
    expect(page.get_by_test_id("tile-version")).to_contain_text(now["version"])
    expect(page.get_by_test_id("tile-lag")).to_contain_text("0")
    expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")


def test_now_lists_the_incidents_in_the_order_of_the_api(page: Page, site: Site) -> None:
    page.goto(site.view("/now?entity=web-&range=4w"))
    expect(page.get_by_test_id("incident-row")).to_have_count(PAGE)
    told = site.ask("incidents", entity="web-", end=NEWEST_MS + 60_000, limit=PAGE)
    assert names(page) == [it["entity"] for it in told["incidents"]]
    expect(page.get_by_text(f"{told['total']:,}").first).to_be_visible()
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_test_id("incident-row")).to_have_count(2 * PAGE)


def test_charts_show_the_figures_of_the_api(page: Page, site: Site) -> None:
    series = site.ask("series", begin=NEWEST_MS - 2 * 86_400_000, end=NEWEST_MS + 1_000)
    page.goto(site.view("/now?range=2d"))
    expect(page.locator(".chart canvas").first).to_be_visible()
    expect(page.locator(".chart", has_text="Surprise").locator("output").nth(1)).not_to_have_text("–")
    last = page.locator(".chart", has_text="Records").last.locator("output").first
    expect(last).to_have_text(f"{series['records'][-1]:g}")


def test_an_incident_says_what_happened_and_why(page: Page, site: Site) -> None:
    row = trouble(site)
    page.goto(site.view(f"/incident/{row['incident']}"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("m1 was unlike its normal for")
    reasons = page.get_by_test_id("reason")
    expect(reasons).to_have_count(len(row["reasons"]))
    for at, reason in enumerate(row["reasons"]):
        expect(reasons.nth(at)).to_contain_text(reason["feature"])
        expect(reasons.nth(at)).to_contain_text(f"{reason['observed']:.4g}")
    alerts = site.ask(f"incidents/{row['incident']}")["alerts"]
    expect(page.locator(".steps li")).to_have_count(len(alerts))


def test_around_an_incident_every_reason_has_a_track(page: Page, site: Site) -> None:
    row = trouble(site)
    page.goto(site.view(f"/incident/{row['incident']}"))
    around = site.ask(f"incidents/{row['incident']}/around")
    assert around["features"]
    assert TROUBLE[0] in around["offset"]
    tracks = page.get_by_test_id("track")
    expect(tracks).to_have_count(1 + len(around["features"]))
    for at in range(1 + len(around["features"])):
        expect(tracks.nth(at).locator("canvas")).to_be_visible()


def test_the_place_of_a_record_is_copied_as_it_is_written_elsewhere(page: Page, site: Site) -> None:
    page.goto(site.view(f"/incident/{trouble(site)['incident']}"))
    page.get_by_test_id("copy-offset").first.click()
    expect(page.locator(".toast")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"{TOPIC}/0@{TROUBLE[0]}"


def test_models_show_every_version(page: Page, site: Site) -> None:
    page.goto(site.view("/models"))
    models = site.ask("models")
    rows = page.get_by_test_id("version-row")
    expect(rows).to_have_text([it["version"] for it in models["versions"]])
    expect(page.locator("tr", has=rows.first)).to_contain_text("serves")
    expect(page.get_by_test_id("version-detail")).to_contain_text(
        f"{models['versions'][0]['verdict']['held_back_rows']:,}"
    )


def test_health_shows_every_check_partition_and_dead_letter(page: Page, site: Site) -> None:
    page.goto(site.view("/health"))
    health = site.ask("health")
    expect(page.get_by_test_id("check")).to_have_count(len(health["checks"]))
    for check in health["checks"]:
        shown = page.get_by_test_id("check").filter(has_text=check["name"])
        expect(shown.first).to_have_attribute("data-ok", str(check["ok"]).lower())
    assert health["latest_dead_letters"]
    for letter in health["latest_dead_letters"]:
        expect(page.get_by_text(f"{TOPIC}/0@{letter['offset']}")).to_be_visible()


def test_choices_stand_in_the_address_and_a_copied_address_shows_the_same(page: Page, site: Site) -> None:
    page.goto(site.view("/now"))
    page.get_by_test_id("filter-range").select_option("1w")
    page.get_by_test_id("filter-severity").select_option("major")
    page.get_by_test_id("filter-entity").fill("web-00")
    page.get_by_test_id("filter-open").check()
    expect(page).to_have_url(re.compile(r"(?=.*range=1w)(?=.*severity=major)(?=.*entity=web-00)(?=.*open=true)"))
    told = site.ask("incidents", entity="web-00", severity="major", open="true")["incidents"]
    assert 0 < len(told) < PAGE
    expect(page.get_by_test_id("incident-row")).to_have_count(len(told))
    shown = names(page)
    copied = page.context.new_page()
    copied.goto(site.view(page.url.split("#", 1)[1]))
    expect(copied.get_by_test_id("incident-row")).to_have_count(len(told))
    assert names(copied) == shown
    expect(copied.get_by_test_id("filter-severity")).to_have_value("major")
    expect(copied.get_by_test_id("filter-open")).to_be_checked()


def test_drawing_over_a_chart_zooms_and_going_back_zooms_out(page: Page, site: Site) -> None:
    page.goto(site.view("/now?range=1w"))
    plot = page.locator(".chart .u-over").first
    plot.hover()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"begin=\d+&.*end=\d+|end=\d+&.*begin=\d+"))
    begin, end = (int(re.findall(rf"{name}=(\d+)", page.url)[0]) for name in ("begin", "end"))
    assert 1.6 * 86_400_000 < end - begin < 1.9 * 86_400_000  # a quarter of a week
    page.go_back()
    expect(page).not_to_have_url(re.compile("begin="))


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_the_zone_that_is_chosen_is_shown_and_moves_the_times(page: Page, site: Site, zone: str) -> None:
    row = trouble(site)
    page.goto(site.view("/now?entity=m1&severity=critical"))
    began = page.get_by_test_id("incident-row").first.locator("time").first
    opened = datetime.fromisoformat(row["opened"])
    expect(began).to_contain_text(f"{opened.astimezone(ZoneInfo('America/New_York')):%H:%M}")
    page.get_by_test_id("tz").select_option(zone)
    expect(page).to_have_url(re.compile(f"tz={zone.replace('/', '(/|%2F)')}"))
    expect(began).to_contain_text(f"{opened.astimezone(ZoneInfo(zone)):%H:%M}")
    expect(page.locator("th .zone").first).to_have_text(zone)


def test_nothing_is_asked_of_another_place_and_the_token_stays_out_of_the_address(
    page: Page, site: Site, watched: Watched
) -> None:
    for view in ("/now", "/models", "/health"):
        page.goto("about:blank")
        page.goto(site.view(view))
        expect(page.get_by_test_id("live")).to_have_attribute("data-state", "live")
        assert "token" not in page.url
    assert {it.split("/", 3)[2] for it in watched.asked} == {site.address.split("/")[2]}
    assert not any("canary" in it for it in watched.asked)

"""A dashboard that is left open outlives the daemon."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from detector.bundle import Bundle
from tests.dashboard.crowd import alert
from tests.dashboard.site import NEWEST_MS, at_work, keep, publish, telemetry
from tests.dashboard.watching import Watched


def test_after_a_restart_it_is_live_again_and_shows_what_was_told_meanwhile(
    page: Page, watched: Watched, tmp_path: Path, champion: Bundle
) -> None:
    keep(tmp_path, champion)
    broker = telemetry()
    watched.expect("Failed to load resource|ERR_|net::")  # while there is nobody to answer
    live = page.get_by_test_id("live")
    with at_work(tmp_path, broker) as site:
        page.goto(site.view("/now?entity=db-"))
        expect(live).to_have_attribute("data-state", "live")
        expect(page.get_by_test_id("incident-row")).to_have_count(0)
        publish(broker, [alert("db-before", "opened", NEWEST_MS, champion.version)])
        expect(page.get_by_test_id("incident-row")).to_have_count(1)
        port = int(site.address.rsplit(":", 1)[1])
    expect(live).to_have_attribute("data-state", "reconnecting")
    expect(live).to_contain_text("since")
    expect(page.get_by_test_id("incident-row")).to_have_count(1)
    publish(broker, [alert("db-after", "opened", NEWEST_MS, champion.version)])
    with at_work(tmp_path, broker, port=port):
        expect(live).to_have_attribute("data-state", "live")
        expect(page.get_by_test_id("incident-row").filter(has_text="db-after")).to_have_count(1)
        expect(page.get_by_test_id("lane")).to_have_count(2)

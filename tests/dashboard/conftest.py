"""One browser and one detector for all that only look; whoever acts has a detector of his own.

The browser's driver keeps an event loop on the thread of the tests, where others could then run none: this suite has a
process of its own, `tests/dashboard/run`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from detector.bundle import Bundle
from tests.dashboard.crowd import crowd, hostile
from tests.dashboard.site import Site, at_work, keep, publish, telemetry
from tests.dashboard.watching import Watched
from tests.detector.machines import trained

PATIENCE_MS = 30_000
"""How long a page may take to show what it is asked for; what is there in time is not waited for."""


@pytest.fixture(scope="session")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("champion"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; tests/dashboard/run installs Debian's")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, champion: Bundle) -> Iterator[Site]:
    """Everything at once: machines of which one went wrong, a crowd of entities, and names that mean harm."""
    folder, broker = tmp_path_factory.mktemp("site"), telemetry()
    keep(folder, champion)
    publish(broker, [*crowd(champion.version), *hostile(champion.version)])
    with at_work(folder, broker) as site:
        yield site


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser of somebody else, in a zone that is not UTC."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        timezone_id="America/New_York",
        locale="en-GB",
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def watched(context: BrowserContext) -> Watched:
    return Watched(context)


@pytest.fixture
def page(context: BrowserContext, watched: Watched) -> Iterator[Page]:
    """A tab in which nothing may go wrong that `watched` was not told to expect."""
    yield context.new_page()
    watched.require_peace()

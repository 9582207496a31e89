"""Pictures of the dashboard for README and docs, of the demo as whoever runs it sees it.

    python -m benchmarks.screenshots [--to docs/images] [--seconds N]

Wants Debian's chromium. Tells on the last line, as JSON, how many bytes each picture has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from benchmarks.processes import ROOT
from consumers.embedded import embedded_broker
from detector import logs
from detector.demo.recording import load_recording
from detector.demo.run import playing, write_settings
from detector.demo.tally import Tally

MOST_REASONS = 3
"""An incident with so many reasons shows all that there is to see."""


class Shot(NamedTuple):
    """One picture: a view at a size, and what is there once it is whole."""

    name: str
    view: str
    whole: str
    width: int = 1280
    height: int | None = None
    """None: as high as the page."""
    theme: Literal["light", "dark"] = "light"


def main() -> None:
    """Runs the demo, takes the pictures, and tells their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images", help="the folder of the pictures")
    parser.add_argument("--seconds", type=float, default=45.0, help="how long the second half of the recording takes")
    arguments = parser.parse_args()
    logs.configure("warning")
    recording = load_recording()
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder, embedded_broker() as bootstrap:
        config, tally = write_settings(Path(folder), bootstrap, recording), Tally(recording)
        stopping, console = threading.Event(), Console(stderr=True)
        with playing(
            config, recording, tally, seconds=arguments.seconds, stopping=stopping, console=console
        ) as address:
            print(json.dumps(take(address, arguments.to)))  # noqa: T201 - the result


def shots(incident: str) -> list[Shot]:
    """Every view as the docs show it."""
    return [
        Shot("now", "/now?range=4w", "incident-row", height=1120),
        Shot("incident", f"/incident/{incident}", "track", height=1180),
        Shot("models", "/models", "version-detail", height=760),
        Shot("health", "/health", "check"),
        Shot("dark", "/now?range=4w", "incident-row", height=1120, theme="dark"),
        Shot("narrow", f"/incident/{incident}", "track", width=400, height=1600),
    ]


def take(address: str, folder: Path) -> dict[str, int]:
    """Puts the pictures into the folder; bytes by name."""
    sizes = {}
    with (
        sync_playwright() as driver,
        closing(driver.chromium.launch(executable_path=shutil.which("chromium"))) as browser,
    ):
        for shot in shots(_telling(address)):
            path = folder / f"dashboard-{shot.name}.png"
            path.write_bytes(_taken(browser, address, shot))
            sizes[shot.name] = path.stat().st_size
    return sizes


def _telling(address: str) -> str:
    """The most unlikely incident of those that give several reasons."""
    base, token = address.split("/#token=")
    answer = httpx.get(f"{base}/api/incidents", params={"limit": 2_000}, headers={"Authorization": f"Bearer {token}"})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["incidents"]
    best = min(found, key=lambda it: (len(it["reasons"]) < MOST_REASONS, it["p_value"] or 1.0))
    return str(best["incident"])


def _taken(browser: Browser, address: str, shot: Shot) -> bytes:
    context = browser.new_context(
        viewport={"width": shot.width, "height": shot.height or 800},
        color_scheme=shot.theme,
        reduced_motion="reduce",
        timezone_id="UTC",
        locale="en-GB",
    )
    page = context.new_page()
    page.goto(f"{address}&{shot.view}")
    page.get_by_test_id(shot.whole).first.wait_for()
    page.locator('[data-testid="live"][data-state="live"]').wait_for()
    page.wait_for_function("!document.querySelector('main .skeleton')")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # charts are drawn
    picture = page.screenshot(full_page=shot.height is None)
    context.close()
    return picture


if __name__ == "__main__":
    main()

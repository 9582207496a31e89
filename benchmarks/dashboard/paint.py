"""How soon a browser that has never been there shows the dashboard, and what it has to fetch for that.

    python -m benchmarks.dashboard.paint ADDRESS REPEATS

Beside it, in turns, a page of a few words of the same server: what browser and machine take for anything at all.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.dashboard.lookers import TOKEN

PAGES = {"bare": "/healthz", "dashboard": f"/#token={TOKEN}&/now"}
FIGURES = '[data-testid="tile-records"]'
"""What is there once the daemon has answered."""
_TAKEN = """() => {
  const [page] = performance.getEntriesByType("navigation"), parts = performance.getEntriesByType("resource");
  const files = parts.filter((it) => !it.name.includes("/api/")), answers = parts.filter((it) => !files.includes(it));
  const bytes = (of) => of.reduce((sum, it) => sum + it.transferSize, 0);
  return {
    paint_ms: performance.getEntriesByName("first-contentful-paint")[0].startTime,
    now_ms: performance.now(),
    files: 1 + files.length,
    bytes: page.transferSize + bytes(files),
    answers_bytes: bytes(answers),
  };
}"""
_PAINTED = 'performance.getEntriesByName("first-contentful-paint").length'


def visit(browser: Browser, address: str, wanted: str | None) -> dict[str, Any]:
    """Figures of one visit with nothing in the cache: the page's own files, and what the API answered."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address, wait_until="load")
    page.wait_for_function(_PAINTED)
    if wanted is not None:
        page.wait_for_selector(wanted)
    taken: dict[str, Any] = page.evaluate(_TAKEN)
    context.close()
    return taken


def paint(address: str, repeats: int) -> dict[str, Any]:
    """Medians by page. The first visit of each is left out: it starts processes of the browser's."""
    visits: dict[str, list[dict[str, Any]]] = {name: [] for name in PAGES}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for _ in range(repeats + 1):
            for name, path in PAGES.items():
                visits[name].append(visit(browser, address + path, FIGURES if name == "dashboard" else None))
        browser.close()
    return {name: _medians(found[1:]) for name, found in visits.items()}


def _medians(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "first_contentful_paint_ms": round(statistics.median(it["paint_ms"] for it in found), 1),
        "slowest_ms": round(max(it["paint_ms"] for it in found), 1),
        "figures_ms": round(statistics.median(it["now_ms"] for it in found), 1),
        "files": round(statistics.median(it["files"] for it in found)),
        "bytes": round(statistics.median(it["bytes"] for it in found)),
        "answers_bytes": round(statistics.median(it["answers_bytes"] for it in found)),
    }


if __name__ == "__main__":
    print(json.dumps(paint(sys.argv[1], int(sys.argv[2]))))  # noqa: T201 - the result

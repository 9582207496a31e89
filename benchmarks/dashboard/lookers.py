"""Those who look at a dashboard while the daemon works.

    python -m benchmarks.dashboard.lookers browsers ADDRESS COUNT
    python -m benchmarks.dashboard.lookers clients ADDRESS COUNT FILE

Says `ready` once the first view is live in each, takes a line as the beginning and another as the end, and prints last
what was asked in between, as pairs of seconds and path. Clients ask what a FILE says that browsers have asked, at the
same pace, and show nothing: what is left is the cost of answering.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from playwright.async_api import async_playwright

TOKEN = "benchmark"
Asked = Sequence[tuple[float, str]]
"""Seconds from the beginning, and path with query."""
LIVE = "/api/live"
"""The stream that stays open."""


async def browsers(address: str, count: int) -> Asked:
    """Pages with contexts of their own in one headless Chromium."""
    asked: list[tuple[float, str]] = []
    async with async_playwright() as driver, AsyncExitStack() as stack:
        browser = await driver.chromium.launch(executable_path=shutil.which("chromium"))
        stack.push_async_callback(browser.close)
        for _ in range(count):
            page = await browser.new_page()
            page.on("request", lambda request: asked.append((time.monotonic(), _path(request.url))))
            await page.goto(f"{address}/#token={TOKEN}&/now")
            await page.locator('[data-testid="live"][data-state="live"]').wait_for()
        begin, end = await _between()
    return [(at - begin, path) for at, path in asked if begin <= at <= end and path != LIVE]


async def clients(address: str, count: int, recorded: Asked) -> Asked:
    """One light process that asks the same."""
    answered: list[tuple[float, str]] = []

    async with httpx.AsyncClient(
        base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=None, trust_env=False
    ) as client:
        followed = [asyncio.Event() for _ in range(count)]

        async def follow(heard: asyncio.Event) -> None:
            async with client.stream("GET", LIVE) as stream:
                async for _ in stream.aiter_raw():
                    heard.set()

        async def ask(at: float, path: str) -> None:
            await asyncio.sleep(at)
            (await client.get(path)).raise_for_status()
            answered.append((at, path))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(it)) for it in followed]
            for it in followed:
                await it.wait()
            await _line("ready")
            tasks += [group.create_task(ask(at, path)) for at, path in recorded]
            await _line()
            for task in tasks:
                task.cancel()
    return answered


async def _between() -> tuple[float, float]:
    await _line("ready")
    begin = time.monotonic()
    await _line()
    return begin, time.monotonic()


async def _line(words: str = "") -> None:
    """Waits to be told to go on."""
    if words:
        print(words, flush=True)  # noqa: T201 - who started it waits for this
    await asyncio.to_thread(sys.stdin.readline)


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


if __name__ == "__main__":
    kind, at, number, *more = sys.argv[1:]
    looking = (
        browsers(at, int(number))
        if kind == "browsers"
        else clients(at, int(number), json.loads(Path(more[0]).read_text()))
    )
    print(json.dumps(asyncio.run(looking)))  # noqa: T201 - the result

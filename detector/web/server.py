"""Health, metrics, the API and the dashboard over HTTP, served from a thread of the daemon."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from consumers.stream import Broker
from detector import __version__
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.feedback_giving import voting
from detector.health import Health, Phase
from detector.history.book import Book
from detector.web.actions import Actions
from detector.web.api import act, look, tell_errors
from detector.web.desk import Desk
from detector.web.guard import Guard
from detector.web.serving import serving

ASSETS = Path(__file__).parent / "assets"
SMALL, COMPRESSION = 1_000, 4
"""Bytes of an answer that is worth compressing, and how hard: a week of lanes takes a tenth then, in milliseconds."""


@contextmanager
def dashboard(
    settings: DetectorSettings, daemon: Daemon, connect: Callable[[DetectorSettings], Broker]
) -> Iterator[str | None]:
    """Serves everything while the context lasts; gives the address, None where `web.enabled` is false.

    Raises `SettingsError` where the port is taken, or no token to be had from `web.token_file`.
    """
    if not settings.web.enabled:
        yield None
        return
    broker = connect(settings)
    app = routes(daemon.health, daemon.metrics.registry)
    guard = Guard(app, settings.web)
    with Book(broker, settings) as book:
        desk = Desk(settings, daemon, book, broker)
        voter = connect(voting(settings, f"dashboard-{socket.gethostname()}"))
        app.state.desk, app.state.actions = desk, Actions(settings, desk, voter)
        with serving(guard, settings.web) as address:
            try:
                yield address
            finally:
                desk.ending.set()


def routes(health: Health, registry: CollectorRegistry) -> FastAPI:
    """All addresses; reads `health` and `registry` at each request. Probes and metrics are answered by the event loop:
    they wait for no thread, however many people look at what takes a while."""
    app = FastAPI(
        title="offnominal",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        description="What the dashboard shows, and what it does.",
    )
    app.add_middleware(GZipMiddleware, minimum_size=SMALL, compresslevel=COMPRESSION)
    app.include_router(look)
    app.include_router(act)
    tell_errors(app)

    @app.get("/healthz")
    async def healthz(request: Request) -> JSONResponse:
        report = health.alive()
        return _answer(request, report.ok, report.phase, detail=report.detail)

    @app.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        ok, phase, detail, degraded, checks = health.ready()
        told = [check._asdict() for check in checks]
        return _answer(request, ok, phase, detail=detail, degraded=degraded, checks=told)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(ASSETS / "index.html")

    app.mount("/assets", StaticFiles(directory=ASSETS), name="assets")
    return app


def _answer(request: Request, ok: bool, phase: Phase, **details: object) -> JSONResponse:
    """Details are for those who may see everything; a probe needs none."""
    told = details if request.state.trusted else {}
    return JSONResponse({"ok": ok, "phase": phase, **told}, status_code=200 if ok else 503)

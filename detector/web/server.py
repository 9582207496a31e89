"""Health and metrics over HTTP, served from a thread of the daemon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from detector import __version__
from detector.config_service import WebSettings
from detector.errors import SettingsError
from detector.health import Health, Phase
from detector.web.guard import Guard


def application(health: Health, registry: CollectorRegistry, settings: WebSettings) -> Guard:
    """The web application behind its guard; reads `health` and `registry` at each request.

    Raises `SettingsError` where there is no token to be had from `web.token_file`.
    """
    app = FastAPI(title="offnominal", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    def healthz(request: Request) -> JSONResponse:
        report = health.alive()
        return _answer(request, report.ok, report.phase, detail=report.detail)

    @app.get("/readyz")
    def readyz(request: Request) -> JSONResponse:
        ok, phase, detail, degraded, checks = health.ready()
        told = [check._asdict() for check in checks]
        return _answer(request, ok, phase, detail=detail, degraded=degraded, checks=told)

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Guard(app, settings)


@contextmanager
def serving(app: ASGIApp, settings: WebSettings) -> Iterator[str]:
    """Serves while the context lasts; gives the address, `http://host:port`.

    Raises `SettingsError` where the port is taken.
    """
    family, shown = (socket.AF_INET6, f"[{settings.host}]") if ":" in settings.host else (socket.AF_INET, settings.host)
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise SettingsError(f"web: cannot listen on {shown}:{settings.port}: {error.strerror}.") from error
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
    thread.start()
    try:
        yield f"http://{shown}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listener.close()


def _answer(request: Request, ok: bool, phase: Phase, **details: object) -> JSONResponse:
    """Details are for those who may see everything; a probe needs none."""
    told = details if request.state.trusted else {}
    return JSONResponse({"ok": ok, "phase": phase, **told}, status_code=200 if ok else 503)

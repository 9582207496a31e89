"""Health and metrics over HTTP, served from a thread of the daemon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from detector import __version__
from detector.config import WebSettings
from detector.errors import SettingsError
from detector.health import Health, Report


def application(health: Health, registry: CollectorRegistry) -> FastAPI:
    """The web application; reads `health` and `registry` at each request."""
    app = FastAPI(title="offnominal", version=__version__, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    def healthz() -> JSONResponse:
        return _answer(health.alive())

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        return _answer(health.ready())

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


@contextmanager
def serving(app: FastAPI, settings: WebSettings) -> Iterator[str]:
    """Serves while the context lasts; gives the address, `http://host:port`.

    Raises `SettingsError` where the port is taken.
    """
    try:
        listener = socket.create_server((settings.host, settings.port))
    except OSError as error:
        raise SettingsError(f"web: cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from error
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
    thread.start()
    try:
        yield f"http://{settings.host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listener.close()


def _answer(report: Report) -> JSONResponse:
    return JSONResponse(report._asdict(), status_code=200 if report.ok else 503)

"""An application on a port, from a thread. Knows nothing of what is served, so that what needs no models loads none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from detector.config_service import WebSettings
from detector.errors import SettingsError

GOODBYE_S = 2
"""How long those that are being answered have when the server ends: live streams look about each second."""


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
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GOODBYE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
    thread.start()
    try:
        yield f"http://{shown}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listener.close()

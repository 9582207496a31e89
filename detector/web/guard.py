"""Who may see what over HTTP."""

from __future__ import annotations

import hmac
import re
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.config_service import WebSettings, is_loopback
from detector.errors import SettingsError

PROBES = ("/healthz", "/readyz")
"""Paths that answer without a token, in two words: what runs containers cannot send one everywhere."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
SHELL = "/assets/"
"""What lies below is the dashboard without anything of the detector's, as is the page at /: a browser cannot send a
token with what it loads first."""

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:@/]+))(?::\d+)?")
_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


class Guard:
    """ASGI middleware: wants the token with every request but the probes', and tells browsers to be careful.

    On an address of this machine it also wants the `Host` header to name one: a web page whose own name resolves to
    127.0.0.1 (DNS rebinding) would otherwise read what a browser on this machine may. `scope["state"]` says whether a
    request is `trusted` to see everything, and whether it `may_act`: without a token in the settings nobody may.

    Raises `SettingsError` where `web.token_file` cannot be read.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._token = _token(settings)
        self._local = is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # nothing else is served
        headers = Headers(scope=scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        presented = self._presented(headers)
        trusted, path = self._token is None or presented, scope["path"]
        scope.setdefault("state", {}).update(trusted=trusted, may_act=presented)
        if self._local and not _names_this_machine(headers.get("host", "")):
            answer: ASGIApp = JSONResponse({"detail": "the Host header names no address of this machine"}, 400)
        elif not (trusted or path in PROBES or path == "/" or path.startswith(SHELL)):
            answer = JSONResponse(
                {"detail": "this wants the header Authorization: Bearer with the token of web.token"},
                401,
                {"WWW-Authenticate": 'Bearer realm="offnominal"'},
            )
        else:
            answer = self._app
        await answer(scope, receive, guarded)

    def _presented(self, headers: Headers) -> bool:
        found = _BEARER.fullmatch(headers.get("authorization", "").encode("latin-1"))
        return found is not None and self._token is not None and hmac.compare_digest(found[1], self._token)


def _token(settings: WebSettings) -> bytes | None:
    """The token of the settings; None where none is wanted."""
    if settings.token_file is None:
        if settings.token is None:
            return None
        text, origin = settings.token.get_secret_value(), "web.token"
    else:
        text, origin = _read(settings.token_file), f"web.token_file '{settings.token_file}'"
    token = text.strip().encode()
    if not token or len(token.split()) > 1:
        raise SettingsError(f"{origin} holds no token. Expected one word.")
    return token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"web.token_file '{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise SettingsError(f"web.token_file '{path}' is not UTF-8.") from None


def _names_this_machine(host: str) -> bool:
    named = _HOST.fullmatch(host)
    return named is not None and is_loopback(named[1] or named[2])

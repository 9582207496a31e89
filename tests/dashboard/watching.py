"""What goes on in a browser beside what is looked at."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Request


class Watched:
    """Notes everything that no page of the dashboard should do: complain, open a dialog of the browser's, or ask
    anything of another place than the one it came from."""

    def __init__(self, context: BrowserContext) -> None:
        self.trouble: list[str] = []
        self.asked: list[str] = []
        """Addresses of all requests."""
        self.sent: list[str] = []
        """Addresses of those that ask for something to be done."""
        self._expected: list[str] = []
        context.on("console", self._said)
        context.on("weberror", lambda error: self.trouble.append(f"error: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", self._asked)

    def expect(self, pattern: str) -> None:
        """The page may complain of what matches this."""
        self._expected.append(pattern)

    def require_peace(self) -> None:
        unexpected = [it for it in self.trouble if not any(re.search(one, it) for one in self._expected)]
        assert not unexpected, unexpected

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.trouble.append(f"console: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Request) -> None:
        self.asked.append(request.url)
        if request.method != "GET":
            self.sent.append(request.url)
        if urlsplit(request.url).hostname != "127.0.0.1":
            self.trouble.append(f"request: {request.url}")

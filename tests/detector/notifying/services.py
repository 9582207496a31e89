"""Services on this machine that take messages: an HTTP server and a mail server, which answer as they are told."""

from __future__ import annotations

import threading
from asyncio import Server
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

HANG = 0
"""In place of a status: the request is not answered until the server ends."""


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class HttpService(ThreadingHTTPServer):
    """Answers with `answers` one after the other, then with 200. Keeps every request."""

    daemon_threads = False  # so that closing waits for them

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.changed = threading.Condition()
        self.ending = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def wait_for(self, requests: int) -> list[Request]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= requests, 20), self.requests
        return self.requests


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        service = cast(HttpService, self.server)
        body = self.rfile.read(int(self.headers["content-length"]))
        with service.changed:
            answer = service.answers.pop(0) if service.answers else 200
            service.requests.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            service.changed.notify_all()
        if answer == HANG:
            service.ending.wait()
            return
        self.send_response(answer)
        if answer in (301, 302, 307, 308):
            self.send_header("location", f"http://{service.host}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def http_service(*answers: int) -> Iterator[HttpService]:
    service = HttpService(*answers)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        service.ending.set()
        service.shutdown()
        thread.join()
        service.server_close()


class Mailbox:
    """Refuses as many mails as `refuse` says, then keeps them."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.mails: list[EmailMessage] = []
        self.port = 0

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.refuse:
            self.refuse -= 1
            return "451 try again later"
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 kept"


class _AnyPort(Controller):
    """aiosmtpd asks its own port whether it is there, and must be told which one it got."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # has none


@contextmanager
def mailbox(refuse: int = 0) -> Iterator[Mailbox]:
    box = Mailbox(refuse)
    controller = _AnyPort(box, hostname="127.0.0.1", port=0)
    controller.start()
    try:
        box.port = controller.port
        yield box
    finally:
        controller.stop()

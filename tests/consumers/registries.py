"""A schema registry for tests: the one that OFFNOMINAL_TEST_REGISTRY_START starts, or one of a few lines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from consumers.settings import RegistrySettings

Answer = tuple[int, Any]
Reference = Mapping[str, Any]


class Server(NamedTuple):
    """A running registry."""

    url: str

    @property
    def settings(self) -> RegistrySettings:
        return RegistrySettings(url=self.url)

    def register(self, subject: str, format: str, text: str, references: Sequence[Reference] = ()) -> int:
        """The id that the schema is given."""
        body = {"schemaType": format, "schema": text, "references": list(references)}
        answer = httpx.post(f"{self.url}/subjects/{subject}/versions", json=body, timeout=30)
        return int(answer.raise_for_status().json()["id"])


@contextmanager
def registry_server() -> Iterator[Server]:
    """A registry that holds nothing yet."""
    if start := os.environ.get("OFFNOMINAL_TEST_REGISTRY_START"):
        with _started(start) as server:
            yield server
    else:
        with answering(Schemas().answer) as server:
            yield server


@contextmanager
def answering(
    answer: Callable[[str, str, Any], Answer], seen: list[Mapping[str, str]] | None = None
) -> Iterator[Server]:
    """A server whose responses are what `answer` makes of a method, a path and a body: a status, and JSON or bytes. The
    headers of requests are added to `seen`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def _respond(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if seen is not None:
                seen.append(dict(self.headers))
            status, content = answer(self.command, self.path, json.loads(self.rfile.read(size) or b"null"))
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


class Schemas:
    """What a registry knows."""

    def __init__(self) -> None:
        self._schemas: list[Any] = []
        self._subjects: dict[str, list[int]] = {}

    def answer(self, method: str, path: str, body: Any) -> Answer:
        match [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]:
            case ["subjects", subject, "versions"] if method == "POST":
                if body not in self._schemas:
                    self._schemas.append(body)
                schema_id = 1 + self._schemas.index(body)
                self._subjects.setdefault(subject, []).append(schema_id)
                return 200, {"id": schema_id}
            case ["schemas", "ids", number] if 0 < int(number) <= len(self._schemas):
                return 200, self._schemas[int(number) - 1]
            case ["subjects", subject, "versions", version] if subject in self._subjects:
                schema_id = self._subjects[subject][int(version) - 1]
                return 200, {
                    "subject": subject,
                    "version": int(version),
                    "id": schema_id,
                    **self._schemas[schema_id - 1],
                }
            case ["schemas", "ids", number]:
                return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
        return 404, {"error_code": 40401, "message": "Subject not found"}


@contextmanager
def _started(command: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with subprocess.Popen([command, "--port", str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready"), "the registry did not start"
            yield Server(f"http://127.0.0.1:{port}/apis/ccompat/v7")
        finally:
            process.terminate()

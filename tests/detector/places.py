"""Kinds of places that a store can be at: a folder, memory, and a server of the S3 protocol on this machine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec  # type: ignore[import-untyped]  # ships no types
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem  # type: ignore[import-untyped]  # ships no types

from detector.store import Store

KINDS = ("folder", "memory", "s3")


@dataclass(frozen=True)
class Place:
    """Where a store of the detector `machines` is, and a way around it. Names are relative to the detector's folder."""

    url: str

    @property
    def files(self) -> Any:
        return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[0]

    def store(self) -> Store:
        """Another one each time, as another process has."""
        return Store(self.url, "machines")

    def path(self, name: str) -> str:
        return f"{fsspec.core.url_to_fs(self.url)[1]}/machines/{name}"

    def read(self, name: str) -> bytes:
        return bytes(self.files.cat_file(self.path(name)))

    def write(self, name: str, content: bytes) -> None:
        self.files.pipe_file(self.path(name), content)

    def remove(self, name: str) -> None:
        self.files.rm_file(self.path(name))

    def names(self) -> list[str]:
        """All that lies there."""
        return [path.removeprefix(self.path("")) for path in self.files.find(self.path(""))]


@contextmanager
def s3_server() -> Iterator[None]:
    """A server that all clients in this process find, by the environment alone."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "offnominal")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "offnominal")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            yield
        finally:
            S3FileSystem.clear_instance_cache()
            server.stop()


def bucket() -> Place:
    """A bucket of its own on the server."""
    name = f"offnominal-{uuid.uuid4().hex[:12]}"
    S3FileSystem(use_listings_cache=False).mkdir(name)
    return Place(f"s3://{name}/store")

"""Trained versions and the pointer to the one that serves.

    <url>/<detector>/<version>/manifest.json, *.safetensors
    <url>/<detector>/champion.json              {"version": …, "history": […]}

A version exists once its manifest does, which is written last; the pointer is replaced in one step. So a reader never
meets half of anything, whoever writes at the same time.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec  # type: ignore[import-untyped]  # ships no types
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # as above

from detector.bundle import MANIFEST, Bundle, Manifest, read_manifest
from detector.errors import BundleError, SettingsError, StoreError

_CHAMPION = "champion.json"
_VERSION = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}")
_HISTORY = 100
_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
_LARGEST_JSON, _LARGEST_FILE = 8 << 20, 1 << 30
"""Bytes of a manifest or of the pointer, and of any other file of a version, beyond which it is not read."""


class Store:
    """The versions of one detector at an fsspec URL."""

    def __init__(self, url: str, detector: str) -> None:
        """Raises `SettingsError` for a URL with a password: it would stand in every message about the store."""
        if _PASSWORD.search(url):
            raise SettingsError("store.url holds a password. Expected it in the environment of the store's own client.")
        self.url = url
        with _translated(url):
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        if isinstance(self._files, LocalFileSystem):
            self.url = root  # messages say where a relative folder is
        self._root = f"{root.rstrip('/')}/{detector}"

    def save(self, bundle: Bundle) -> None:
        """Writes a version; it is not champion yet."""
        folder = self._folder(bundle.version)
        with _translated(self.url):
            self._files.makedirs(folder, exist_ok=True)
            for name, content in bundle.to_files().items():
                self._replace(f"{folder}/{name}", content)

    def load(self, version: str) -> Bundle:
        """Reads a version whole. Raises `BundleError` where it is damaged or missing."""
        manifest = self.manifest(version)
        folder = self._folder(version)
        with _translated(self.url):
            files = {name: self._read(f"{folder}/{name}", _LARGEST_FILE) for name in manifest.sha256}
            files[MANIFEST] = self._read(f"{folder}/{MANIFEST}", _LARGEST_JSON)
        bundle = Bundle.from_files({name: content for name, content in files.items() if content is not None})
        if bundle.version != version:
            raise BundleError(f"Folder '{version}' holds version {bundle.version}.")
        return bundle

    def manifest(self, version: str) -> Manifest:
        """What a version is, without loading it."""
        with _translated(self.url):
            content = self._read(f"{self._folder(version)}/{MANIFEST}", _LARGEST_JSON)
        if content is None:
            raise BundleError(
                f"Version '{version}' is not in the store {self.url}. It holds {self.versions() or 'none'}."
            )
        return read_manifest(content)

    def versions(self) -> list[str]:
        """All whole versions, oldest first."""
        with _translated(self.url):
            if not self._files.exists(self._root):
                return []
            names = sorted(path.rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False))
            return [
                name
                for name in names
                if _VERSION.fullmatch(name) and self._files.exists(f"{self._root}/{name}/{MANIFEST}")
            ]

    def champion(self) -> str | None:
        """The version that serves, or None while there is none."""
        return history[-1] if (history := self.history()) else None

    def history(self) -> list[str]:
        """Versions in the order in which they were made champion; the last one serves."""
        with _translated(self.url):
            content = self._read(f"{self._root}/{_CHAMPION}", _LARGEST_JSON)
        if content is None:
            return []
        try:
            data = json.loads(content)
            history = [*map(str, data["history"]), str(data["version"])]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{self._root}/{_CHAMPION} cannot be read: {error}") from error
        if strange := [version for version in history if not _VERSION.fullmatch(version)]:
            raise StoreError(f"{self._root}/{_CHAMPION} names {strange[0][:50]!r}, which is no version.")
        return history

    def promote(self, version: str) -> None:
        """Makes a whole version champion."""
        self.manifest(version)
        history = self.history()
        if not history or history[-1] != version:
            self._point([*history, version])

    def rollback(self) -> str:
        """Makes the champion's predecessor champion again and returns it."""
        history = self.history()
        if len(history) < 2:
            raise StoreError(f"Nothing to roll back to: the store {self.url} has had {len(history)} champion(s).")
        self.manifest(history[-2])
        self._point(history[:-1])
        return history[-2]

    def check_writable(self) -> None:
        """Writes and removes a file. Raises `StoreError` where that fails."""
        probe = f"{self._root}/.probe-{uuid.uuid4().hex}"
        with _translated(self.url):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)

    def _folder(self, version: str) -> str:
        if not _VERSION.fullmatch(version):
            raise BundleError(f"{version[:50]!r} is no version. Expected a name like 20260301T030000Z-4be1.")
        return f"{self._root}/{version}"

    def _point(self, history: list[str]) -> None:
        content = json.dumps({"version": history[-1], "history": history[-_HISTORY:-1]}).encode()
        with _translated(self.url):
            self._files.makedirs(self._root, exist_ok=True)
            self._replace(f"{self._root}/{_CHAMPION}", content)

    def _read(self, path: str, most: int) -> bytes | None:
        """Raises `StoreError` before it takes memory where the file has more bytes than that."""
        try:
            if (size := self._files.size(path)) > most:
                raise StoreError(f"'{path}' has {size:,} bytes. Expected at most {most:,}.")
            content: bytes = self._files.cat_file(path, end=size)
        except FileNotFoundError:
            return None
        return content

    def _replace(self, path: str, content: bytes) -> None:
        """Whole content or none: object stores put atomically, a folder needs a second name first."""
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(path, content)
            return
        beside = f"{path}.{uuid.uuid4().hex}.part"
        try:
            self._files.pipe_file(beside, content)
            self._files.mv(beside, path)
        except OSError:
            if self._files.exists(beside):
                self._files.rm_file(beside)
            raise


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ImportError, ValueError) as error:
        raise StoreError(f"Store '{url}' cannot be used: {error}") from error

"""Files at an fsspec URL, each of them whole or not there, and one writer at a time where that matters.

A folder has no such writes, so there a file is written under a second name first; object stores put whole objects. What
an object store's client raises is its own and mostly no `OSError`; here all of it becomes `StoreError`.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import fsspec  # type: ignore[import-untyped]  # ships no types
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # as above

from detector.errors import OffnominalError, SettingsError, StoreError

_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
_LOCK = ".writer"
_PART = ".part"
_PATIENCE_S, _PAUSE_S = 30.0, 0.1
"""A writer that holds the lock for longer than that has died; how often one that waits looks again (seconds)."""


class StoreFiles:
    """The files of one detector. Names are relative to its folder."""

    def __init__(self, url: str, detector: str) -> None:
        """Raises `SettingsError` for a URL with a password: it would stand in every message about the store."""
        if _PASSWORD.search(url):
            raise SettingsError("store.url holds a password. Expected it in the environment of the store's own client.")
        self.url = url
        with self._translated():
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._local = isinstance(self._files, LocalFileSystem)
        if self._local:
            self.url = root  # messages say where a relative folder is
        self.root = f"{root.rstrip('/')}/{detector}"

    def read(self, name: str, most: int) -> bytes | None:
        """None where there is no such file. Raises `StoreError` before it takes memory for one of more bytes."""
        path = f"{self.root}/{name}"
        with self._translated():
            try:
                while True:
                    if (size := self._files.size(path)) > most:
                        raise StoreError(f"'{path}' has {size:,} bytes. Expected at most {most:,}.")
                    content: bytes = self._files.cat_file(path, end=size)
                    if self._files.size(path) == size:  # else another one took its place, and may be cut
                        return content
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all, in place of what was there."""
        path = f"{self.root}/{name}"
        with self._translated():
            if not self._local:
                self._files.pipe_file(path, content)
                return
            beside = Path(f"{path}.{uuid.uuid4().hex}{_PART}")
            beside.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_through(beside, content)
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise

    def remove(self, name: str) -> None:
        """One file, where it is there."""
        with self._translated(), suppress(FileNotFoundError):
            self._files.rm_file(f"{self.root}/{name}")

    def remove_folder(self, name: str) -> None:
        """A folder and all in it, where it is there."""
        with self._translated(), suppress(FileNotFoundError):
            self._files.rm(f"{self.root}/{name}", recursive=True)

    def names(self, prefix: str = "") -> list[str]:
        """Sorted. Files that are being written are not among them."""
        return [name for name in self._all(prefix) if not name.endswith(_PART)]

    def age_s(self, name: str, now: datetime | None) -> float:
        """How long ago a file was written (seconds), by the clock of the store, which `alone` gives; 0 where the store
        does not tell, or the file is gone."""
        written = self._written(name)
        return 0.0 if now is None or written is None else (now - written).total_seconds()

    def remove_parts(self, now: datetime | None, older_s: float) -> None:
        """What writers left that died before a file was whole, longer ago than that (seconds)."""
        for name in self._all(""):
            if name.endswith(_PART) and self.age_s(name, now) > older_s:
                self.remove(name)

    @contextmanager
    def alone(self) -> Iterator[datetime | None]:
        """Holds off all others who ask for the same, on whatever machine; gives the time by the clock of the store.

        It is a file that only one can create. One that stays for `_PATIENCE_S` was left by a writer that died, and is
        taken away: so no clocks are compared. Where a store ignores the wish to create and not replace, nobody is held
        off.
        """
        mine = uuid.uuid4().hex.encode()
        seen, since = None, time.monotonic()
        while not self._create(_LOCK, mine):
            if (holder := self.read(_LOCK, len(mine))) != seen:
                seen, since = holder, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_S:
                self.remove(_LOCK)
            time.sleep(_PAUSE_S)
        try:
            yield self._written(_LOCK)
        finally:
            if self.read(_LOCK, len(mine)) == mine:
                self.remove(_LOCK)

    def _create(self, name: str, content: bytes) -> bool:
        """False where it is there already."""
        path = f"{self.root}/{name}"
        with self._translated():
            if self._local:
                Path(self.root).mkdir(parents=True, exist_ok=True)
            try:
                with self._files.open(path, "xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
            except OSError:  # S3 has another word for it where two create it in the same instant
                if not self._files.exists(path):
                    raise
                return False
        return True

    def _all(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        with self._translated(), suppress(FileNotFoundError):
            found = self._files.find(f"{self.root}/{folder}".rstrip("/"))
            names = sorted(path[len(self.root) + 1 :] for path in found)
            return [name for name in names if name.startswith(prefix)]
        return []

    def _written(self, name: str) -> datetime | None:
        with self._translated(), suppress(FileNotFoundError, NotImplementedError):
            written: datetime = self._files.modified(f"{self.root}/{name}")
            return written
        return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OffnominalError:
            raise
        except Exception as error:
            raise StoreError(f"Store '{self.url}' cannot be used: {error or type(error).__name__}") from error


def _write_through(path: Path, content: bytes) -> None:
    """Onto the disk itself: a name must never outlive a loss of power that its content does not."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

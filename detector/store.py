"""Trained versions and the pointer to the one that serves.

    <url>/<detector>/<version>/manifest.json, *.safetensors
    <url>/<detector>/champion.json              {"version": …, "history": […], "pinned": …}
    <url>/<detector>/<name>                     what those that train tell one another

A version exists once its manifest does, which is written last and removed first; the pointer is replaced in one step.
So a reader never meets half of anything, whoever writes at the same time. Who changes the pointer or a manifest by what
stands there does so alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

import structlog

from detector.bundle import MANIFEST, Bundle, Manifest, Trial, read_manifest
from detector.errors import BundleError, StoreError
from detector.store_files import StoreFiles

log = structlog.get_logger()

_CHAMPION = "champion.json"
_VERSION = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}")
_NAME = re.compile(rf"(?!{_CHAMPION})[a-z][\w.-]*(/\w[\w.-]*)*", re.ASCII)
_HISTORY = 100
_DEAD_S = 86_400.0
"""A version without a manifest for so long comes to nothing any more (seconds)."""
_LARGEST_JSON, _LARGEST_FILE = 8 << 20, 1 << 30
"""Bytes of a manifest or of the pointer, and of any other file of a version, beyond which it is not read."""


class _Pointer(NamedTuple):
    """Versions in the order in which they were made champion, the last one serves; and whether it is to stay."""

    history: Sequence[str] = ()
    pinned: bool = False

    @property
    def champion(self) -> str | None:
        return self.history[-1] if self.history else None


class Store:
    """The versions of one detector at an fsspec URL."""

    def __init__(self, url: str, detector: str) -> None:
        """Raises `SettingsError` for a URL with a password: it would stand in every message about the store."""
        self._files = StoreFiles(url, detector)
        self.url = self._files.url

    def save(self, bundle: Bundle) -> None:
        """Writes a version; it is not champion yet."""
        folder = _folder(bundle.version)
        for name, content in bundle.to_files().items():
            self._files.write(f"{folder}/{name}", content)

    def load(self, version: str) -> Bundle:
        """Reads a version whole. Raises `BundleError` where it is damaged or missing."""
        manifest = self.manifest(version)
        folder = _folder(version)
        files = {name: self._files.read(f"{folder}/{name}", _LARGEST_FILE) for name in manifest.sha256}
        files[MANIFEST] = self._files.read(f"{folder}/{MANIFEST}", _LARGEST_JSON)
        bundle = Bundle.from_files({name: content for name, content in files.items() if content is not None})
        if bundle.version != version:
            raise BundleError(f"Folder '{version}' holds version {bundle.version}.")
        return bundle

    def servable(self) -> Bundle | None:
        """The champion, or where it cannot be loaded the newest of those before it that can; None while there is none.

        Raises what the champion met with where none of them can be loaded.
        """
        trouble: BundleError | StoreError | None = None
        for version in dict.fromkeys(reversed(self.history())):
            try:
                bundle = self.load(version)
            except (BundleError, StoreError) as error:
                log.error("a version that was to serve cannot be loaded", version=version, error=str(error))
                trouble = trouble or error
                continue
            if trouble is not None:
                log.error("a predecessor of the champion is taken in its place", version=version)
            return bundle
        if trouble is not None:
            raise trouble
        return None

    def manifest(self, version: str) -> Manifest:
        """What a version is, without loading it."""
        content = self._files.read(f"{_folder(version)}/{MANIFEST}", _LARGEST_JSON)
        if content is None:
            raise BundleError(
                f"Version '{version}' is not in the store {self.url}. It holds {self.versions() or 'none'}."
            )
        return read_manifest(content)

    def versions(self) -> list[str]:
        """All whole versions, oldest first."""
        return _whole(self._files.names())

    def champion(self) -> str | None:
        """The version that serves, or None while there is none."""
        return self._pointer().champion

    def pinned(self) -> str | None:
        """The version that serves and is to stay, or None where it may be replaced by itself."""
        pointer = self._pointer()
        return pointer.champion if pointer.pinned else None

    def history(self) -> list[str]:
        """Versions in the order in which they were made champion; the last one serves."""
        return [*self._pointer().history]

    def promote(self, version: str, *, automatic: bool = False) -> None:
        """Makes a whole version champion. A person's word ends a pin; `automatic` raises `StoreError` before one."""
        with self._changing() as pointer:
            if automatic and pointer.pinned:
                raise StoreError(f"Version {version} is not promoted: {pointer.champion} is pinned.")
            self._serve(pointer, version, pinned=False)

    def pin(self, version: str) -> None:
        """Makes a whole version champion until a person says otherwise."""
        with self._changing() as pointer:
            self._serve(pointer, version, pinned=True)

    def unpin(self) -> str | None:
        """Lets the champion be replaced by itself again; returns the version that was pinned, if one was."""
        with self._changing() as pointer:
            if pointer.pinned:
                self._point(pointer._replace(pinned=False))
        return pointer.champion if pointer.pinned else None

    def rollback(self) -> str:
        """Makes the champion's predecessor champion again and returns it. A pin ends."""
        with self._changing() as pointer:
            serves = self._go_back(pointer)
        return serves

    def withdraw(self, version: str) -> str | None:
        """The rollback that no person asks for: it is done where that version still serves and is not pinned. Returns
        the version that serves then."""
        with self._changing() as pointer:
            ours = pointer.champion == version and not pointer.pinned
            serves = self._go_back(pointer) if ours else pointer.champion
        return serves

    def add_verdict(self, version: str, trial: Trial) -> None:
        """Writes into a version's manifest what a trial after its training found."""
        with self._files.alone():
            manifest = self.manifest(version)
            told = manifest.model_copy(update={"trials": [*manifest.trials, trial]})
            self._files.write(f"{_folder(version)}/{MANIFEST}", told.to_json())

    def prune(self, keep: int, spare: Collection[str] = ()) -> list[str]:
        """Deletes versions and returns them: all but the newest `keep`, what serves, its predecessor, and `spare`.

        What writers left that died is deleted too, a day later by the clock of the store.
        """
        with self._files.alone() as now:
            pointer, names = self._pointer(), self._files.names()
            versions = _whole(names)
            kept = {pointer.champion, _predecessor(pointer, versions), *spare}
            doomed = [version for version in versions[: max(len(versions) - keep, 0)] if version not in kept]
            for version in doomed:
                self._files.remove(f"{version}/{MANIFEST}")
        self._files.remove_parts(now, _DEAD_S)
        for version in (*doomed, *self._dead(names, now)):
            self._files.remove_folder(version)
        return doomed

    def read_json(self, name: str) -> bytes | None:
        """A file beside the versions, or None where there is none."""
        return self._files.read(_beside(name), _LARGEST_JSON)

    def write_json(self, name: str, content: bytes) -> None:
        """Puts a file beside the versions in one step, whatever was there."""
        self._files.write(_beside(name), content)

    def remove(self, name: str) -> None:
        """Removes a file beside the versions, where it is there."""
        self._files.remove(_beside(name))

    def names(self, prefix: str) -> list[str]:
        """Files beside the versions whose names begin so, sorted."""
        _beside(prefix.rstrip("/"))
        return self._files.names(prefix)

    def check_writable(self) -> None:
        """Writes and removes a file. Raises `StoreError` where that fails."""
        with self._files.alone():
            pass

    @contextmanager
    def _changing(self) -> Iterator[_Pointer]:
        """The pointer as it stays until it is replaced or left."""
        with self._files.alone():
            yield self._pointer()

    def _pointer(self) -> _Pointer:
        content = self._files.read(_CHAMPION, _LARGEST_JSON)
        if content is None:
            return _Pointer()
        path = f"{self._files.root}/{_CHAMPION}"
        try:
            data = json.loads(content)
            history = [*map(str, data["history"]), str(data["version"])]
            pinned = data.get("pinned", False) is True
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read: {error}. Remove it, and promote a version.") from error
        if strange := [version for version in history if not _VERSION.fullmatch(version)]:
            raise StoreError(f"{path} names {strange[0][:50]!r}, which is no version.")
        return _Pointer(history, pinned)

    def _point(self, pointer: _Pointer) -> None:
        *before, version = pointer.history[-_HISTORY:]
        content = {"version": version, "history": before, "pinned": pointer.pinned}
        self._files.write(_CHAMPION, json.dumps(content).encode())

    def _serve(self, pointer: _Pointer, version: str, *, pinned: bool) -> None:
        self.manifest(version)
        history = pointer.history if pointer.champion == version else [*pointer.history, version]
        if (wanted := _Pointer(history, pinned)) != pointer:
            self._point(wanted)

    def _go_back(self, pointer: _Pointer) -> str:
        before = _predecessor(pointer, self.versions())
        if before is None:
            raise StoreError(
                f"Nothing to roll back to: the store {self.url} holds no champion before {pointer.champion or 'any'}."
            )
        at = max(number for number, version in enumerate(pointer.history[:-1]) if version == before)
        self._point(_Pointer(pointer.history[: at + 1]))
        return before

    def _dead(self, names: Sequence[str], now: datetime | None) -> Iterator[str]:
        """Versions of writers that died before the manifest."""
        for version in sorted({name.partition("/")[0] for name in names} - {*_whole(names)}):
            files = [name for name in names if name.startswith(f"{version}/")]
            if _VERSION.fullmatch(version) and min(self._files.age_s(name, now) for name in files) > _DEAD_S:
                yield version


def _predecessor(pointer: _Pointer, versions: Collection[str]) -> str | None:
    """The last one before the champion that is still there."""
    before = (version for version in reversed(pointer.history[:-1]) if version in versions)
    return next((version for version in before if version != pointer.champion), None)


def _whole(names: Sequence[str]) -> list[str]:
    """The versions that have a manifest."""
    folders = (name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}"))
    return sorted(folder for folder in folders if _VERSION.fullmatch(folder))


def _folder(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{version[:50]!r} is no version. Expected a name like 20260301T030000Z-4be1.")
    return version


def _beside(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name[:50]!r} is no file beside the versions. Expected a name like requests/7.json.")
    return name

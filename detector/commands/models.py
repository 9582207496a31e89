"""`offnominal models`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from consumers.text import printable
from detector.bundle import Manifest
from detector.commands.terminal import print_json, shown
from detector.config import DetectorSettings
from detector.errors import BundleError
from detector.store import Store

State = Literal["serves, pinned", "serves", "served before", "refused", "on trial", "idle", "unreadable"]
_COLOURS = {"serves": "green", "refused": "red", "unreadable": "red", "on trial": "yellow"}


class Standing(NamedTuple):
    """What has become of a version, and what speaks against it."""

    version: str
    state: State
    manifest: Manifest | None
    """None where it cannot be read."""
    against: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        made = {"version": self.version} if self.manifest is None else json.loads(self.manifest.to_json())
        champion = self.state.startswith("serves")
        return {**made, "state": self.state, "champion": champion, "against": [*self.against]}


def list_versions(settings: DetectorSettings, *, as_json: bool) -> None:
    """Prints all versions of the detector, oldest first."""
    found = list(standings(_store(settings)))
    if as_json:
        print_json(json.dumps([standing.to_json() for standing in found]))
        return
    console = Console(highlight=False)
    if not found:
        console.print(f"The store holds no version of '{settings.name}'.")
        return
    names = Column("state", no_wrap=True), Column("version", no_wrap=True)
    table = Table(*names, "records", "models", "held-back rate", box=SIMPLE_HEAD)
    for standing in found:
        table.add_row(*_row(standing))
    console.print(table)
    for standing in found:
        for reason in standing.against:
            console.print(f"{standing.version}: {escape(printable(reason, 500))}", soft_wrap=True)


def standings(store: Store) -> Iterator[Standing]:
    """Every version as it stands, oldest first; one that cannot be read hides no other."""
    history, pinned = store.history(), store.pinned()
    for version in store.versions():
        try:
            manifest = store.manifest(version)
        except BundleError as error:
            yield Standing(version, "unreadable", None, [str(error)])
        else:
            against = _against(manifest)
            yield Standing(version, _state(manifest, history, pinned, refused=bool(against)), manifest, against)


def show_version(settings: DetectorSettings, version: str) -> None:
    """Prints a manifest."""
    print_json(_store(settings).manifest(version).to_json().decode())


def promote_version(settings: DetectorSettings, version: str) -> None:
    """Makes a version champion, if it loads and fits the settings."""
    store = _fitting(settings, version)
    pinned = store.pinned()
    store.promote(version)
    _tell(f"{version} serves now." + (f" {pinned} was pinned; nothing is pinned now." if pinned else ""))


def pin_version(settings: DetectorSettings, version: str) -> None:
    """Makes a version champion until a person says otherwise, if it loads and fits the settings."""
    _fitting(settings, version).pin(version)
    _tell(f"{version} serves now, and is pinned: no training or rollback of the daemon's replaces it.")


def unpin_version(settings: DetectorSettings) -> None:
    """Lets the champion be replaced by itself again."""
    version = _store(settings).unpin()
    _tell("No version was pinned." if version is None else f"{version} serves on, and is no longer pinned.")


def roll_back(settings: DetectorSettings) -> None:
    """Makes the previous champion serve again."""
    _tell(f"{_store(settings).rollback()} serves now.")


def prune_versions(settings: DetectorSettings, *, keep: int | None, as_json: bool) -> None:
    """Deletes old versions; those on trial stay."""
    store = _store(settings)
    on_trial = [standing.version for standing in standings(store) if standing.state == "on trial"]
    gone = store.prune(settings.store.keep if keep is None else keep, spare=on_trial)
    if as_json:
        print_json(json.dumps({"deleted": gone, "kept": store.versions()}))
        return
    for version in gone:
        _tell(f"{version} is deleted.")
    _tell(f"{len(gone)} deleted, {len(store.versions())} kept.")


def _tell(line: str) -> None:
    Console(highlight=False, soft_wrap=True).print(line)


def _store(settings: DetectorSettings) -> Store:
    return Store(settings.store.url, settings.name)


def _fitting(settings: DetectorSettings, version: str) -> Store:
    store = _store(settings)
    store.load(version).require_fit(settings)
    return store


def _against(manifest: Manifest) -> list[str]:
    """What training found against a version, and the last of the trials after it."""
    reasons = [] if manifest.verdict.sound else [f"training: {reason}" for reason in manifest.verdict.reasons]
    if manifest.trials and not (last := manifest.trials[-1]).passed:
        reasons += [f"{last.stage}: {reason}" for reason in last.reasons]
    return reasons


def _state(manifest: Manifest, history: Sequence[str], pinned: str | None, *, refused: bool) -> State:
    if history and manifest.version == history[-1]:
        return "serves, pinned" if pinned else "serves"
    if manifest.version in history:
        return "served before"
    if refused:
        return "refused"
    return "on trial" if manifest.trials and manifest.trials[-1].stage == "gate" else "idle"


def _row(standing: Standing) -> Iterator[str]:
    colour = _COLOURS.get(standing.state.partition(",")[0], "default")
    yield f"[{colour}]{standing.state}[/]"
    yield standing.version
    if (made := standing.manifest) is not None:
        yield f"{made.data.records:,}"
        yield ", ".join(shown(model.kind) for model in made.models)
        yield f"{made.verdict.realised_rate:.3g} of {made.verdict.promised_rate:g}"

"""`offnominal models`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from consumers.text import printable
from detector.commands.terminal import print_json, shown
from detector.config import DetectorSettings
from detector.standings import Standing, standings
from detector.store import Store

_COLOURS = {"serves": "green", "refused": "red", "unreadable": "red", "on trial": "yellow"}


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


def _row(standing: Standing) -> Iterator[str]:
    colour = _COLOURS.get(standing.state.partition(",")[0], "default")
    yield f"[{colour}]{standing.state}[/]"
    yield standing.version
    if (made := standing.manifest) is not None:
        yield f"{made.data.records:,}"
        yield ", ".join(shown(model.kind) for model in made.models)
        yield f"{made.verdict.realised_rate:.3g} of {made.verdict.promised_rate:g}"

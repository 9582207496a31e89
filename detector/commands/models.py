"""`offnominal models`."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Column, Table

from detector.commands.terminal import print_json
from detector.config import DetectorSettings
from detector.store import Store


def list_versions(settings: DetectorSettings, *, as_json: bool) -> None:
    """Prints all versions of the detector."""
    store = Store(settings.store.url, settings.name)
    champion = store.champion()
    manifests = [store.manifest(version) for version in store.versions()]
    if as_json:
        print_json(
            json.dumps([{**json.loads(m.model_dump_json()), "champion": m.version == champion} for m in manifests])
        )
        return
    table = Table(
        "", Column("version", no_wrap=True, min_width=21), "records", "models", "promised", "held-back rate", "sound"
    )
    for m in manifests:
        table.add_row(
            "●" if m.version == champion else "",
            m.version,
            f"{m.data.records:,}",
            ", ".join(model.kind for model in m.models),
            f"{m.verdict.promised_rate:g}",
            f"{m.verdict.realised_rate:.3g}",
            "yes" if m.verdict.sound else "no",
        )
    Console().print(table)


def show_version(settings: DetectorSettings, version: str) -> None:
    """Prints a manifest."""
    print_json(Store(settings.store.url, settings.name).manifest(version).model_dump_json(indent=2))


def promote_version(settings: DetectorSettings, version: str) -> None:
    """Makes a version champion, if it loads and fits the settings."""
    store = Store(settings.store.url, settings.name)
    store.load(version).require_fit(settings)
    store.promote(version)
    Console().print(f"{version} serves now.")


def roll_back(settings: DetectorSettings) -> None:
    """Makes the previous champion serve again."""
    Console().print(f"{Store(settings.store.url, settings.name).rollback()} serves now.")

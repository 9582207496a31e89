"""`offnominal inspect`."""

from __future__ import annotations

import time
from pathlib import Path

import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from consumers.text import printable
from detector.commands.backtest import over
from detector.commands.terminal import connect, print_json, progress_shown
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.inspection import InspectionFigures, inspect
from detector.store import Store
from detector.training_data import gather

log = structlog.get_logger()

_LONGEST = 500  # letters of a warning, in which names out of records may be


def inspect_version(
    settings: DetectorSettings, *, version: str | None, records: int | None, output: Path, as_json: bool
) -> None:
    """Writes a report of what a version, the champion where none is named, knows of the records that `training` names,
    or of the last so many of the topics; prints its figures."""
    store = Store(settings.store.url, settings.name)
    if (chosen := version or store.champion()) is None:
        raise SettingsError(f"The store {store.url} has no champion. Train first, or give --version.")
    bundle = store.load(chosen)
    bundle.require_fit(settings)
    asked = settings if records is None else over(settings, records=records)
    own = asked.model_copy(update={"features": list(bundle.encoder.features)})
    with progress_shown("inspect") as progress:
        columns = gather(own, connect(settings), now_ms=round(time.time() * 1000), progress=progress).columns
        found = inspect(bundle, columns, settings, progress=progress)
        from detector.inspecting.report import write_report  # brings matplotlib

        write_report(output, found)
    log.info("report written", path=str(output))
    if as_json:
        print_json(found.figures.model_dump_json())
    else:
        _show(found.figures)


def _show(figures: InspectionFigures) -> None:
    console = Console(highlight=False)
    told = ", ".join(f"{count:,} {stretch}" for stretch, count in figures.stretches.items())
    console.print(f"[bold]{figures.records:,}[/] records ({told}), version [bold]{escape(figures.version)}[/]")
    right = (Column(head, justify="right") for head in ("median", "in the tail", "features calibrated"))
    table = Table("model", "records", *right)
    for kind, model in figures.models.items():
        calibrated = sum(it.verdict == "calibrated" for it in model.features)
        for stretch, spread in model.likelihood.stretches.items():
            tail = "-" if spread.tail is None else f"{spread.tail:.1%}"
            of = f"{calibrated} of {len(model.features)}"
            table.add_row(kind, stretch, f"{spread.quartiles[1]:.4g} {model.likelihood.unit}", tail, of)
    console.print(table)
    for warning in figures.warnings:
        console.print(f"[yellow]![/] {escape(printable(warning, _LONGEST))}")

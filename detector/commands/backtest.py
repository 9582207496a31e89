"""`offnominal backtest`."""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from detector.backtest import Backtest, BacktestFigures, BudgetFigures, backtest, summary
from detector.commands.terminal import connect, print_json, progress_shown, shown
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.loading import parse
from detector.replay import replay
from models.base import Progress

log = structlog.get_logger()

_MOST_NAMED = 5
_LONGEST_NAME = 30


def print_backtest(
    settings: DetectorSettings,
    *,
    files: Sequence[str],
    records: int | None,
    since: str | None,
    budgets: Sequence[str],
    version: str | None,
    train_share: float | None,
    ray: int | None,
    as_json: bool,
    report: Path | None,
) -> None:
    """Judges records of the past and prints what would have fired; writes a report of it where one is asked for. With
    `ray`, as so many partitions on the workers of a cluster."""
    if version is not None and train_share is not None:
        raise SettingsError(f"--version {version} and --train-share {train_share:g} exclude one another: give one.")
    if ray is not None and train_share is not None:
        raise SettingsError(f"--ray {ray} judges by a version out of the store. Expected no --train-share.")
    past = over(settings, files=files, records=records, since=since)
    chosen = [under(past, budget) for budget in budgets] or [past]
    with progress_shown("backtest") as progress:
        if ray is None:
            found = _here(chosen, version, train_share, progress)
        else:
            found = _on_ray(chosen, ray, version, progress)
    if report is not None:
        from detector.backtest_report import write_report  # brings matplotlib

        write_report(report, found)
        log.info("report written", path=str(report))
    if as_json:
        print_json(found.figures.model_dump_json())
    else:
        _show(found.figures)


def _here(
    chosen: Sequence[DetectorSettings], version: str | None, train_share: float | None, progress: Progress
) -> Backtest:
    settings, *_ = chosen
    now = datetime.now(UTC)
    past = replay(settings, connect(settings), now=now, version=version, train_share=train_share, progress=progress)
    return backtest(chosen, past, progress=progress)


def _on_ray(chosen: Sequence[DetectorSettings], partitions: int, version: str | None, progress: Progress) -> Backtest:
    try:
        from detector.backtest_on_ray import backtest_on_ray
    except ModuleNotFoundError as error:
        raise SettingsError(f"--ray: {error.msg}. Expected the extra `ray`: pip install 'offnominal[ray]'.") from error
    return backtest_on_ray(chosen, partitions, version=version, progress=progress)


def over(
    settings: DetectorSettings, *, files: Sequence[str] = (), records: int | None = None, since: str | None = None
) -> DetectorSettings:
    """The settings with these records for those to train on: of files, or the last ones of the topics. Where nothing is
    given, as many of the topics as training takes."""
    asked = {"files": list(files) or None, "records": records, "window": since}
    given = {key: value for key, value in asked.items() if value is not None}
    return _changed(settings, "training", given, without=asked if given else {"files"}, origin="--files/records/since")


def under(settings: DetectorSettings, budget: str) -> DetectorSettings:
    """The settings with another budget, `3/day` or a rate."""
    asked = {"false_alarms" if "/" in budget else "rate": budget}
    return _changed(settings, "alerts", asked, without={"false_alarms", "rate"}, origin=f"--budget {budget}")


def _changed(
    settings: DetectorSettings, group: str, values: dict[str, Any], *, without: Container[str], origin: str
) -> DetectorSettings:
    data = settings.model_dump(exclude_unset=True)
    kept = {key: value for key, value in data.get(group, {}).items() if key not in without}
    return parse({**data, group: {**kept, **values}}, origin)


def _show(figures: BacktestFigures) -> None:
    console = Console(highlight=False)
    made = "trained here on the records before them" if figures.trained_here else "out of the store"
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in figures.dead_letters.items()) or "none"
    console.print(
        f"[bold]{figures.records:,}[/] records from {figures.first:%Y-%m-%d %H:%M} to {figures.last:%Y-%m-%d %H:%M}, "
        f"{figures.days:.3g} days; dead letters: {escape(left_out)}\n"
        f"judged by version [bold]{escape(figures.version)}[/], {made}"
    )
    table = Table("budget", *(Column(escape(budget.budget), justify="right") for budget in figures.budgets))
    for label, texts in summary(figures):
        table.add_row(label, *texts)
    console.print(table)
    who = Table("budget", "most incidents", "most of the promised alarms")
    for budget in figures.budgets:
        most = ", ".join(f"{_short(it.entity)} {it.share:.0%}" for it in budget.entities[:_MOST_NAMED])
        who.add_row(escape(budget.budget), most, _ratios(budget))
    console.print(who)
    for warning in figures.warnings:
        console.print(f"[yellow]![/] {escape(warning)}")


def _ratios(budget: BudgetFigures) -> str:
    return ", ".join(f"{_short(it.segment)} {it.ratio:.2g}×" for it in budget.by_segment[:_MOST_NAMED])


def _short(name: str) -> str:
    return shown(name[:_LONGEST_NAME] or "-")

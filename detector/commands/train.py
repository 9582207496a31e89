"""`offnominal train`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import structlog
from rich.console import Console
from rich.markup import escape

from detector.bundle import Bundle
from detector.challenger import challenger
from detector.commands.terminal import connect, print_json, progress_shown
from detector.config import DetectorSettings
from detector.errors import SettingsError, TrainingError
from detector.store import Store
from detector.training import train
from detector.training_data import gather
from detector.trainings import EXIT_CODES
from models.base import Progress
from models.distributed import help_to_fit, leading, started
from models.ranks import RankLost

log = structlog.get_logger()


def train_version(settings: DetectorSettings, *, as_json: bool) -> int:
    """Trains, saves, and promotes if sound, with the help of other processes where `torchrun` started some; the exit
    code says which."""
    try:
        ranks = started()
    except ValueError as error:
        raise SettingsError(str(error)) from error
    try:
        with leading(ranks):
            return _train_version(settings, as_json=as_json)
    except RankLost as error:
        raise TrainingError(f"{error}. What it says of that stands above or in its own log.") from error


def help_training() -> int:
    """Goes through the fits of the process that `torchrun` numbered 0, and says nothing: that one tells."""
    try:
        help_to_fit()
    except RankLost:
        return 1
    return 0


def _train_version(settings: DetectorSettings, *, as_json: bool) -> int:
    store = Store(settings.store.url, settings.name)
    store.check_writable()
    started = datetime.now(UTC)
    with progress_shown("training") as progress:
        bundle = _trained(settings, store, started, progress)
    store.save(bundle)
    manifest = bundle.manifest
    for warning in manifest.verdict.warnings:
        log.warning(warning)
    if manifest.verdict.sound:
        store.promote(bundle.version)
    if as_json:
        print_json(manifest.model_dump_json(include={"version", "verdict", "data", "models"}))
    elif sys.stderr.isatty():
        summary = Console(stderr=True)
        summary.print(
            f"{escape(settings.name)} {bundle.version}: {manifest.data.fitted:,} records fitted, "
            f"{manifest.data.calibrated:,} calibrated, left out {manifest.data.dropped or 'none'}"
        )
        for model in manifest.models:
            summary.print(f"  {model.kind}: {model.valid_score:.2f} nats a record on held-back records {model.details}")
    if not manifest.verdict.sound:
        log.error("not sound, not promoted", version=bundle.version, reasons=manifest.verdict.reasons)
        return EXIT_CODES["refused"]
    log.info("promoted", version=bundle.version, realised_rate=manifest.verdict.realised_rate)
    return 0


def _trained(settings: DetectorSettings, store: Store, started: datetime, progress: Progress) -> Bundle:
    """The first version as the daemon would train it; where there is one, whoever trains by hand has the last word:
    what a retraining would refuse is taken as it is."""
    broker = connect(settings)
    if store.champion() is None:
        return challenger(settings, broker, store, created=started, progress=progress)[0].bundle
    data = gather(settings, broker, now_ms=round(started.timestamp() * 1000), progress=progress)
    return train(data, settings, created=started, progress=progress)

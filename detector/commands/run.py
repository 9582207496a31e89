"""`offnominal run`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import structlog

from consumers.stream import Window
from detector.commands.terminal import connect, print_alert, stopped_by_signals
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.errors import TrainingError
from detector.pipeline import Pipeline
from detector.sd_notify import notifying
from detector.store import Store
from detector.trainer import training_command
from detector.web.server import dashboard

log = structlog.get_logger()


def run_daemon(settings: DetectorSettings, config: Path) -> None:
    """Runs the daemon until a signal ends it; trainings read the settings file again."""
    daemon = Daemon(
        settings,
        connect(settings),
        training_command=training_command(config),
    )
    web = dashboard(settings, daemon, connect)
    with stopped_by_signals(daemon.stop), notifying(daemon.health), web as address:
        log.info("starting", detector=settings.name, web=address, topics=settings.stream.topics)
        daemon.run()
        log.info("stopped")


def print_alerts_of_a_dry_run(settings: DetectorSettings) -> None:
    """Scores what comes without joining the group, and prints what would be published."""
    store = Store(settings.store.url, settings.name)
    if (champion := store.champion()) is None:
        raise TrainingError(f"The store {store.url} holds no version of '{settings.name}'. Run `offnominal train`.")
    bundle = store.load(champion)
    bundle.require_fit(settings)
    broker = connect(settings)
    pipeline = Pipeline(settings, bundle, partitions=sum(broker.partitions(settings.stream.topics).values()))
    window = Window() if settings.kafka.start == "earliest" else Window(records=0)
    stopping = threading.Event()
    with stopped_by_signals(stopping.set):
        for batch in broker.read(settings.stream.topics, window, follow=True):
            outcome = pipeline.process(batch)
            for alert in outcome.alerts:
                print_alert(alert, as_json=not sys.stdout.isatty())
            if outcome.refused:
                log.warning("the daemon would stop here", reason=outcome.refused)
            for letter in outcome.dead_letters:
                partition, offset = batch.source(letter.row)
                log.warning("dead letter", source=f"{partition}@{offset}", reason=letter.reason, error=letter.error)
            if stopping.is_set():
                return

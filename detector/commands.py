"""What the commands of the command line do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as ProgressBar
from rich.table import Table

from consumers.kafka_python import KafkaPythonBroker
from consumers.stream import Broker, Window
from detector import logs
from detector.alerts import Alert
from detector.config import DetectorSettings
from detector.errors import TrainingError
from detector.lifecycle import UNSOUND
from detector.loading import load
from detector.store import Store
from models.base import Progress

log = structlog.get_logger()

SHUTDOWN_S = 25.0
"""From SIGTERM to the end, at the latest (seconds); what is not published by then comes again."""

SEVERITY_COLOURS = {"minor": "yellow", "major": "dark_orange", "critical": "red"}


def connect(settings: DetectorSettings) -> Broker:
    """The broker of these settings."""
    return KafkaPythonBroker(settings.kafka, group=settings.group, client_id=f"offnominal-{settings.name}")


def train_version(config: Path, *, as_json: bool) -> int:
    """Trains, saves, and promotes if sound; the exit code says which."""
    from detector.training import train
    from detector.training_data import gather

    logs.configure()
    settings = load(config)
    store = Store(settings.store.url, settings.name)
    store.check_writable()
    started = datetime.now(UTC)
    try:
        with progress_shown() as progress:
            data = gather(settings, connect(settings), now_ms=round(started.timestamp() * 1000), progress=progress)
            bundle = train(data, settings, created=started, progress=progress)
    except TrainingError as error:
        log.error("training failed", error=str(error))
        raise
    store.save(bundle)
    manifest = bundle.manifest
    if manifest.verdict.sound:
        store.promote(bundle.version)
    if as_json:
        print_json(manifest.model_dump_json(include={"version", "verdict", "data", "models"}))
    else:
        summary = Console(stderr=True)
        summary.print(
            f"{escape(settings.name)} {bundle.version}: {manifest.data.fitted:,} records fitted, "
            f"{manifest.data.calibrated:,} calibrated, {manifest.data.dropped:,} unusable"
        )
        for model in manifest.models:
            summary.print(f"  {model.kind}: {model.valid_score:.2f} nats a record on held-back records {model.details}")
    if not manifest.verdict.sound:
        log.error("not sound, not promoted", version=bundle.version, reasons=manifest.verdict.reasons)
        return UNSOUND
    log.info("promoted", version=bundle.version, realised_rate=manifest.verdict.realised_rate)
    return 0


def run_daemon(config: Path, *, dry_run: bool) -> None:
    """Runs the daemon until a signal ends it."""
    from detector.daemon import Daemon
    from detector.web.server import application, serving

    logs.configure()
    settings = load(config)
    if dry_run:
        print_alerts_of_a_dry_run(settings)
        return
    daemon = Daemon(
        settings,
        connect(settings),
        training_command=[sys.executable, "-m", "detector", "train", "--config", str(config)],
    )
    web = (
        serving(application(daemon.health, daemon.metrics.registry), settings.web)
        if settings.web.enabled
        else nullcontext(None)
    )
    with stopped_by_signals(daemon.stop), web as address:
        log.info("starting", detector=settings.name, web=address, topics=settings.stream.topics)
        daemon.run()


def print_alerts_of_a_dry_run(settings: DetectorSettings) -> None:
    """Scores what comes without joining the group, and prints what would be published."""
    from detector.pipeline import Pipeline

    store = Store(settings.store.url, settings.name)
    if (champion := store.champion()) is None:
        raise TrainingError(
            f"The store {settings.store.url} holds no version of '{settings.name}'. Run `offnominal train`."
        )
    pipeline = Pipeline(settings, store.load(champion))
    window = Window() if settings.kafka.start == "earliest" else Window(records=0)
    stopping = threading.Event()
    with stopped_by_signals(stopping.set):
        for batch in connect(settings).read(settings.stream.topics, window, follow=True):
            outcome = pipeline.process(batch)
            for alert in outcome.alerts:
                print_alert(alert, as_json=not sys.stdout.isatty())
            for letter in outcome.dead_letters:
                partition, offset = batch.source(letter.row)
                log.warning("dead letter", source=f"{partition}@{offset}", reason=letter.reason, error=letter.error)
            if stopping.is_set():
                return


def follow_alerts(config: Path, *, as_json: bool, last: int, follow: bool) -> None:
    """Prints alerts as they come."""
    logs.configure()
    settings = load(config)
    stopping = threading.Event()
    with stopped_by_signals(stopping.set):
        for batch in connect(settings).read([settings.alerts.topic], Window(records=last), follow=follow):
            for row, value in enumerate(batch.values):
                try:
                    alert = Alert.model_validate_json(value or b"")
                except ValidationError:
                    log.warning("not an alert", source=f"{batch.source(row)[0]}@{batch.source(row)[1]}")
                    continue
                print_alert(alert, as_json=as_json)
            if stopping.is_set():
                return


def list_versions(config: Path, *, as_json: bool) -> None:
    """Prints all versions of the detector."""
    settings = load(config)
    store = Store(settings.store.url, settings.name)
    champion = store.champion()
    manifests = [store.manifest(version) for version in store.versions()]
    if as_json:
        print_json(
            json.dumps([{**json.loads(m.model_dump_json()), "champion": m.version == champion} for m in manifests])
        )
        return
    table = Table("", "version", "records", "models", "promised", "held-back rate", "sound")
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


def show_version(config: Path, version: str) -> None:
    """Prints a manifest."""
    settings = load(config)
    print_json(Store(settings.store.url, settings.name).manifest(version).model_dump_json(indent=2))


def promote_version(config: Path, version: str) -> None:
    """Makes a version champion; loading it first shows that it can be."""
    settings = load(config)
    store = Store(settings.store.url, settings.name)
    store.load(version)
    store.promote(version)
    Console().print(f"{version} serves now.")


def roll_back(config: Path) -> None:
    """Makes the previous champion serve again."""
    settings = load(config)
    Console().print(f"{Store(settings.store.url, settings.name).rollback()} serves now.")


def print_alert(alert: Alert, *, as_json: bool) -> None:
    """One alert on standard output. What comes out of records is shown as text, whatever it holds."""
    if as_json:
        print_json(alert.model_dump_json())
        return
    console = Console(highlight=False, soft_wrap=True)
    colour = "green" if alert.kind == "resolved" else SEVERITY_COLOURS[alert.severity]
    console.print(
        f"{alert.time:%Y-%m-%d %H:%M:%S} [{colour}]{alert.kind:8} {alert.severity:8}[/] {shown(alert.entity or '-')} "
        f"p {alert.p_value:.1e} (level {alert.level:g}) [dim]{alert.incident[:8]}[/]"
    )
    for reason in alert.reasons:
        console.print(
            f"    {reason.share:4.0%} {shown(reason.feature)} {shown(reason.observed)} "
            f"[dim]expected {shown(reason.expected)}[/]"
        )


def shown(value: object) -> str:
    """A value out of a record for a terminal: numbers short, control characters and markup harmless."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str("missing" if value is None else value)
    return escape("".join(letter if letter.isprintable() else "�" for letter in text[:80]))


def print_json(text: str) -> None:
    """A line of JSON on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def progress_shown() -> Iterator[Progress]:
    """A bar on a terminal, log lines elsewhere, at most one a tenth."""
    if sys.stderr.isatty():
        with ProgressBar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=1.0)
            yield lambda fraction, message: bar.update(task, completed=fraction, description=message)
        return
    told = -1

    def tell(fraction: float, message: str) -> None:
        nonlocal told
        if int(10 * fraction) != told:
            told = int(10 * fraction)
            log.info("training", done=round(fraction, 2), at=message)

    yield tell


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on SIGTERM and SIGINT. Ends the process, with exit code 0, when it has not ended by the deadline."""

    deadline = threading.Timer(SHUTDOWN_S, os._exit, (0,))
    deadline.daemon = True

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop()
        if not deadline.is_alive():
            deadline.start()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        deadline.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)

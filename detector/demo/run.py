"""The demo from start to end: broker, first half, training, daemon, second half live, report."""

from __future__ import annotations

import json
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live

from consumers import clients
from consumers.batch import Message
from consumers.embedded import embedded_broker
from consumers.producer import Producer
from consumers.stream import Broker
from detector import logs
from detector.commands.terminal import connect, print_json, progress_shown, stopped_by_signals
from detector.config import DetectorSettings
from detector.config_service import WebSettings
from detector.daemon import Daemon
from detector.demo.recording import MACHINE, Recording, load_recording
from detector.demo.report import write_report
from detector.demo.tally import Tally
from detector.demo.view import render
from detector.errors import OffnominalError, SettingsError
from detector.loading import load
from detector.store import Store
from detector.trainer import training_command
from detector.training import train
from detector.training_data import gather
from detector.web.server import dashboard

FALSE_ALARMS_A_DAY = 12
"""The budget of the demo: of one record a minute, rather less than one in a hundred."""
TICK_S = 0.1
"""How often records are sent and the view is drawn (seconds)."""
GRACE_S = 60.0
"""How long the daemon may take to catch up after the last record was sent (seconds)."""


def demonstrate(*, seconds: float, as_json: bool, bootstrap: str | None, report: Path) -> None:
    """Runs the demo; prints a live view and a summary, or with `as_json` one JSON object last."""
    logs.configure("warning")
    started = time.monotonic()
    console = Console(stderr=True, quiet=as_json)
    recording = load_recording()
    stopping = threading.Event()
    place = nullcontext(bootstrap) if bootstrap else embedded_broker()
    with stopped_by_signals(stopping.set), tempfile.TemporaryDirectory(prefix="offnominal-") as folder:
        console.print("Starting a local broker …" if bootstrap is None else f"Using the broker at {bootstrap} …")
        with place as address:
            config = write_settings(Path(folder), address, recording)
            tally = Tally(recording)
            with playing(config, recording, tally, seconds=seconds, stopping=stopping, console=console) as web:
                summary = summarise(tally, time.monotonic() - started)
                write_report(report, tally, load(config), summary)
                if as_json:
                    print_json(json.dumps(summary))
                    return
                _tell(Console(), summary, report)
                if console.is_terminal and not stopping.is_set():
                    console.print(f"\nThe dashboard goes on: [bold]{web}[/]\nCtrl-C ends it.", soft_wrap=True)
                    stopping.wait()


def write_settings(folder: Path, bootstrap: str, recording: Recording) -> Path:
    """The settings file of the demo, as a user would write it; whoever has its token may act on the dashboard."""
    config = folder / "offnominal.yaml"
    settings = yaml.safe_dump(
        {
            "name": MACHINE,
            "kafka": {"bootstrap": bootstrap},
            "stream": {"topics": ["server-telemetry"], "entity": "machine", "timestamp": "time"},
            "features": list(recording.metrics),
            "training": {"records": recording.half},
            "alerts": {"topic": "server-alerts", "false_alarms": f"{FALSE_ALARMS_A_DAY}/day", "quiet_for": "10m"},
            "store": {"url": str(folder / "store"), "poll": "2s"},
            "web": {"port": _free_port(), "token": secrets.token_urlsafe(16)},
        },
        sort_keys=False,
    )
    config.touch(mode=0o600)
    config.write_text(settings, encoding="utf-8")
    return config


@contextmanager
def playing(
    config: Path,
    recording: Recording,
    tally: Tally,
    *,
    seconds: float,
    stopping: threading.Event,
    console: Console,
) -> Iterator[str]:
    """Sends the first half, trains on it, then has a daemon score the second half as it is sent. The daemon, and its
    dashboard at the address that is given, work on while the context lasts."""
    settings = load(config)
    broker = clients.broker(settings.kafka, group=settings.group, client_id="offnominal-demo")
    topic = settings.stream.topics[0]
    if there := broker.partitions([topic, settings.alerts.topic]):
        raise SettingsError(
            f"Topic {', '.join(there)} is on {settings.kafka.bootstrap} already: the demo wants to make it."
        )
    broker.create_topics({topic: 1})
    with Producer(settings.kafka, client_id="offnominal-demo") as producer:
        console.print(f"Sending {recording.half:,} records of normal operation to topic {topic} …")
        send = _sender(producer, topic, recording)
        send(0, recording.half)
        producer.flush()
        console.print("Training on the topic …")
        with (
            progress_shown("training") if not console.quiet else nullcontext(lambda fraction, message: None) as progress
        ):
            started = datetime.now(UTC)
            data = gather(settings, broker, now_ms=round(started.timestamp() * 1000), progress=progress)
            bundle = train(data, settings, created=started, progress=progress)
        store = Store(settings.store.url, settings.name)
        store.save(bundle)
        store.promote(bundle.version)
        tally.models = "+".join(bundle.models)
        total = len(recording.values) - recording.half
        with _working(settings, config, broker, tally) as (ended, address):
            console.print(f"Dashboard: [bold]{address}[/]", soft_wrap=True)
            pace = total / seconds
            with _live(console, tally, settings, total):
                _stream(send, recording, tally, pace, stopping, ended)
            yield address


def summarise(tally: Tally, seconds: float) -> dict[str, Any]:
    """The demo in figures.

    `realised_rate` is the share of scored records outside labelled events that raised an alarm, `false_alarms_per_day`
    how many incidents opened there in a day of the recording.
    """
    intervals = tally.intervals()
    return {
        "records": tally.records,
        "scored": tally.scored,
        "dead_letters": tally.dead_letters,
        "incidents": len(intervals),
        "events": len(tally.events()),
        "events_found": len(tally.events_found(intervals)),
        "promised_per_day": FALSE_ALARMS_A_DAY,
        "false_alarms_per_day": round(tally.false_alarms_per_day(), 2),
        "promised_rate": round(tally.promised_rate(), 5),
        "realised_rate": round(tally.realised_rate(), 5),
        "model": tally.models,
        "version": tally.version,
        "seconds": round(seconds, 1),
    }


def _sender(producer: Producer, topic: str, recording: Recording) -> Callable[[int, int], None]:
    def send(start: int, stop: int) -> None:
        for value in recording.records(start, stop):
            producer.send(Message(topic, MACHINE.encode(), value))

    return send


@contextmanager
def _working(
    settings: DetectorSettings, config: Path, broker: Broker, tally: Tally
) -> Iterator[tuple[Future[None], str]]:
    """A daemon in a thread for as long as the context lasts, and the address of its dashboard, with the token; what it
    dies of is raised at the end of it."""
    daemon = Daemon(settings, broker, training_command=training_command(config), observers=[tally.observe])
    token = settings.web.token.get_secret_value() if settings.web.token else ""
    with (
        dashboard(settings, daemon, connect) as web,
        ThreadPoolExecutor(1, thread_name_prefix="daemon") as executor,
    ):
        ended = executor.submit(daemon.run)
        try:
            yield ended, f"{web}/#token={token}"
        finally:
            daemon.stop()
        ended.result()


@contextmanager
def _live(console: Console, tally: Tally, settings: DetectorSettings, total: int) -> Iterator[None]:
    if not console.is_terminal or console.quiet:
        yield
        return
    with Live(
        get_renderable=lambda: render(tally, settings, total, console.width),
        console=console,
        refresh_per_second=1 / TICK_S,
        transient=True,
    ):
        yield


def _stream(
    send: Callable[[int, int], None],
    recording: Recording,
    tally: Tally,
    pace: float,
    stopping: threading.Event,
    ended: Future[None],
) -> None:
    """Sends the second half at `pace` records a second, then waits until all of it has an outcome."""
    started, sent, last = time.monotonic(), recording.half, len(recording.values)
    deadline = started + (last - sent) / pace + GRACE_S
    while not ended.done() and not stopping.wait(TICK_S) and tally.records < last - recording.half:
        due = min(last, recording.half + int(pace * (time.monotonic() - started)))
        if due > sent:
            send(sent, due)
            sent = due
        if time.monotonic() > deadline:
            raise OffnominalError(
                f"{tally.records:,} of {last - recording.half:,} records scored in time. Is the broker slow?"
            )


def _free_port() -> int:
    """The port of the settings' default, or any where that is taken."""
    wanted = WebSettings().port
    try:
        socket.create_server((WebSettings().host, wanted)).close()
    except OSError:
        return 0
    return wanted


def _tell(console: Console, summary: dict[str, Any], report: Path) -> None:
    console.print(
        f"\n[bold]{summary['scored']:,}[/] records scored by {summary['model']} in {summary['seconds']} s all in all, "
        f"{summary['dead_letters']} dead letters\n"
        f"[bold]{summary['events_found']} of {summary['events']}[/] labelled events found, "
        f"{summary['incidents']} incidents\n"
        f"false alarms promised [bold]{summary['promised_per_day']}[/] a day, "
        f"realised [bold]{summary['false_alarms_per_day']}[/]\n"
        f"Report: [bold]{report}[/]"
    )

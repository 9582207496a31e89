"""What commands share: the broker, signals, and showing things to a person or a script."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import structlog
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from consumers import clients
from consumers.stream import Broker
from consumers.text import printable
from detector.alerts import Alert
from detector.config import DetectorSettings

if TYPE_CHECKING:
    from models.base import Progress  # brings torch, which a command that only shows things can do without

log = structlog.get_logger()

SHUTDOWN_S = 25.0
"""From SIGTERM to the end, at the latest (seconds); what is not published by then comes again."""

SEVERITY_COLOURS = {"minor": "yellow", "major": "dark_orange", "critical": "red"}


def connect(settings: DetectorSettings) -> Broker:
    """The broker of these settings."""
    return clients.broker(
        settings.kafka,
        group=settings.group,
        client_id=f"offnominal-{settings.name}",
        max_bytes=settings.batch.max_bytes,
    )


def print_alert(alert: Alert, *, as_json: bool) -> None:
    """One alert on standard output. What comes out of records is shown as text, whatever it holds."""
    if as_json:
        print_json(alert.model_dump_json())
        return
    console = Console(highlight=False, soft_wrap=True)
    colour = "green" if alert.kind == "resolved" else SEVERITY_COLOURS[alert.severity]
    whom = shown(alert.entity or "-") + (f" ({alert.members} entities)" if alert.members else "")
    likely = "" if alert.p_value is None else f"p {alert.p_value:.1e} (level {alert.level:g}) "
    console.print(
        f"{alert.time:%Y-%m-%d %H:%M:%S} [{colour}]{alert.kind:8} {alert.severity:8}[/] {whom} "
        f"{likely}[dim]{alert.incident[:8]}[/]"
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
    return escape(printable(str("missing" if value is None else value), 80))


def _json_printable(letter: str) -> str:
    return letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]


def print_json(text: str) -> None:
    """JSON on standard output, at once. What JSON allows in a string but a terminal obeys is escaped."""
    sys.stdout.write("".join(map(_json_printable, text)) + "\n")
    sys.stdout.flush()


@contextmanager
def progress_shown(work: str) -> Iterator[Progress]:
    """How far some work is: a bar on a terminal, log lines elsewhere, at most one a tenth."""
    if sys.stderr.isatty():
        with ProgressBar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(work, total=1.0)
            yield lambda fraction, message: bar.update(task, completed=fraction, description=message)
        return
    told = -1

    def tell(fraction: float, message: str) -> None:
        nonlocal told
        if int(10 * fraction) != told:
            told = int(10 * fraction)
            log.info(work, done=round(fraction, 2), at=message)

    yield tell


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on SIGTERM and SIGINT. Ends the process, with exit code 0, when it has not ended by the deadline."""

    deadline = threading.Timer(SHUTDOWN_S, os._exit, (0,))
    deadline.daemon = True

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not deadline.is_alive():
            deadline.start()
        stop()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        deadline.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)

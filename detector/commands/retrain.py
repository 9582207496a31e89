"""`offnominal retrain`: ask the daemon for a training, or do it here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import structlog
from rich.console import Console
from rich.markup import escape

from consumers.errors import StreamError
from detector.commands.terminal import connect, print_json
from detector.config import DetectorSettings
from detector.errors import OffnominalError, TrainingError
from detector.lease import SETTLE_S, Lease
from detector.retraining import retrain
from detector.store import Store
from detector.trainer import attend
from detector.trainings import EXIT_CODES, Course, Report, Request, Trainings

log = structlog.get_logger()

FOLLOW_S = 1.0
"""How often a report is looked for (seconds)."""


def ask_for_training(settings: DetectorSettings, *, wait: bool, as_json: bool) -> int:
    """Leaves a request in the store for the daemon; with `wait` the exit code says how it ended."""
    trainings = Trainings(Store(settings.store.url, settings.name))
    request = trainings.ask(Request(reason="demand"))
    if wait:
        return _told(_followed(trainings, request), as_json=as_json)
    if as_json:
        print_json(request.model_dump_json())
    else:
        Console().print(
            f"Asked for training {request.id}. The daemon that reads partition 0 of "
            f"{escape(settings.stream.topics[0])} takes it within {settings.store.poll:g} s, unless one is under way."
        )
    return 0


def retrain_here(settings: DetectorSettings, *, as_json: bool) -> int:
    """Retrains in this process, for whom no daemon does; the exit code says how it ended."""
    store = Store(settings.store.url, settings.name)
    report = _trained(settings, store, Course(Request(reason="demand")), lambda line: None)
    Trainings(store).done(report)
    return _told(report, as_json=as_json)


def retrain_for_daemon(settings: DetectorSettings) -> int:
    """Retrains in this process, which a daemon started for that."""
    course = Course(attend(settings.training.max_memory))
    report = _trained(settings, Store(settings.store.url, settings.name), course, _say)
    _say(report.model_dump_json())
    return EXIT_CODES[report.outcome]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _trained(settings: DetectorSettings, store: Store, course: Course, say: Callable[[str], None]) -> Report:
    def phase(line: str) -> None:
        if course.hear(line) and line != "alive":
            log.info("training", at=line)
        say(line)

    lease = Lease(store)
    try:
        while not lease.take():
            phase("alive")
            time.sleep(SETTLE_S)
        with lease.kept():
            return retrain(settings, connect(settings), store, request=course.request, lease=lease, phase=phase)
    except (OffnominalError, StreamError, OSError, RuntimeError, MemoryError) as error:
        return course.cut_short("failed", f"{type(error).__name__}: {error}")


def _followed(trainings: Trainings, request: Request) -> Report:
    """The report of a request once there is one. Looks in the order in which a request goes from place to place."""
    told = ""
    while True:
        places = {"waiting": trainings.asked(), "under way": trainings.under_way()}
        if (report := trainings.report(request.id)) is not None:
            return report
        place = next((name for name, found in places.items() if found and found.id == request.id), None)
        if place is None:
            raise TrainingError(f"Training {request.id} was given up: another was asked for in its place.")
        if place != told:
            log.info(f"training {place}", request=request.id)
            told = place
        time.sleep(FOLLOW_S)


def _told(report: Report, *, as_json: bool) -> int:
    if as_json:
        print_json(report.model_dump_json())
    else:
        console = Console()
        console.print(f"{report.outcome}: version {report.version or 'none'}, asked for by {report.reason}")
        for reason in report.reasons:
            console.print(f"  {escape(reason)}")
        for name, value in report.figures.items():
            console.print(f"  [dim]{escape(name)}[/] {value:.4g}")
    return EXIT_CODES[report.outcome]

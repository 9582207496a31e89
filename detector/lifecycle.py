"""When a detector is retrained, by whom, and how another version takes over.

schedule, drift, people ──► a request in the store ──► the replica with the first partition takes it ──► a process of
its own trains, compares, promotes (`detector.retraining`) ──► every replica's watch on the store loads the champion
──► adopted between two batches
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import structlog
from croniter import croniter

from consumers.batch import RawBatch
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.config_training import TrainingSettings
from detector.errors import OffnominalError
from detector.pipeline import Outcome
from detector.store import Store
from detector.trainer import Trainer
from detector.trainings import Phase, Reason, Report, Request, Result, Room, Trainings

log = structlog.get_logger()


class Schedule:
    """A cron expression in a time zone, each fire time put off by a part of the jitter that all replicas of a detector
    agree on: it comes of the detector's name and the fire time. The time is passed in."""

    def __init__(self, settings: TrainingSettings, now: datetime, detector: str = "") -> None:
        self._expression = settings.schedule
        self._zone = ZoneInfo(settings.timezone)
        self._jitter_s = settings.jitter or 0.0
        self._detector = detector
        self.next = self._after(now)
        """The beginning to come; None without a schedule."""

    def due(self, now: datetime) -> datetime | None:
        """The beginning that has passed since the last call; those missed in the meantime count as one."""
        if (begins := self.next) is None or now < begins:
            return None
        self.next = self._after(now)
        return begins

    def interval_s(self, at: datetime) -> float | None:
        """The longest time between two trainings around `at` (seconds); None without a schedule.

        Of an uneven schedule, as of weekdays only, the next training may be farther away than the last one was.
        """
        if self._expression is None:
            return None
        times = croniter(self._expression, at.astimezone(self._zone))
        fires = [times.get_prev(), times.get_next(), times.get_next()]
        return max(later - earlier for earlier, later in pairwise(fires))

    def _after(self, now: datetime) -> datetime | None:
        """The first beginning after `now`: its fire time may have been before."""
        if self._expression is None:
            return None
        times = croniter(self._expression, (now - timedelta(seconds=self._jitter_s)).astimezone(self._zone))
        begins = now
        while begins <= now:
            fire: datetime = times.get_next(datetime)
            begins = fire.astimezone(UTC) + self._delay(fire)
        return begins

    def _delay(self, fire: datetime) -> timedelta:
        """In [0, jitter)."""
        drawn = hashlib.sha256(f"{self._detector} {fire.astimezone(UTC).isoformat()}".encode()).digest()
        return timedelta(seconds=self._jitter_s * int.from_bytes(drawn[:8]) / 2**64)


class Retraining:
    """Which trainings this replica asks for, and the one that it runs.

    The loop says what it owns and what came of batches, and never waits: all that goes to the store is done by `look`,
    in the thread that watches the store.
    """

    def __init__(
        self,
        settings: DetectorSettings,
        store: Room,
        command: Sequence[str],
        *,
        ended: Callable[[Result], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`command` runs a training, as `detector.trainer` says; without one this replica asks, and never trains.
        `ended` is told how one went, from any thread."""
        self._settings = settings.training
        self._command = command
        self._trainings = Trainings(store)
        self._trainer = Trainer(command, settings.training.timeout)
        self._schedule = Schedule(settings.training, clock(), settings.name)
        self._ended = ended
        self._clock = clock
        self._owns = False
        self._wanted: dict[Reason, Request] = {}
        self._unfiled: list[Report] = []
        self._told: tuple[str, Result] | None = None
        self._lock = threading.Lock()
        """Held while a process is started, asked or ended: none is started where the partition has gone."""

    @property
    def phase(self) -> Phase | None:
        """What the training of this replica is at."""
        return self._trainer.phase

    @property
    def next(self) -> datetime | None:
        """When the schedule asks for the next training; None without a schedule."""
        return self._schedule.next

    def interval_s(self, at: datetime) -> float | None:
        """The longest time between two trainings around `at` (seconds); None without a schedule."""
        return self._schedule.interval_s(at)

    def own(self, owns: bool) -> None:
        """Whether this replica has the first partition, and so trains. Where it has it no longer, a training ends at
        once: the next owner takes the request again."""
        with self._lock:
            self._owns = owns and bool(self._command)
            if not owns:
                self._poll()
                self._trainer.stop()

    def notice(self, _batch: RawBatch, outcome: Outcome) -> None:
        """Asks for a training where the level tells that normal is another now."""
        if self._settings.on_drift:
            for alert in outcome.alerts:
                if alert.kind in ("drift", "creep"):
                    self._want_for_drift(f"{alert.kind}, alert {alert.id}")

    def _want_for_drift(self, note: str) -> None:
        self._wanted.setdefault("drift", Request(reason="drift", asked=self._clock(), note=note))

    def adopted(self) -> None:
        """Another version serves: what drifted under the one before is no reason to train any longer."""
        self._wanted.pop("drift", None)

    def look(self) -> None:
        """Looks after the training that runs, asks for what is wanted, and takes what is asked for. Raises `StoreError`
        where the store cannot be used; nothing of it is lost."""
        with self._lock:
            self._poll()
        self._file()
        self._ask(self._clock())
        if self._owns:
            self._take()

    def stop(self) -> None:
        """Ends a running training. To be called when nobody looks any longer."""
        self.own(False)
        for trouble in _trouble(self._file):
            log.warning("a training's report is lost", error=trouble)

    def _poll(self) -> None:
        if (report := self._trainer.poll()) is not None:
            self._note(report)

    def _note(self, report: Report) -> None:
        """Told once, even where the report of a promotion is replaced by that of its watch."""
        if self._told != (report.id, report.outcome):
            self._told = report.id, report.outcome
            tell = log.info if report.outcome == "promoted" else log.warning
            tell("training result", outcome=report.outcome, version=report.version, reasons=report.reasons)
            self._ended(report.outcome)
        if report.reason == "drift" and report.outcome in ("refused", "failed", "timeout"):
            # The level tells of a change once, and at first there are too few records of what came after it.
            self._want_for_drift(f"again after {report.id}")
        self._unfiled.append(report)

    def _file(self) -> None:
        """Reports that cannot be filed yet are kept, and nothing is started meanwhile."""
        while self._unfiled:
            self._trainings.done(self._unfiled[0])
            del self._unfiled[0]

    def _ask(self, now: datetime) -> None:
        if (begins := self._schedule.due(now)) is not None:
            # The same id on every replica: whoever asks first has asked for all of them.
            self._wanted["schedule"] = Request(id=f"schedule-{begins:%Y%m%dT%H%M%SZ}", reason="schedule", asked=begins)
        for reason, request in list(self._wanted.items()):
            if reason != "drift" or not self._paused(now):
                asked = self._trainings.ask(request)
                log.info("training asked for", reason=reason, request=asked.id)
                self._wanted.pop(reason, None)

    def _paused(self, now: datetime) -> bool:
        last = self._trainings.last("drift")
        return last is not None and now - last < timedelta(seconds=self._settings.drift_pause)

    def _take(self) -> None:
        waiting = self._trainings.asked()
        if waiting is not None and self._trainer.watched:
            log.info("the watch over the last promotion makes way for another training", request=waiting.id)
            with self._lock:
                self._trainer.stop()
        if self._trainer.phase is None and (request := self._trainings.under_way() or waiting) is not None:
            self._trainings.take(request)
            self._start(request)

    def _start(self, request: Request) -> None:
        with self._lock:
            if not self._owns:
                return
            try:
                self._trainer.start(request)
                log.info("training starts", reason=request.reason, request=request.id)
            except OSError as error:
                self._note(Report.of(request, self._clock(), "failed", f"no process could be started: {error}"))


class Look(NamedTuple):
    """How the watch on the store fares: when a look last succeeded and when the next one is due (monotonic seconds),
    what the last one ran into, if anything, and how many have failed."""

    good_at: float
    next_at: float
    trouble: str = ""
    failed: int = 0


class ChampionWatch:
    """Looks at the store now and then, in a thread, and has the champion loaded before the loop asks for it.

    `look` says how that fares; it is replaced whole, so any thread may read it. `also` is called at each look, for what
    else is to be done there.
    """

    def __init__(
        self, store: Store, settings: DetectorSettings, serving: str, also: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._also = also
        self._settings = settings
        self._seen = serving
        now = time.monotonic()
        self.look = Look(good_at=now, next_at=now + settings.store.poll)
        self._found: Bundle | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion-watch", daemon=True)
        self._thread.start()

    def take(self) -> Bundle | None:
        """A champion that was loaded since the last call, or None."""
        with self._lock:
            found, self._found = self._found, None
        return found

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._settings.store.poll):
            before = self.look
            troubles = [*_trouble(self._look), *_trouble(self._also)]
            trouble = "; ".join(dict.fromkeys(troubles))
            if trouble and trouble != before.trouble:
                log.error("the store cannot be used as it should; the version in service stays", error=trouble)
            now = time.monotonic()
            self.look = Look(
                good_at=before.good_at if trouble else now,
                next_at=now + self._settings.store.poll,
                trouble=trouble,
                failed=before.failed + bool(trouble),
            )

    def _look(self) -> None:
        version = self._store.champion()
        if version is None or version == self._seen:
            return
        bundle = self._store.load(version)
        bundle.require_fit(self._settings)
        self._seen = version
        with self._lock:
            self._found = bundle


def _trouble(act: Callable[[], None]) -> list[str]:
    """What an act ran into, if anything."""
    try:
        act()
    except (OffnominalError, OSError, RuntimeError, MemoryError) as error:
        return [str(error)]
    return []

"""When a detector is retrained, and how another version takes over.

due ──► a process of its own trains ──► sound ──► promoted in the store ──► every replica's watch loads it ──► adopted
                                    └─► unsound, failed or too slow: the version in service stays
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import structlog
from croniter import croniter

from detector.bundle import Bundle
from detector.config import DetectorSettings, TrainingSettings
from detector.errors import OffnominalError
from detector.store import Store

log = structlog.get_logger()

UNSOUND = 3
"""Exit code of a training whose version is saved but not fit to serve."""


class Schedule:
    """A cron expression in a time zone. The time is passed in."""

    def __init__(self, settings: TrainingSettings, now: datetime) -> None:
        self._expression = settings.schedule
        self._zone = ZoneInfo(settings.timezone)
        self._next = self._after(now)

    def due(self, now: datetime) -> bool:
        """True once for each fire time that has passed; fire times missed in the meantime count as one."""
        if self._next is None or now < self._next:
            return False
        self._next = self._after(now)
        return True

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
        if self._expression is None:
            return None
        moment: datetime = croniter(self._expression, now.astimezone(self._zone)).get_next(datetime)
        return moment


Result = Literal["promoted", "unsound", "failed", "timeout"]


class Trainer:
    """Runs `command` in a process of its own, one at a time, and ends it when it takes too long. It logs for itself."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command = ["nice", "-n", "10", *command]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self, now: float) -> None:
        """Starts a training; `now` is in monotonic seconds. Raises `OSError` where no process can be started."""
        self._deadline = now + self._timeout_s
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def poll(self, now: float) -> Result | None:
        """How the training ended, once, after it has; None before."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None and now < self._deadline:
            return None
        self.stop()
        if code is None:
            return "timeout"
        return _RESULTS.get(code, "failed")

    def stop(self) -> None:
        """Ends a running training."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


_RESULTS: dict[int, Result] = {0: "promoted", UNSOUND: "unsound"}


class Look(NamedTuple):
    """How the watch on the store fares: when a look last succeeded and when the next one is due (monotonic seconds),
    what the last one ran into, if anything, and how many have failed."""

    good_at: float
    next_at: float
    trouble: str = ""
    failed: int = 0


class ChampionWatch:
    """Looks at the store now and then, in a thread, and has the champion loaded before the loop asks for it.

    `look` says how that fares; it is replaced whole, so any thread may read it.
    """

    def __init__(self, store: Store, settings: DetectorSettings, serving: str) -> None:
        self._store = store
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
            before, trouble = self.look, ""
            try:
                self._look()
            except (OffnominalError, OSError, RuntimeError, MemoryError) as error:
                trouble = str(error)
            if trouble and trouble != before.trouble:
                log.error("the champion in the store cannot be used; the version in service stays", error=trouble)
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

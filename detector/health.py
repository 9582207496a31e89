"""Whether the daemon is alive and whether it is of use, told truthfully.

Ready means that records are being scored: the loop turns, the broker answers, no partition stands still, and the lag
keeps within its limit. What does not hinder scoring yet, as a store that is not reached or a version grown old, makes
it degraded, not unready: another replica would fare no better.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from math import exp
from typing import Literal, NamedTuple

from consumers.batch import Partition, RawBatch
from detector.config_service import HealthSettings
from detector.lifecycle import Look
from detector.progress import Progress, Standing
from detector.trainings import Result

Phase = Literal["starting", "waiting", "training", "joining", "serving", "retrying", "stopping"]
CheckName = Literal["loop", "broker", "partitions", "lag", "store", "model", "dead letters"]

HINDERING = frozenset({"loop", "broker", "partitions", "lag"})
"""Checks without which records are not scored as they should be: the daemon is not ready. Others make it degraded."""
SPARE_S = 60.0
"""A member that its group gives no partition for so long is one more than there are partitions (seconds)."""
LATELY_RECORDS = 10_000
"""The share of dead letters is that of about so many records (the constant of an exponential mean)."""
MANY_DEAD_LETTERS = 0.1
"""A share of dead letters worth a look."""
MOST_NAMED = 5
"""Partitions that a check names."""


class Check(NamedTuple):
    """One thing looked at, and what was found in words."""

    name: CheckName
    ok: bool
    detail: str


class Report(NamedTuple):
    """Whether the loop turns; `detail` says what the daemon is at, or for how long it has hung."""

    ok: bool
    phase: Phase
    detail: str


class Readiness(NamedTuple):
    """Whether records are scored (`ok`), and whether anything is wrong at all (`degraded`).

    `detail` says what the first check found that failed, those that hinder before the others.
    """

    ok: bool
    phase: Phase
    detail: str
    degraded: bool
    checks: tuple[Check, ...]


class Figures(NamedTuple):
    """What there is to measure: records to read and seconds of standing still by partition, age of the version that
    serves (seconds; None before there is one), looks at the store that failed."""

    lag: Mapping[Partition, int]
    stalled_s: Mapping[Partition, float]
    model_age_s: float | None
    store_errors: int


class _Version(NamedTuple):
    name: str
    born: float
    limit_s: float | None


class Health:
    """Told by the daemon's loop, read by the web server. All times are seconds of `clock`, which never goes back."""

    def __init__(self, settings: HealthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._phase: Phase = "starting"
        self._detail = ""
        self._turned = self._entered = clock()
        self._trouble: tuple[str, float] | None = ("nothing has gone through yet", self._turned)
        self._progress = Progress()
        self._restoring: Collection[Partition] = ()
        self._dead_share = 0.0
        self._look: Look | None = None
        self._version: _Version | None = None
        self._last_training: Result | None = None

    def enter(self, phase: Phase, detail: str = "") -> None:
        """The daemon does something else now; `detail` says what for, or what hinders it."""
        with self._lock:
            self._turned = self._clock()
            self._enter(phase, detail)

    def follow(self, batch: RawBatch, dead_letters: int = 0, restoring: Collection[Partition] = ()) -> None:
        """A batch went through to the end: its outcome is published, so the broker answers.

        `dead_letters` counts those of its records that could not be scored; partitions in `restoring` are replayed.
        """
        with self._lock:
            self._turned = self._clock()
            self._progress.follow(batch, self._turned)
            self._restoring = restoring
            if len(batch):
                kept = exp(-len(batch) / LATELY_RECORDS)
                self._dead_share = kept * self._dead_share + (1 - kept) * dead_letters / len(batch)
            if self._progress.standings or self._turned - self._entered > SPARE_S:
                self._enter("serving")

    def looked(self, look: Look) -> None:
        """How the watch on the store fares."""
        with self._lock:
            self._look = look

    def serves(self, version: str, *, age_s: float, interval_s: float | None) -> None:
        """Another version serves, of that age now; `interval_s` is the time between scheduled trainings."""
        twice = 2 * interval_s if interval_s is not None else None
        with self._lock:
            self._version = _Version(version, self._clock() - max(0.0, age_s), self._settings.max_model_age or twice)

    def trained(self, result: Result) -> None:
        """A training of this replica ended."""
        with self._lock:
            self._last_training = result

    def alive(self) -> Report:
        """Not ok when the loop hangs and the watchdog ought to have ended the process: for the supervisor.

        Training in the process does not count as that: a fit may take long without a turn.
        """
        with self._lock:
            idle = self._clock() - self._turned
            hung = idle > self._settings.watchdog and self._phase != "training"
            return Report(not hung, self._phase, _no_turn(idle) if hung else self._detail)

    def ready(self) -> Readiness:
        """Ok while records are being scored, or would be if there were a partition to own."""
        with self._lock:
            checks = tuple(self._checks(self._clock()))
            phase, detail = self._phase, self._detail
        failed = [check for check in checks if not check.ok]
        hindered = [check for check in failed if check.name in HINDERING]
        worst = [*hindered, *failed]
        return Readiness(not hindered, phase, worst[0].detail if worst else detail, bool(failed), checks)

    def figures(self) -> Figures:
        """What there is to measure, as of now."""
        with self._lock:
            now = self._clock()
            standings = dict(self._progress.standings)
            version, look = self._version, self._look
        return Figures(
            lag={partition: standing.lag for partition, standing in standings.items()},
            stalled_s={partition: standing.still_for(now) for partition, standing in standings.items()},
            model_age_s=None if version is None else now - version.born,
            store_errors=0 if look is None else look.failed,
        )

    def _enter(self, phase: Phase, detail: str = "") -> None:
        self._entered = self._entered if phase == self._phase else self._turned
        self._phase, self._detail = phase, detail
        if phase == "retrying":
            self._trouble = (detail, self._trouble[1] if self._trouble else self._turned)
        elif phase == "joining":
            self._progress.rejoin()
        elif phase == "serving":
            self._trouble = None

    def _checks(self, now: float) -> Iterator[Check]:
        yield self._check_loop(now)
        yield self._check_broker(now)
        yield self._check_partitions(now)
        yield self._check_lag()
        yield self._check_store(now)
        yield self._check_model(now)
        many = self._dead_share > MANY_DEAD_LETTERS
        yield Check("dead letters", not many, f"{self._dead_share:.1%} of the records lately")

    def _check_loop(self, now: float) -> Check:
        idle = now - self._turned
        if idle > self._settings.stalled_after:
            return Check("loop", False, f"{_no_turn(idle)} ({self._phase})")
        if self._phase in ("joining", "serving", "retrying"):
            return Check("loop", True, f"turned {_span(idle)} ago")
        return Check("loop", False, f"{self._phase}: {self._detail}" if self._detail else self._phase)

    def _check_broker(self, now: float) -> Check:
        if self._trouble is None:
            return Check("broker", True, "answers")
        error, since = self._trouble
        return Check("broker", False, f"for {_span(now - since)}: {error}")

    def _check_partitions(self, now: float) -> Check:
        standings = self._progress.standings
        if not standings and self._phase != "serving":
            return Check("partitions", False, "no partition is assigned yet")
        if not standings:
            return Check("partitions", True, "none is owned: the group has more replicas than there are partitions")
        limit = self._settings.stalled_after
        if still := [item for item in standings.items() if item[1].still_for(now) >= limit]:
            return Check("partitions", False, _named([_stalled(*item, now) for item in sorted(still)]))
        under_way = [f"{it} at offset {standings[it].position}" for it in sorted(self._restoring) if it in standings]
        restored = f", being restored: {_named(under_way)}" if under_way else ""
        return Check("partitions", True, f"{len(standings)} owned{restored}")

    def _check_lag(self) -> Check:
        lag = sum(standing.lag for standing in self._progress.standings.values())
        limit = self._settings.max_lag
        allowed = "" if limit is None else f", at most {limit:,} are wanted"
        return Check("lag", limit is None or lag <= limit, f"{lag:,} records to read{allowed}")

    def _check_store(self, now: float) -> Check:
        look = self._look
        if look is None:
            return Check("store", True, "not watched yet")
        if look.trouble:
            return Check("store", False, f"last good look {_span(now - look.good_at)} ago: {look.trouble}")
        overdue = now - look.next_at > self._settings.stalled_after
        return Check("store", not overdue, f"last good look {_span(now - look.good_at)} ago")

    def _check_model(self, now: float) -> Check:
        version = self._version
        if version is None:
            return Check("model", False, "no version serves yet")
        age = now - version.born
        old = version.limit_s is not None and age > version.limit_s
        allowed = f", at most {_span(version.limit_s)} are wanted" if version.limit_s is not None else ""
        ended = f"; the last training: {self._last_training}" if self._last_training else ""
        return Check("model", not old, f"{version.name} is {_span(age)} old{allowed}{ended}")


def _no_turn(idle_s: float) -> str:
    return f"no turn of the loop for {_span(idle_s)}"


def _stalled(partition: Partition, standing: Standing, now: float) -> str:
    still = _span(standing.still_for(now))
    return f"{partition} stands still at offset {standing.position} for {still}, its log ends at {standing.end}"


def _named(words: list[str]) -> str:
    more = len(words) - MOST_NAMED
    return "; ".join([*words[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _span(seconds: float) -> str:
    """A length of time for people: two digits or more."""
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

"""What this replica counted, over the stream's own time and over its own."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from consumers.batch import Partition, RawBatch
from detector.budget import DAY_MS
from detector.health import Health
from detector.history.rings import Bins, Rings
from detector.pipeline import Outcome

STREAM_BINS = ((1_000, 900), (10_000, 2_160), (60_000, 2_880), (600_000, 4_032))
"""A quarter of an hour by the second, six hours, two days, and four weeks by ten minutes: some 0.5 MB."""
OWN_BINS = ((1_000, 900), (60_000, 1_440))
"""A quarter of an hour by the second and a day by the minute."""
LATELY_S = 5
"""Records per second are those of the last so many whole seconds."""
MOST_DEAD_LETTERS = 50
"""The latest ones, that are kept to be looked at."""
LONGEST_ERROR = 500
"""Characters of what was wrong with one."""


class Totals(NamedTuple):
    """Since this replica started."""

    records: int = 0
    dead_letters: int = 0
    alarms: int = 0
    promised: float = 0.0


class Lost(NamedTuple):
    """A record that could not be scored."""

    partition: Partition
    offset: int
    reason: str
    error: str


class Recorder:
    """Observes the daemon from its loop, is read from the web server's threads.

    `stream` has the sums records, promised alarms, alarms, elevated records and levels, and as peak the nats; `own` the
    sum of records and the peak of the lag. A record that lies more than a day ahead of this machine's clock is left out
    of the pictures: its own clock may be wrong, and the newest time is what they end at.
    """

    def __init__(self, health: Health, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives epoch seconds."""
        self.since = datetime.now(UTC)
        self.totals = Totals()
        self.dead_letters = Counter[str]()
        self.latest_dead_letters = deque[Lost](maxlen=MOST_DEAD_LETTERS)
        self._health = health
        self.clock = clock
        self._stream = Rings(STREAM_BINS, sums=5, peaks=1)
        self._own = Rings(OWN_BINS, sums=1, peaks=1)
        self._lock = threading.Lock()

    def observe(self, batch: RawBatch, outcome: Outcome) -> None:
        """Takes in one published batch."""
        now_ms = round(1000 * self.clock())
        decided, columns = outcome.decided, outcome.columns
        sums = np.array(
            [np.ones(len(columns)), outcome.promised, decided.alarm, decided.elevated, decided.level], np.float64
        )
        kept = columns.time < now_ms + DAY_MS
        lag = sum(self._health.figures().lag.values())
        with self._lock:
            self.totals = Totals(
                self.totals.records + outcome.records,
                self.totals.dead_letters + len(outcome.dead_letters),
                self.totals.alarms + int(decided.alarm.sum()),
                self.totals.promised + float(outcome.promised.sum()),
            )
            for letter in outcome.dead_letters:
                self.dead_letters[letter.reason] += 1
            for letter in outcome.dead_letters[-MOST_DEAD_LETTERS:]:
                self.latest_dead_letters.append(
                    Lost(*batch.source(letter.row), letter.reason, letter.error[:LONGEST_ERROR])
                )
            self._stream.add(columns.time[kept], sums[:, kept], decided.nats[None, kept])
            self._own.add(np.array([now_ms]), np.array([[outcome.records]], np.float64), np.array([[lag]], np.float64))

    def stream(self, begin: int, end: int) -> Bins:
        """Over the stream's own time (epoch milliseconds)."""
        with self._lock:
            return self._stream.between(begin, end)

    def own(self, span_ms: int) -> Bins:
        """Over the last so many milliseconds of this machine, up to the second that is under way."""
        end = int(self.clock()) * 1000
        with self._lock:
            return self._own.between(end - span_ms, end)

    @property
    def newest(self) -> int | None:
        """The newest time of a record, to the second; None before the first."""
        with self._lock:
            return self._stream.newest

    def records_per_s(self) -> float:
        """Taken lately."""
        return float(self.own(1000 * LATELY_S).sums.sum()) / LATELY_S

    def lost(self) -> tuple[dict[str, int], list[Lost]]:
        """Dead letters by reason, and the latest of them, the newest first."""
        with self._lock:
            return dict(self.dead_letters), [*self.latest_dead_letters][::-1]

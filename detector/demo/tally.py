"""What the demo has seen so far, and how that compares with the labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumers.batch import RawBatch
from detector.alerts import ENDING, Alert
from detector.budget import DAY_MS
from detector.demo.recording import START_MS, STEP_MS, Recording
from detector.pipeline import Outcome


@dataclass(frozen=True, slots=True)
class Interval:
    """An incident in rows of the recording: from the record that opened it to its last elevated one."""

    first: int
    last: int
    alert: Alert


@dataclass
class Tally:
    """Observes the daemon from its loop, is read from the demo's. Rows count through the whole recording."""

    recording: Recording
    seconds: float = 0.0
    records: int = 0
    promised: float = 0.0
    dead_letters: int = 0
    lag: int = 0
    version: str = ""
    models: str = ""
    alerts: list[Alert] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.nats = np.full(len(self.recording.values), np.nan)
        self.level = np.full(len(self.recording.values), np.nan)
        self.alarm = np.zeros(len(self.recording.values), bool)
        self.elevated = np.zeros(len(self.recording.values), bool)
        self._started: float | None = None

    def observe(self, batch: RawBatch, outcome: Outcome) -> None:
        """Takes in one published batch."""
        now = time.monotonic()
        rows = (outcome.columns.time - START_MS) // STEP_MS
        with self._lock:
            self._started = now if self._started is None else self._started
            self.seconds = now - self._started
            self.nats[rows] = outcome.decided.nats
            self.level[rows] = outcome.decided.level
            self.alarm[rows] = outcome.decided.alarm
            self.elevated[rows] = outcome.decided.elevated
            self.promised += float(outcome.promised.sum())
            self.records += outcome.records
            self.dead_letters += len(outcome.dead_letters)
            self.alerts += outcome.alerts
            self.version = outcome.version
            self.lag = sum(max(0, batch.ends.get(p, at.offset) - at.offset) for p, at in outcome.positions.items())

    @property
    def scored(self) -> int:
        return int(np.isfinite(self.nats).sum())

    def open_alerts(self) -> list[Alert]:
        """Alerts of incidents that are open, oldest first."""
        with self._lock:
            resolved = {alert.incident for alert in self.alerts if alert.kind in ENDING}
            return [alert for alert in self.alerts if alert.kind == "opened" and alert.incident not in resolved]

    def intervals(self) -> list[Interval]:
        """All incidents so far."""
        with self._lock:
            ends = {alert.incident: _row(alert) for alert in self.alerts if alert.kind in ENDING}
            found = []
            for alert in self.alerts:
                if alert.kind == "opened":
                    first, end = _row(alert), ends.get(alert.incident, len(self.elevated))
                    found.append(Interval(first, first + int(np.flatnonzero(self.elevated[first:end])[-1]), alert))
            return found

    def events(self) -> list[tuple[int, int]]:
        """Labelled events among the rows scored so far."""
        return [(a, b) for a, b in self.recording.events() if np.isfinite(self.nats[a:b]).any()]

    def events_found(self, intervals: Sequence[Interval]) -> list[tuple[int, int]]:
        """Labelled events that an incident touches."""
        return [(a, b) for a, b in self.events() if any(i.first < b and i.last >= a for i in intervals)]

    def normal(self) -> NDArray[np.bool_]:
        """Which rows were scored and carry no label."""
        normal: NDArray[np.bool_] = np.isfinite(self.nats) & (self.recording.labels == 0)
        return normal

    def false_alarms_per_day(self) -> float:
        """Incidents opened outside labelled events, a day of the recording that was scored and is unlabelled."""
        normal = self.normal()
        opened = sum(bool(normal[interval.first]) for interval in self.intervals())
        return opened / max(1.0, float(normal.sum()) * STEP_MS / DAY_MS)

    def promised_rate(self) -> float:
        """Alarms promised, as a share of scored records."""
        return self.promised / max(1, self.scored)

    def realised_rate(self) -> float:
        """Share of scored records without a label that raised an alarm."""
        normal = self.normal()
        return float(self.alarm[normal].mean()) if normal.any() else 0.0


def _row(alert: Alert) -> int:
    return (round(alert.time.timestamp() * 1000) - START_MS) // STEP_MS

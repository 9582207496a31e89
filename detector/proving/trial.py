"""Two versions side by side on live traffic, telling nobody: before a version is promoted, and for a while after.

Each judges every record as in service, with a memory of its own that begins empty. What counts is how many records each
finds beyond what it was calibrated to promise, before the online level has moved to make it right: a version that was
trained on other records than these shows at once, while one that fits keeps to its rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import RawBatch
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.pipeline import Pipeline
from detector.training import TOLERATED_RATIO

LEAST_PROMISED = 2.0
"""Alarms that are within chance however few were promised."""
STRANGE, FAR, STRETCH = 0.05, -math.log(1e-3), 100
"""Share of live records beyond so many nats, by a version's static calibration, in the median of stretches of so many
records, at which it was trained on another stream than this: an event fills some stretches, a stranger most,"""
WORSE = 1.5
"""unless the other version finds nearly as many: by a factor of this."""
LEAST_RECORDS = 500
"""Live records below which nothing is concluded."""


@dataclass
class Count:
    """What one version made of the live records."""

    pipeline: Pipeline
    records: int = 0
    alarms: int = 0
    promised: float = 0.0
    incidents: int = 0
    far: list[NDArray[np.bool_]] = field(default_factory=list)

    def judge(self, batch: RawBatch) -> None:
        outcome = self.pipeline.process(batch)
        self.records += len(outcome.columns)
        self.alarms += int(outcome.decided.alarm.sum())
        self.promised += float(outcome.promised.sum())
        self.far.append(outcome.decided.static_nats >= FAR)
        self.incidents += sum(alert.kind == "opened" for alert in outcome.alerts)

    @property
    def breaks_budget(self) -> bool:
        return self.alarms > max(LEAST_PROMISED, TOLERATED_RATIO * self.promised)

    @property
    def far_share(self) -> float:
        """In the median stretch; 0 where there is no record."""
        far = np.concatenate([np.zeros(0, np.bool_), *self.far])
        stretches = np.array_split(far, max(1, len(far) // STRETCH))
        return float(np.median([stretch.mean() for stretch in stretches])) if len(far) else 0.0

    def figures(self, name: str = "") -> dict[str, float]:
        return {
            f"{name}alarms": self.alarms,
            f"{name}promised": round(self.promised, 3),
            f"{name}far": round(self.far_share, 5),
            f"{name}incidents": self.incidents,
        }


class Finding(NamedTuple):
    """What comes of a trial: reasons against the version on trial, if any, and the figures. `records` were judged."""

    records: int
    reasons: list[str]
    figures: dict[str, float]


class SideBySide:
    """A version on trial and the one it is compared with, on topics of so many partitions in all."""

    def __init__(self, settings: DetectorSettings, version: Bundle, other: Bundle, partitions: int) -> None:
        self._version = Count(Pipeline(settings, version, partitions=partitions))
        self._other = Count(Pipeline(settings, other, partitions=partitions))

    @property
    def records(self) -> int:
        """Live records judged."""
        return self._version.records

    def judge(self, batch: RawBatch) -> None:
        """Takes in a batch of live records."""
        self._version.judge(batch)
        self._other.judge(batch)

    def finding(self) -> Finding:
        """Against the version are a broken budget and strange records, where the other version fares better."""
        version, other, reasons = self._version, self._other, list[str]()
        if version.breaks_budget and version.alarms > WORSE * other.alarms + LEAST_PROMISED:
            reasons.append(
                f"{version.alarms} alarms in {version.records} live records, promised {version.promised:.3g}, by the "
                f"other version {other.alarms}. Expected at most {TOLERATED_RATIO:g} times the promise."
            )
        if version.far_share > STRANGE and version.far_share > WORSE * other.far_share:
            reasons.append(
                f"{version.far_share:.1%} of a typical stretch of the {version.records} live records is less likely "
                f"than 1 in 1,000 to it, {other.far_share:.1%} to the other version: it was trained on other records "
                f"than these. Expected at most {STRANGE:.0%}."
            )
        figures = {"records": version.records, **version.figures(), **other.figures("champion ")}
        return Finding(version.records, reasons, figures)

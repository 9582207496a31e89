"""What was decided, over event time and in bounded memory: bins that widen as the time they span grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 1_000
WIDTHS_MS = {
    1_000: "second",
    10_000: "10 seconds",
    60_000: "minute",
    600_000: "10 minutes",
    3_600_000: "hour",
    21_600_000: "6 hours",
    86_400_000: "day",
    604_800_000: "week",
    2_419_200_000: "4 weeks",
    31_449_600_000: "52 weeks",
}
"""Widths of bins in words; each is a multiple of the one before, so that bins can be pooled."""
DAY_MS = 86_400_000
OUTERMOST = 0.001
"""Share of the records at either end that does not count for the time they span: a clock may be wrong."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Bins (k,) of `width_ms` that hold a record, by the epoch millisecond at which each starts. Of each: how many
    records, promised alarms, alarms and incidents opened, the highest −ln p, and the mean level in nats."""

    width_ms: int
    start: NDArray[np.int64]
    records: NDArray[np.float64]
    promised: NDArray[np.float64]
    alarms: NDArray[np.float64]
    opened: NDArray[np.float64]
    peak: NDArray[np.float64]
    level: NDArray[np.float64]

    @classmethod
    def empty(cls) -> Self:
        """Before the first record."""
        return cls(min(WIDTHS_MS), np.empty(0, np.int64), *[np.empty(0)] * 6)

    def extended(
        self,
        time: NDArray[np.int64],
        *,
        promised: NDArray[np.float64],
        alarm: NDArray[np.bool_],
        nats: NDArray[np.float64],
        level: NDArray[np.float64],
        opened: Sequence[int],
    ) -> Timeline:
        """With further records (n,): their times, the alarms promised for each, which are alarms, −ln p and the level;
        and the times of those that opened incidents."""
        none = np.zeros(len(opened))

        def joined(before: NDArray[Any], later: NDArray[Any], at_opening: NDArray[np.float64] = none) -> NDArray[Any]:
            return np.concatenate([before, later, at_opening])

        return Timeline(
            self.width_ms,
            start=np.concatenate([self.start, time, np.array(opened, np.int64)]),
            records=joined(self.records, np.ones(len(time))),
            promised=joined(self.promised, promised),
            alarms=joined(self.alarms, alarm),
            opened=joined(self.opened, np.zeros(len(time)), none + 1),
            peak=joined(self.peak, nats),
            level=joined(self.level, level),
        ).at_most(MOST_BINS)

    def joined(self, other: Timeline) -> Timeline:
        """What was decided of the records of both."""
        width = max(self.width_ms, other.width_ms)
        one, two = self.pooled(width), other.pooled(width)
        each = (field.name for field in fields(self) if field.name != "width_ms")
        both = {name: np.concatenate([getattr(one, name), getattr(two, name)]) for name in each}
        return Timeline(width, **both).at_most(MOST_BINS)

    def at_most(self, bins: int) -> Timeline:
        """The same in bins as narrow as so few of them allow; in the widest ones wherever clocks have been."""
        wide = (width for width in WIDTHS_MS if width >= self.width_ms)
        few = (width for width in wide if len(np.unique(self.start // width)) <= bins)
        return self.pooled(next(few, max(WIDTHS_MS)))

    def pooled(self, width_ms: int) -> Timeline:
        """The same in bins of this width, a multiple of the present one."""
        start, bin_of = np.unique(self.start - self.start % width_ms, return_inverse=True)

        def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(bin_of, values, len(start)).astype(np.float64)

        records, peak = total(self.records), np.zeros(len(start))
        np.maximum.at(peak, bin_of, self.peak)
        return Timeline(
            width_ms,
            start,
            records,
            promised=total(self.promised),
            alarms=total(self.alarms),
            opened=total(self.opened),
            peak=peak,
            level=total(self.level * self.records) / records,
        )

    @property
    def span(self) -> tuple[int, int]:
        """Epoch milliseconds at which the records begin and end, but for the outermost."""
        at = np.cumsum(self.records) / self.records.sum()
        first, last = np.searchsorted(at, [OUTERMOST, 1 - OUTERMOST])
        return int(self.start[first]), int(self.start[last]) + self.width_ms

    @property
    def days(self) -> float:
        """The time between."""
        first, last = self.span
        return (last - first) / DAY_MS

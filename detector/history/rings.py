"""Figures over time in bounded memory: the same in bins of several widths, each for as long as its ring goes round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_SHOWN = 1_000
"""Bins that are given at once: more than a screen has room for."""
CLOSE = 4
"""Numbers that span no more than so many times their count are told apart by counting."""


class Bins(NamedTuple):
    """Bins (k,) that hold something, by the millisecond at which each starts: sums (i, k) and peaks (j, k)."""

    width_ms: int
    start: NDArray[np.int64]
    sums: NDArray[np.float64]
    peaks: NDArray[np.float64]


class Rings:
    """`widths` are pairs of a bin's milliseconds, and how many of them are kept; each a multiple of the one before."""

    def __init__(self, widths: Sequence[tuple[int, int]], *, sums: int, peaks: int) -> None:
        self._rings = [_Ring(width, bins, sums, peaks) for width, bins in widths]

    def add(self, time: NDArray[np.int64], sums: NDArray[np.float64], peaks: NDArray[np.float64]) -> None:
        """Figures (i, n) to be summed and (j, n) to be kept the highest of, at these times (n,) in milliseconds."""
        for ring in self._rings:
            time, sums, peaks = _pooled(time, sums, peaks, ring.width)
            ring.add(time, sums, peaks)

    def between(self, begin: int, end: int) -> Bins:
        """Bins of the narrowest width that was kept for as long as this, pooled to at most `MOST_SHOWN`."""
        ring = next((it for it in self._rings if it.reaches(begin)), self._rings[-1])
        start, sums, peaks = ring.between(begin, end)
        width = ring.width * max(1, -(-(end - begin) // (ring.width * MOST_SHOWN)))
        return Bins(width, *_pooled(start, sums, peaks, width))

    @property
    def newest(self) -> int | None:
        """The end of the newest bin of all; None before the first."""
        return self._rings[0].newest


class _Ring:
    def __init__(self, width: int, bins: int, sums: int, peaks: int) -> None:
        self.width = width
        self.newest: int | None = None
        self._start = np.full(bins, np.iinfo(np.int64).min)
        self._sums = np.zeros((sums, bins))
        self._peaks = np.zeros((peaks, bins))

    def add(self, start: NDArray[np.int64], sums: NDArray[np.float64], peaks: NDArray[np.float64]) -> None:
        """Distinct bins in ascending order; what is older than the ring goes round is left out."""
        if not len(start):
            return
        self.newest = max(self.newest or 0, int(start[-1]) + self.width)
        kept = start > self.newest - self.width * (len(self._start) + 1)
        start, sums, peaks = start[kept], sums[:, kept], peaks[:, kept]
        place = start // self.width % len(self._start)
        anew = place[self._start[place] != start]
        self._start[place] = start
        self._sums[:, anew], self._peaks[:, anew] = 0.0, -np.inf
        self._sums[:, place] += sums
        self._peaks[:, place] = np.maximum(self._peaks[:, place], peaks)

    def reaches(self, begin: int) -> bool:
        """Whether nothing after `begin` has been written over."""
        return self.newest is None or begin >= self.newest - self.width * len(self._start)

    def between(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        within = np.flatnonzero((self._start >= begin - self.width) & (self._start < end))
        order = within[np.argsort(self._start[within])]
        return self._start[order], self._sums[:, order], self._peaks[:, order]


def _pooled(
    time: NDArray[np.int64], sums: NDArray[np.float64], peaks: NDArray[np.float64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Each bin of that width once, in ascending order."""
    if not len(time):
        return time, sums, peaks
    distinct, bin_of = _numbered(time // width)
    summed = np.array([np.bincount(bin_of, row, len(distinct)) for row in sums])
    highest = np.full((len(peaks), len(distinct)), -np.inf)
    for row, into in zip(peaks, highest, strict=True):
        np.maximum.at(into, bin_of, row)
    return distinct * width, summed, highest


def _numbered(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct numbers in ascending order, and which of them each is; without sorting where they lie close."""
    low, span = numbers.min(), int(np.ptp(numbers)) + 1
    if span > CLOSE * len(numbers):
        return np.unique(numbers, return_inverse=True)
    there = np.bincount(numbers - low, minlength=span) > 0
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[numbers - low]

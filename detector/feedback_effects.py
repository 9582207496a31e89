"""What feedback changes in decisions: false alarms raise the level of their segment, and their like is not told.

Both come after the level has decided, which goes on as if nobody had said anything: it would take back, alarm by alarm,
whatever it was given. What is taken back stays owed: where an entity goes on beyond the level in another way, or
farther, that record is the alarm (`detector.mute.hush`), so nothing hides behind what is known.

Pure: what counts at a record follows from its event time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.alerts import Reason
from detector.feedback import Feedback

if TYPE_CHECKING:
    from detector.reasons import Told  # brings torch, which the command can do without
    from detector.recursion import Levelled

ALIKE = 0.8
"""Least cosine between the explanations of two records that are alike: above what two features in equal shares have in
common with one of them alone, 0.71."""
FARTHER = math.log(10.0)
"""Nats beyond the score that somebody spoke of from which on a record is told however alike: ten times less likely, a
step of severity."""
MOST_RAISED = math.log(100.0)
"""Nats by which a level is raised at most: what is critical to a level that nobody spoke of always is an alarm."""
_TIMES = 2**42
"""Milliseconds since 1970, up to the year 2109, in which labels and records can meet."""

Direction = tuple[str, str]
"""A feature, and the value that it had where that is no number."""


class _Labels(NamedTuple):
    """l labels of a segment: the time (l,) from and up to which each counts (ms), its score (l,), and by direction
    which labels point there, and how much."""

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    score: NDArray[np.float64]
    pointing: Mapping[Direction, tuple[NDArray[np.int64], NDArray[np.float64]]]

    def cover(self, time: int, nats: float, reasons: Sequence[Reason]) -> bool:
        """Whether a record at this time is like one of them, and not much farther out."""
        cosine = np.zeros(len(self.score))
        for direction, part in _pointer(reasons).items():
            if direction in self.pointing:
                labels, parts = self.pointing[direction]
                cosine[labels] += part * parts
        count = (self.begin <= time) & (time < self.end) & (nats <= self.score + FARTHER)
        return bool((count & (cosine >= ALIKE)).any())


class Opinions:
    """What people said of alerts, as far as it changes decisions; each counts for so many seconds from when it was
    said. Immutable.

    The level is raised by ln(1 + k) nats, k false alarms of the segment that count. A level at rate r promises one
    alarm in 1/r records; had these been calibration records, with k more beyond the level, it would have been one of
    1 + k in as many, (1 + k) r. The tail of −ln p is exponential, so ln(1 + k) nats farther out is where r is again.

    Two records are alike where the cosine of their explanations is at least `ALIKE`: vectors of the shares of features,
    signed by whether the observed value was above or below the expected one; each value that is no number is a
    dimension of its own.
    """

    def __init__(self, words: Iterable[Feedback] = (), counts_for: float = 0.0) -> None:
        by_segment = defaultdict[str, list[Feedback]](list)
        for word in words:
            if counts(word):
                by_segment[word.alert.segment].append(word)
        lasts_ms = round(counts_for * 1000)
        self._places = {segment: place for place, segment in enumerate(by_segment)}
        self._labels = [_labels(those, lasts_ms) for those in by_segment.values()]
        self._farthest = np.array([it.score.max() for it in self._labels])
        alarms = [
            (place, _milliseconds(word))
            for place, those in enumerate(by_segment.values())
            for word in those
            if word.label == "false_alarm"
        ]
        place, begin = np.array(alarms, np.int64).reshape(-1, 2).T
        self._begins, self._ends = np.sort(_moment(place, begin)), np.sort(_moment(place, begin + lasts_ms))

    def doubt(
        self,
        segment: NDArray[np.object_],
        time: NDArray[np.int64],
        said: Levelled,
        explain: Callable[[NDArray[np.int64]], list[Told]],
    ) -> NDArray[np.bool_]:
        """Which of n records beyond the level are not to be told: (n,). `said` is what the level said of them, and is
        given the levels of the segments (n,) as they are raised at the event times (n,), in ms; `explain` gives the
        reasons of some rows, and is asked for few."""
        doubted = np.zeros(len(time), np.bool_)
        if not self._labels:
            return doubted
        place = np.fromiter(map(self._places.get, segment.tolist(), repeat(-1)), np.int64, len(segment))
        raised = self._raised(place, time)
        said.level[:] += raised
        said.static_level[:] += raised * said.scale
        beyond = said.alarm | said.elevated
        doubted[:] = beyond & (raised > 0) & (said.nats < said.level)
        rows = np.flatnonzero(beyond & ~doubted & (place >= 0) & (said.nats <= self._farthest[place] + FARTHER))
        for row, told in zip(rows.tolist(), explain(rows), strict=True):
            doubted[row] = self._labels[place[row]].cover(int(time[row]), float(said.nats[row]), told.reasons)
        return doubted

    def _raised(self, place: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.float64]:
        """Nats (n,) by which the levels of segments (n,), −1 for others, are raised at these times (n,).

        In one line of segments and times, as many labels have ended as have begun before a segment's own.
        """
        moment = _moment(place, time)
        count = self._begins.searchsorted(moment, "right") - self._ends.searchsorted(moment, "right")
        raised: NDArray[np.float64] = np.minimum(np.log1p(count), MOST_RAISED)
        return raised


def counts(word: Feedback) -> bool:
    """Whether it changes decisions: those on single records, which have a score."""
    alert = word.alert
    return (
        word.label in ("false_alarm", "known")
        and alert.members is None
        and alert.score is not None
        and math.isfinite(alert.score)
    )


def _labels(words: Sequence[Feedback], lasts_ms: int) -> _Labels:
    begin = np.array([_milliseconds(word) for word in words], np.int64)
    pointing = defaultdict[Direction, list[tuple[int, float]]](list)
    for label, word in enumerate(words):
        for direction, part in _pointer(word.alert.reasons).items():
            pointing[direction].append((label, part))
    return _Labels(
        begin,
        begin + lasts_ms,
        np.array([word.alert.score for word in words], np.float64),
        {
            direction: (np.array([label for label, _ in those]), np.array([part for _, part in those]))
            for direction, those in pointing.items()
        },
    )


def _pointer(reasons: Sequence[Reason]) -> dict[Direction, float]:
    """The explanation as a vector of length 1; empty where it says nothing."""
    vector = defaultdict[Direction, float](float)
    for reason in reasons:
        observed, expected = reason.observed, reason.expected
        if isinstance(observed, float):
            below = isinstance(expected, float) and observed < expected
            vector[reason.feature, ""] += -reason.share if below else reason.share
        else:
            vector[reason.feature, repr(observed)] += reason.share
    length = math.hypot(*vector.values())
    return {direction: part / length for direction, part in vector.items()} if length else {}


def _moment(place: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Segments (n,) and times (n,) in one line."""
    return place * _TIMES + np.clip(time, 0, _TIMES - 1)


def _milliseconds(word: Feedback) -> int:
    return round(word.time.timestamp() * 1000)

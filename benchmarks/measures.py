"""What a detector is worth on labelled rows: events found, the false-alarm rate kept, and rankings of the scores.

Pure figures on arrays of n rows in order of time. Flags are true where a row is anomalous; an event is a run of such
rows, given as its first row and the row after its last.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

AFTERMATH = 16
"""Rows after an event that are neither normal nor part of it: what they are called is a matter of taste."""
SAME_RUN = 20
"""Crossings at most so many rows apart belong to one run, which an operator would be told of once."""
DAY = 1440
"""Rows of a day, one a minute."""
LONGEST_BUFFER = 100
"""Longest buffer of `vus_pr` in rows, the customary one where no period of the stream is known."""

Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]
Events = NDArray[np.intp]


def events(labels: Flags) -> Events:
    """Runs of anomalous rows, (k, 2)."""
    edges = np.flatnonzero(np.diff(labels, prepend=False, append=False))
    return edges.reshape(-1, 2)


def normal_rows(labels: Flags, found: Events, aftermath: int = AFTERMATH) -> Flags:
    """Rows (n,) on which an alarm is a false one: not anomalous, nor among the `aftermath` rows after an event."""
    normal = ~labels
    for end in found[:, 1].tolist():
        normal[end : end + aftermath] = False
    return normal


def in_band(alarms: int, expected: float) -> bool:
    """Whether the false alarms are half to twice those promised; none are right where fewer than two are expected."""
    return (alarms == 0 and expected < 2) or 0.5 * expected <= alarms <= 2 * expected


def events_hit(hits: Flags, found: Events) -> int:
    """How many events have a hit inside."""
    return int(_over_events(np.logical_or, hits, found).sum())


def delays(hits: Flags, found: Events) -> list[int]:
    """Rows from the start of an event to the first hit inside, of each event that has one."""
    return [int(hits[start:end].argmax()) for start, end in found.tolist() if hits[start:end].any()]


class Oracle(NamedTuple):
    """The static threshold at a given number of false alarms, infinite where none is as quiet; and the most events that
    any threshold finds with no more false alarms than that."""

    threshold: float
    false_alarms: int
    events_found: int
    most_events: int


def oracle(scores: Scores, found: Events, normal: Flags, false_alarms: int) -> Oracle:
    """The static threshold that spends `false_alarms`, chosen with the labels in hand, one alarm a run.

    Of all thresholds with at most so many false alarms it is the one with the most, among those the one that finds most
    events, and among those the highest. It need not find the most of all: a low threshold joins runs, and an event in a
    run that began before it has no alarm of its own. Exact over all distinct scores: row i is the first of its run, and
    so an alarm, for just the thresholds t with h_i < t <= s_i, where h_i is the highest score of the `SAME_RUN` rows
    before it; counting alarms is counting intervals.
    """
    padded = np.concatenate([np.full(SAME_RUN, -np.inf), scores[:-1]])
    highest_before = np.lib.stride_tricks.sliding_window_view(padded, SAME_RUN).max(axis=1)
    thresholds = np.append(np.unique(scores), np.inf)
    begin, end = (np.searchsorted(thresholds, limit, side="right") for limit in (highest_before, scores))
    event = np.searchsorted(found[:, 0], np.arange(len(scores)), side="right") - 1
    inside = event >= 0
    inside[inside] = np.flatnonzero(inside) < found[event[inside], 1]
    false = _covering(begin[normal], end[normal], len(thresholds))
    hit = _covering(*_disjoint(begin[inside], end[inside], event[inside]), len(thresholds))
    affordable = np.flatnonzero(false <= false_alarms)
    best = affordable[np.lexsort((hit[affordable], false[affordable]))[-1]]
    return Oracle(float(thresholds[best]), int(false[best]), int(hit[best]), int(hit[affordable].max()))


def vus_pr(labels: Flags, scores: Scores, longest: int = LONGEST_BUFFER) -> float:
    """Volume under the surface of range-aware precision and recall (Paparrizos et al., PVLDB 15(11), 2022); NaN without
    events.

    For buffers of l = 0, 1, ..., `longest` rows, half of them on each side of an event, a row at distance d <= l/2 is
    anomalous to the degree √(1 − d/l). With TP the degrees of the flagged rows, precision is TP over the flagged rows,
    and recall TP / (P + B/2), at most 1, times the share of buffered events that are hit at all; P counts the anomalous
    rows and B is the part of TP in the buffers, as in the authors' programs. The mean over buffers of the area under
    the curve, which steps through every distinct score.
    """
    found = events(labels)
    if not len(found):
        return math.nan
    descending = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[descending], append=-np.inf))
    ranking = _Ranking(scores, descending, last, scores[descending[last]])
    hits = np.cumsum(labels[descending], dtype=np.float64)[last]
    areas = [_range_area(_degrees(labels, found, length), hits, ranking) for length in range(longest + 1)]
    return float(np.mean(areas))


class Answer(NamedTuple):
    """What a detector said of n rows: by what they are ranked (n,), −ln p against its calibration rows (n,), where it
    raised an alarm (n,), what was elevated in an incident (n,), how many alerts of each kind it told, and how many rows
    it could not score: these are 0 and false here."""

    ranking: Scores
    static_nats: Scores
    alarm: Flags
    elevated: Flags
    alerts: Counter[str]
    dead_letters: int


def decisions(said: Answer, rate: float, found: Events, normal: Flags) -> dict[str, float | bool | None]:
    """Figures of what was decided at this rate, and of the static level and the oracle beside it."""
    expected = rate * int(normal.sum())
    alarms = int((said.alarm & normal).sum())
    shown = said.alarm | said.elevated
    waited = delays(shown, found)
    crossing = said.static_nats >= -math.log(rate) - 1e-9
    static_alarms = int((crossing & normal).sum())
    best = oracle(said.static_nats, found, normal, alarms)
    return {
        "expected": expected,
        "alarms": alarms,
        "realised_ratio": alarms / expected if expected else None,
        "in_band": in_band(alarms, expected),
        "elevated_ratio": int((said.elevated & normal).sum()) / expected if expected else None,
        "events_found": events_hit(said.alarm, found),
        "events_touched": len(waited),
        "median_delay": statistics.median(waited) if waited else None,
        "incidents_opened": said.alerts["opened"],
        "incidents_per_day": said.alerts["opened"] * DAY / len(normal),
        "drift": said.alerts["drift"],
        "creep": said.alerts["creep"],
        "static_realised_ratio": static_alarms / expected if expected else None,
        "static_in_band": in_band(static_alarms, expected),
        "static_events_found": events_hit(crossing, found),
        "oracle_alarms": best.false_alarms,
        "oracle_events_found": best.events_found,
        "oracle_most_events": best.most_events,
    }


class _Ranking(NamedTuple):
    """Scores (n,), their rows from the highest down (n,), and of each distinct value the last place there (t,) and the
    value (t,)."""

    scores: Scores
    descending: NDArray[np.intp]
    last: NDArray[np.intp]
    thresholds: Scores


def _degrees(labels: Flags, found: Events, length: int) -> Scores:
    """To what degree each row is anomalous (n,) with a buffer of `length` rows; buffers that overlap add up to 1."""
    half, n = length // 2, len(labels)
    slope = np.sqrt(1.0 - np.arange(half + 1) / max(length, 1))
    slope[0] = 0.0
    degrees = labels.astype(np.float64)
    first, last = np.zeros(n), np.zeros(n)
    first[found[:, 0]], last[found[:, 1] - 1] = 1.0, 1.0
    degrees += np.convolve(last, slope)[:n] + np.convolve(first, slope[::-1])[half : half + n]
    return np.minimum(degrees, 1.0)


def _range_area(degrees: Scores, hits: Scores, ranking: _Ranking) -> float:
    """Area under range-aware precision over recall; `hits` (t,) are the anomalous rows at or above each threshold."""
    true = np.cumsum(degrees[ranking.descending])[ranking.last]
    recall = np.minimum(1.0, true / (hits[-1] + (true - hits) / 2))
    peaks = _over_events(np.maximum, ranking.scores, events(degrees > 0))
    recall *= _at_least(peaks, ranking.thresholds) / len(peaks)
    precision = true / (ranking.last + 1)
    return float(np.diff(recall, prepend=0.0) @ precision)


def _covering(begin: NDArray[np.intp], end: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """How many of the intervals [begin, end) hold each of 0 ... n - 1 (n,); empty ones hold none."""
    there = begin < end
    return np.cumsum(np.bincount(begin[there], minlength=n) - np.bincount(end[there], minlength=n))


def _disjoint(
    begin: NDArray[np.intp], end: NDArray[np.intp], group: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The intervals [begin, end), each without what others of its group cover that begin before it."""
    order = np.lexsort((begin, group))
    begin, end, shift = begin[order], end[order], group[order] * (end.max(initial=0) + 1)
    reach = np.maximum.accumulate(np.concatenate([[0], end + shift]))[:-1] - shift  # of a group before: below 0
    return np.maximum(begin, reach), end


def _over_events(reduce: np.ufunc, values: NDArray[np.generic], found: Events) -> NDArray[np.generic]:
    """`reduce` over the rows of each event (k,)."""
    if not len(found):
        return values[:0]
    padded = np.append(values, values[-1:])  # an event that reaches the end has an end to be named
    reduced: NDArray[np.generic] = reduce.reduceat(padded, found.ravel())[::2]
    return reduced


def _at_least(values: NDArray[np.generic], thresholds: Scores) -> NDArray[np.intp]:
    """How many of the values are at or above each threshold (t,)."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, side="left")

"""Decisions to incidents: records of one entity beyond the level merge into one, until the entity has been quiet.

Pure and incremental: the transitions depend on the records alone, not on where batches end. Time is each entity's own
event time, so a wrong clock harms no other entity, and a jump of it in either direction ends the incident rather than
freezing it. An entity that stops reporting leaves its incident open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns


@dataclass(frozen=True, slots=True)
class Incident:
    """One stretch of trouble of one entity.

    Times are epoch milliseconds; the peak is in nats, with the model it owes it to; `rank` is the highest
    severity so far, counted from 0.
    """

    entity: str
    opened: int
    opened_offset: int
    last_crossing: int
    records: int
    peak: float
    peak_model: str
    rank: int


class Transition(NamedTuple):
    """What a record did to an incident; `row` indexes the columns it was found in."""

    row: int
    kind: Literal["opened", "escalated", "resolved"]
    incident: Incident


class Decided(NamedTuple):
    """What was decided of n records: −ln p (n,), whether that is beyond the level (n,), and the most surprised model
    (n,).
    """

    nats: NDArray[np.float64]
    crossing: NDArray[np.bool_]
    model: NDArray[np.object_]
    rank: NDArray[np.int64]
    """Severity (n,), counted from 0, of the records that cross."""

    def take(self, rows: slice) -> Decided:
        return Decided(self.nats[rows], self.crossing[rows], self.model[rows], self.rank[rows])


class Incidents:
    """The open incidents of one partition."""

    def __init__(self, quiet_for_s: float) -> None:
        self._quiet_ms = round(quiet_for_s * 1000)
        self._open: dict[str, Incident] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def open(self) -> list[Incident]:
        """Open incidents, in no particular order."""
        return list(self._open.values())

    def update(self, columns: Columns, decided: Decided) -> list[Transition]:
        """Takes in records of this partition in offset order. Returns transitions in row order."""
        hot = set(columns.entity[decided.crossing].tolist())
        if not hot and not self._open:
            return []
        involved = np.fromiter((e in hot or e in self._open for e in columns.entity), bool, len(columns))
        rows = np.flatnonzero(involved)
        if not len(rows):
            return []
        entities, group = np.unique(columns.entity[rows], return_inverse=True)
        order = np.argsort(group, kind="stable")
        parts = np.split(rows[order], np.cumsum(np.bincount(group))[:-1])
        found = [
            transition
            for entity, part in zip(entities.tolist(), parts, strict=True)
            for transition in self._follow(entity, part, columns, decided)
        ]
        return sorted(found, key=lambda transition: transition.row)

    def _follow(self, entity: str, rows: NDArray[np.intp], columns: Columns, decided: Decided) -> Iterator[Transition]:
        """Transitions of one entity over its records; the loop turns once an incident, not once a record."""
        times, crossing = columns.time[rows], decided.crossing[rows]
        incident, at = self._open.pop(entity, None), 0
        while True:
            if incident is None:
                following = np.flatnonzero(crossing[at:])
                if not len(following):
                    return
                at += int(following[0])
                incident = self._opened(entity, int(rows[at]), columns, decided)
                yield Transition(int(rows[at]), "opened", incident)
                at += 1
            quiet_at = self._quiet_at(incident.last_crossing, times[at:], crossing[at:])
            taken = rows[at : at + quiet_at][crossing[at : at + quiet_at]]
            for last in self._rising(incident, taken, decided):
                grown = self._grown(incident, taken[: last + 1], columns, decided)
                yield Transition(int(taken[last]), "escalated", grown)
            incident = self._grown(incident, taken, columns, decided)
            at += quiet_at
            if at == len(rows):
                self._open[entity] = incident
                return
            yield Transition(int(rows[at]), "resolved", incident)
            incident = None

    def _quiet_at(self, last_crossing: int, times: NDArray[np.int64], crossing: NDArray[np.bool_]) -> int:
        """The first record that is the quiet time away from the crossing before it; how many there are if none is."""
        before = np.maximum.accumulate(np.where(crossing, np.arange(len(times)), -1))
        before = np.concatenate([[-1], before[:-1]])[: len(times)]
        latest = np.where(before >= 0, times[before], last_crossing)
        away = np.flatnonzero(np.abs(times - latest) >= self._quiet_ms)
        return int(away[0]) if len(away) else len(times)

    @staticmethod
    def _rising(incident: Incident, rows: NDArray[np.intp], decided: Decided) -> list[int]:
        """Which of these crossing records are of a higher severity than all before them in the incident."""
        ranks = np.maximum.accumulate(np.concatenate([[incident.rank], decided.rank[rows]]))
        rising: list[int] = np.flatnonzero(np.diff(ranks)).tolist()
        return rising

    @staticmethod
    def _opened(entity: str, row: int, columns: Columns, decided: Decided) -> Incident:
        time = int(columns.time[row])
        peak, model = float(decided.nats[row]), str(decided.model[row])
        return Incident(entity, time, int(columns.offsets[row]), time, 1, peak, model, int(decided.rank[row]))

    @staticmethod
    def _grown(incident: Incident, rows: NDArray[np.intp], columns: Columns, decided: Decided) -> Incident:
        """The incident with further crossing records."""
        if not len(rows):
            return incident
        highest = rows[decided.nats[rows].argmax()]
        grown = replace(
            incident,
            last_crossing=int(columns.time[rows[-1]]),
            records=incident.records + len(rows),
            rank=max(incident.rank, int(decided.rank[rows].max())),
        )
        if decided.nats[highest] <= incident.peak:
            return grown
        return replace(grown, peak=float(decided.nats[highest]), peak_model=str(decided.model[highest]))

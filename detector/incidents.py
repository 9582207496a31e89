"""Decisions to incidents: records of one entity beyond the level merge into one, until the entity has been quiet.

Pure and incremental: the transitions depend on the records alone, not on where batches end. The clock is each entity's
own event time, so a wrong clock harms no other entity; an entity that stops reporting leaves its incident open.
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
    """One stretch of trouble of one entity. Times are epoch milliseconds, the peak is in nats."""

    entity: str
    opened: int
    opened_offset: int
    last_crossing: int
    clock: int
    records: int
    peak: float


class Transition(NamedTuple):
    """What a record did to an incident; `row` indexes the columns it was found in."""

    row: int
    kind: Literal["opened", "resolved"]
    incident: Incident


class Incidents:
    """The open incidents of one partition."""

    def __init__(self, quiet_for_s: float) -> None:
        self._quiet_ms = round(quiet_for_s * 1000)
        self._open: dict[str, Incident] = {}

    @property
    def open(self) -> list[Incident]:
        """Open incidents, in the order in which they were opened."""
        return list(self._open.values())

    def update(self, columns: Columns, nats: NDArray[np.float64], crossing: NDArray[np.bool_]) -> list[Transition]:
        """Takes in records of this partition in offset order; `crossing` marks those beyond the level.

        Returns transitions in row order.
        """
        involved = self._open.keys() | set(columns.entity[crossing].tolist())
        if not involved:
            return []
        rows = np.flatnonzero(np.fromiter(map(involved.__contains__, columns.entity), bool, len(columns)))
        if not len(rows):
            return []
        entities, group = np.unique(columns.entity[rows], return_inverse=True)
        order = np.argsort(group, kind="stable")
        parts = np.split(rows[order], np.cumsum(np.bincount(group))[:-1])
        found = [
            transition
            for entity, part in zip(entities.tolist(), parts, strict=True)
            for transition in self._follow(entity, part, columns, nats, crossing)
        ]
        return sorted(found, key=lambda transition: transition.row)

    def _follow(
        self,
        entity: str,
        rows: NDArray[np.intp],
        columns: Columns,
        nats: NDArray[np.float64],
        crossing: NDArray[np.bool_],
    ) -> Iterator[Transition]:
        """Transitions of one entity over its records; the loop turns once a transition, not once a record."""
        times, hot = columns.time[rows], np.flatnonzero(crossing[rows])
        incident, at = self._open.pop(entity, None), 0
        while True:
            if incident is None:
                hot = hot[np.searchsorted(hot, at) :]
                if not len(hot):
                    return
                at = int(hot[0])
                row, time = int(rows[at]), int(times[at])
                incident = Incident(entity, time, int(columns.offsets[row]), time, time, 1, float(nats[row]))
                yield Transition(row, "opened", incident)
                at += 1
            clock = np.maximum.accumulate(np.maximum(times[at:], incident.clock))
            incident, quiet_at = self._advance(incident, clock, hot[np.searchsorted(hot, at) :] - at, nats[rows[at:]])
            if quiet_at is None:
                self._open[entity] = incident
                return
            yield Transition(int(rows[at + quiet_at]), "resolved", incident)
            incident, at = None, at + quiet_at

    def _advance(
        self, incident: Incident, clock: NDArray[np.int64], hot: NDArray[np.intp], nats: NDArray[np.float64]
    ) -> tuple[Incident, int | None]:
        """Carries an incident over records with this non-decreasing `clock`, of which `hot` cross.

        Also says which record, if any, ends it.
        """
        crossings = np.concatenate([[incident.last_crossing], clock[hot]])
        gaps = np.flatnonzero(np.diff(crossings) >= self._quiet_ms)
        taken = hot[: gaps[0]] if len(gaps) else hot
        last = int(crossings[len(taken)])
        quiet_at = int(np.searchsorted(clock, last + self._quiet_ms))
        ended = quiet_at < len(clock)
        seen = clock[: quiet_at + 1] if ended else clock
        return (
            replace(
                incident,
                last_crossing=last,
                clock=int(seen[-1]) if len(seen) else incident.clock,
                records=incident.records + len(taken),
                peak=max(incident.peak, float(nats[taken].max(initial=-np.inf))),
            ),
            quiet_at if ended else None,
        )

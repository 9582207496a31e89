"""Decisions to incidents: alarms and elevated records of one entity are one incident, until the entity has been quiet.

Pure and incremental: the transitions depend on the records alone, not on where batches end. Time is each entity's own
event time, so a wrong clock harms no other entity, and a jump of it in either direction ends the incident rather than
freezing it. An entity that stops reporting leaves its incident open until it is forgotten itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.compiled import compiled
from detector.entities import Visits, grown
from detector.recursion import NEW_REGIME, SLOW_CREEP

if TYPE_CHECKING:
    from detector.config import AlertSettings

TransitionKind = Literal["opened", "escalated", "reminded", "resolved", "drift", "creep"]


@dataclass(frozen=True, slots=True)
class Incident:
    """One stretch of trouble of one entity.

    Times are epoch milliseconds; the peak is in nats, with the model it owes it to; `rank` is the highest
    severity so far, counted from 0; `told` is when an alert last spoke of it.
    """

    entity: str
    opened: int
    opened_offset: int
    last_elevated: int
    records: int
    peak: float
    peak_model: str
    rank: int
    told: int


class Transition(NamedTuple):
    """What a record did to an incident; `row` indexes the columns it was found in."""

    row: int
    kind: TransitionKind
    incident: Incident


class Decided(NamedTuple):
    """What was decided of n records, an array (n,) each."""

    static_nats: NDArray[np.float64]
    """−ln p against the calibration rows."""
    nats: NDArray[np.float64]
    """−ln p as the level sees it, which follows the stream."""
    level: NDArray[np.float64]
    """From how many nats on the record is an alarm."""
    static_level: NDArray[np.float64]
    """The same on the scale of `static_nats`."""
    alarm: NDArray[np.bool_]
    """Whether it is one: what the budget bounds."""
    elevated: NDArray[np.bool_]
    """Whether it is beyond the level within an excursion."""
    drift: NDArray[np.uint8]
    """0, `level.NEW_REGIME` or `level.SLOW_CREEP`."""
    model: NDArray[np.object_]
    """The most surprised model."""
    rank: NDArray[np.int64]
    """Severity, counted from 0, of records beyond the level."""

    def take(self, rows: slice | NDArray[np.bool_]) -> Decided:
        return Decided(**{name: array[rows] for name, array in self._asdict().items()})


class Incidents:
    """The open incidents of one partition, by the slot of the entity."""

    def __init__(self, settings: AlertSettings) -> None:
        self._quiet_ms = round(settings.quiet_for * 1000)
        self._cooldown_ms = round((settings.cooldown or 0) * 1000)
        self._remind_ms = None if settings.remind_after is None else round(settings.remind_after * 1000)
        self._confirm = settings.confirm
        self._open: dict[int, Incident] = {}
        self._cooling: dict[int, int] = {}
        self._is_open = np.zeros(0, np.bool_)
        self._recent = np.zeros((0, 2), np.uint64)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def open(self) -> list[Incident]:
        """Open incidents, in no particular order."""
        return list(self._open.values())

    def update(self, columns: Columns, decided: Decided, visits: Visits) -> list[Transition]:
        """Takes in records of this partition in offset order. Returns transitions in row order."""
        self._is_open = grown(self._is_open, int(visits.slot.max(initial=-1)) + 1)
        opening = self._confirmed(decided, visits)
        hot = self._is_open.copy()
        hot[visits.slot[opening | (decided.drift > 0)]] = True
        for slot in visits.slot[visits.fresh & ~hot[visits.slot]].tolist():
            self._cooling.pop(slot, None)
        if not hot.any():
            return []
        rows = visits.order[hot[visits.slot[visits.order]]]
        edges = np.flatnonzero(np.diff(visits.slot[rows])) + 1
        found = [
            transition
            for part in np.split(rows, edges)
            if len(part)
            for transition in self._follow(int(visits.slot[part[0]]), part, columns, decided, opening, visits.fresh)
        ]
        return sorted(found, key=lambda transition: transition.row)

    def _confirmed(self, decided: Decided, visits: Visits) -> NDArray[np.bool_]:
        """Records (n,) that open an incident where none is open: M of the last N are beyond the level, one an alarm."""
        if self._confirm.of == 1:
            return decided.alarm
        self._recent = grown(self._recent, len(self._is_open))
        opening = np.zeros_like(decided.alarm)
        confirm = self._confirm
        _confirm(
            *(visits.slot, visits.fresh, decided.alarm, decided.elevated),
            *(self._recent, confirm.records, confirm.of, opening),
        )
        return opening

    def _follow(
        self,
        slot: int,
        rows: NDArray[np.int64],
        columns: Columns,
        decided: Decided,
        opening: NDArray[np.bool_],
        fresh: NDArray[np.bool_],
    ) -> Iterator[Transition]:
        """Transitions of one slot over its records; a turn for each stretch between changes of owner and drifts."""
        incident = self._open.pop(slot, None)
        ends = np.flatnonzero(decided.drift[rows] > 0) + 1
        for part in np.split(rows, np.unique(np.concatenate([np.flatnonzero(fresh[rows]), ends]))):
            if not len(part):
                continue
            if fresh[part[0]]:
                self._cooling.pop(slot, None)
                if incident is not None:  # its entity was forgotten
                    yield Transition(int(part[0]), "resolved", incident)
                    incident = None
            incident = yield from self._stretch(slot, incident, part, columns, decided, opening)
            row = int(part[-1])
            if decided.drift[row] == NEW_REGIME:
                yield Transition(row, "drift", incident or _opened(row, columns, decided))
                incident = None
            elif decided.drift[row] == SLOW_CREEP:
                yield Transition(row, "creep", _opened(row, columns, decided))
        self._is_open[slot] = incident is not None
        if incident is not None:
            self._open[slot] = incident

    def _stretch(
        self,
        slot: int,
        incident: Incident | None,
        rows: NDArray[np.int64],
        columns: Columns,
        decided: Decided,
        opening: NDArray[np.bool_],
    ) -> Generator[Transition, None, Incident | None]:
        """Transitions of one entity over its records; the loop turns once an incident, not once a record."""
        times, elevated, at = columns.time[rows], decided.elevated[rows], 0
        while True:
            if incident is None:
                warm = np.abs(times[at:] - self._cooling.get(slot, -self._cooldown_ms)) >= self._cooldown_ms
                following = np.flatnonzero(opening[rows[at:]] & warm)
                if not len(following):
                    return None
                at += int(following[0])
                incident = _opened(int(rows[at]), columns, decided)
                yield Transition(int(rows[at]), "opened", incident)
                at += 1
            quiet_at = self._quiet_at(incident.last_elevated, times[at:], elevated[at:])
            taken = rows[at : at + quiet_at][elevated[at : at + quiet_at]]
            for last, kind in self._told(incident, taken, columns, decided):
                grown_ = _grown(incident, taken[: last + 1], columns, decided)
                yield Transition(int(taken[last]), kind, grown_)
                incident = replace(incident, told=grown_.last_elevated)
            incident = _grown(incident, taken, columns, decided)
            at += quiet_at
            if at == len(rows):
                return incident
            yield Transition(int(rows[at]), "resolved", incident)
            if self._cooldown_ms:
                self._cooling[slot] = int(times[at])
            incident = None

    def _quiet_at(self, last_elevated: int, times: NDArray[np.int64], elevated: NDArray[np.bool_]) -> int:
        """The first record that is the quiet time away from the elevated one before it; how many there are if none."""
        before = np.maximum.accumulate(np.where(elevated, np.arange(len(times)), -1))
        before = np.concatenate([[-1], before[:-1]])[: len(times)]
        latest = np.where(before >= 0, times[before], last_elevated)
        away = np.flatnonzero(np.abs(times - latest) >= self._quiet_ms)
        return int(away[0]) if len(away) else len(times)

    def _told(
        self, incident: Incident, rows: NDArray[np.int64], columns: Columns, decided: Decided
    ) -> Iterator[tuple[int, Literal["escalated", "reminded"]]]:
        """Which of these elevated records are told: those of a higher severity than all before them in the incident,
        and those that come so long after the last alert that it is told again."""
        ranks = np.maximum.accumulate(np.concatenate([[incident.rank], decided.rank[rows]]))
        rising, told = np.diff(ranks) > 0, incident.told
        if self._remind_ms is None:
            yield from ((int(last), "escalated") for last in np.flatnonzero(rising))
            return
        for last, time in enumerate(columns.time[rows].tolist()):
            if rising[last] or time - told >= self._remind_ms:
                told = time
                yield last, "escalated" if rising[last] else "reminded"


def _opened(row: int, columns: Columns, decided: Decided) -> Incident:
    """The incident that this record begins."""
    time, peak = int(columns.time[row]), float(decided.nats[row])
    return Incident(
        entity=str(columns.entity[row]),
        opened=time,
        opened_offset=int(columns.offsets[row]),
        last_elevated=time,
        records=1,
        peak=peak,
        peak_model=str(decided.model[row]),
        rank=int(decided.rank[row]),
        told=time,
    )


def _grown(incident: Incident, rows: NDArray[np.int64], columns: Columns, decided: Decided) -> Incident:
    """The incident with further elevated records."""
    if not len(rows):
        return incident
    highest = rows[decided.nats[rows].argmax()]
    grown_ = replace(
        incident,
        last_elevated=int(columns.time[rows[-1]]),
        records=incident.records + len(rows),
        rank=max(incident.rank, int(decided.rank[rows].max())),
    )
    if decided.nats[highest] <= incident.peak:
        return grown_
    return replace(grown_, peak=float(decided.nats[highest]), peak_model=str(decided.model[highest]))


@compiled
def _confirm(
    slot: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    alarm: NDArray[np.bool_],
    elevated: NDArray[np.bool_],
    recent: NDArray[np.uint64],
    records: int,
    of: int,
    opening: NDArray[np.bool_],
) -> None:
    """`recent` holds, as bits, which of an entity's last `of` records were elevated, and which were alarms."""
    kept = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - of)
    for i in range(len(slot)):
        bits = recent[slot[i]]
        if fresh[i]:
            bits[:] = np.uint64(0)
        bits[0] = ((bits[0] << np.uint64(1)) | np.uint64(elevated[i])) & kept
        bits[1] = ((bits[1] << np.uint64(1)) | np.uint64(alarm[i])) & kept
        count, rest = 0, bits[0]
        while rest != np.uint64(0):
            rest &= rest - np.uint64(1)
            count += 1
        opening[i] = elevated[i] and count >= records and bits[1] != np.uint64(0)

"""Decisions to incidents: alarms and elevated records of one entity are one incident, until the entity has been quiet.

Pure and incremental: the transitions depend on the records alone, not on where batches end. Time is each entity's own
event time, so a wrong clock harms no other entity, and a jump of it in either direction ends the incident rather than
freezing it. An entity that stops reporting leaves its incident open until it is forgotten itself.

A late record neither opens a second incident beside the one that it lies in nor ends the one that is open: it amends
the incident that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, count, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.confirmation import Confirmation
from detector.entities import Visits, grown, renumbered
from detector.recursion import NEW_REGIME, SLOW_CREEP
from detector.snapshot import State, to_columns, to_rows
from detector.windows import Late

if TYPE_CHECKING:
    from detector.config import AlertSettings

TransitionKind = Literal["opened", "escalated", "reminded", "amended", "resolved", "drift", "creep"]


class Record(NamedTuple):
    """A record that an alert told of, with its time in epoch milliseconds and its fields, to be told of again."""

    offset: int
    time: int
    numbers: Mapping[str, float]
    texts: Mapping[str, str | None]


class Again(NamedTuple):
    """A record that a late one changed, its window (window, d) as it is now, and the offset of the late one."""

    record: Record
    x: NDArray[np.float32]
    cause: int


@dataclass(frozen=True, slots=True)
class Incident:
    """One stretch of trouble of one entity.

    Times are epoch milliseconds; the peak is in nats, with the model it owes it to; `rank` is the highest
    severity so far, counted from 0; `told` is when an alert last spoke of it. `first` and `opened_offset` are of the
    record that opened it, and name it for good: a late record may only move `opened` back.
    """

    entity: str
    first: int
    opened: int
    opened_offset: int
    last_elevated: int
    records: int
    peak: float
    peak_model: str
    rank: int
    told: int


INCIDENT = tuple(it.name for it in fields(Incident))
incident_values = attrgetter(*INCIDENT)
"""Of an incident, in the order of its fields: what it is made of again."""

_GLANCE = 256
_OPEN, _ENDED, _ALERTED = ("slot", *INCIDENT), ("slot", "at", *INCIDENT), ("slot", "offset", "time")


class Transition(NamedTuple):
    """What a record did to an incident; `row` indexes the columns it was found in. Where `again` is given, that is the
    record to tell of, which the one at `row` changed."""

    row: int
    kind: TransitionKind
    incident: Incident
    again: Again | None = None


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
    scale: NDArray[np.float64]
    """How many of `static_nats` are one of `nats`."""
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

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Decided:
        return Decided(**{name: array[rows] for name, array in self._asdict().items()})


class _Batch(NamedTuple):
    """n records with what is known of each, (n,), and whether it opens an incident where none is open."""

    columns: Columns
    decided: Decided
    opening: NDArray[np.bool_]
    fresh: NDArray[np.bool_]
    late: Late


class _Ended(NamedTuple):
    """The last incident of an entity, and the event time at which it was resolved."""

    incident: Incident
    at: int


class Incidents:
    """The open incidents of one partition, with the records that were told as their opening or a rise of severity, and
    the last ones that were resolved; by the slot of the entity."""

    def __init__(self, settings: AlertSettings) -> None:
        self._quiet_ms = round(settings.quiet_for * 1000)
        self._cooldown_ms = round((settings.cooldown or 0) * 1000)
        self._remind_ms = None if settings.remind_after is None else round(settings.remind_after * 1000)
        self._confirmation = Confirmation(settings.confirm)
        self._open: dict[int, Incident] = {}
        self._alerted: dict[int, list[Record]] = {}
        self._ended: dict[int, _Ended] = {}
        self._is_open = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def open(self) -> list[Incident]:
        """Open incidents, in no particular order."""
        return list(self._open.values())

    def update(self, columns: Columns, decided: Decided, visits: Visits, late: Late) -> list[Transition]:
        """Takes in records of this partition in offset order. Returns transitions in row order."""
        self._is_open = grown(self._is_open, int(visits.slot.max(initial=-1)) + 1)
        opening = self._confirmation.opening(decided.alarm, decided.elevated, visits)
        hot = self._is_open.copy()
        hot[visits.slot[opening | (decided.drift > 0) | (late.rows & decided.elevated)]] = True
        for slot in visits.slot[visits.fresh & ~hot[visits.slot]].tolist():
            self._ended.pop(slot, None)
        if not hot.any():
            return []
        matters = ~late.rows | decided.elevated | (decided.drift > 0)
        matters[self._amending(columns, decided, late)] = True
        rows = visits.order[(matters & hot[visits.slot])[visits.order]]
        edges = np.flatnonzero(np.diff(visits.slot[rows])) + 1
        batch = _Batch(columns, decided, opening, visits.fresh, late)
        found = [
            transition
            for part in np.split(rows, edges)
            if len(part)
            for transition in self._follow(int(visits.slot[part[0]]), part, batch)
        ]
        return sorted(found, key=lambda transition: transition.row)

    @property
    def slots(self) -> list[int]:
        """Where the entities with an open incident live."""
        return list(self._open)

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """What is remembered of these slots."""
        opened, ended = renumbered(self._open, slots), renumbered(self._ended, slots)
        return {
            "confirmation": self._confirmation.to_state(slots),
            "open": to_columns(_OPEN, ((slot, *incident_values(it)) for slot, it in opened.items())),
            "alerted": _to_state(renumbered(self._alerted, slots)),
            "ended": to_columns(_ENDED, ((slot, it.at, *incident_values(it.incident)) for slot, it in ended.items())),
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._confirmation.restore(state["confirmation"])
        self._open = {slot: Incident(*it) for slot, *it in to_rows(_OPEN, state["open"])}
        self._alerted = _from_state(state["alerted"])
        self._ended = {slot: _Ended(Incident(*it), at) for slot, at, *it in to_rows(_ENDED, state["ended"])}
        self._is_open = np.zeros(1 + max(self._open, default=-1), np.bool_)
        self._is_open[self.slots] = True

    def _amending(self, columns: Columns, decided: Decided, late: Late) -> NDArray[np.int64]:
        """The late records that changed one that may have been told: before, or now as it is elevated."""
        if not len(late.cause):
            return late.cause
        told = np.array([it.offset for records in self._alerted.values() for it in records], np.int64)
        return late.cause[np.isin(late.offset, np.append(told, columns.offsets[decided.elevated]))]

    def _follow(self, slot: int, rows: NDArray[np.int64], batch: _Batch) -> Iterator[Transition]:
        """Transitions of one slot over its records; a turn for each stretch between changes of owner, drifts and late
        records."""
        incident = self._open.pop(slot, None)
        for part in _stretches(rows, batch):
            if batch.fresh[part[0]]:
                self._ended.pop(slot, None)
                if incident is not None:  # its entity was forgotten
                    yield Transition(int(part[0]), "resolved", incident)
                    incident = None
            follow = self._in_its_place if batch.late.rows[part[0]] else self._stretch
            incident = yield from follow(slot, incident, part, batch)
            row = int(part[-1])
            if batch.decided.drift[row] == NEW_REGIME:
                yield Transition(row, "drift", incident or _opened(row, batch))
                incident = None
            elif batch.decided.drift[row] == SLOW_CREEP:
                yield Transition(row, "creep", _opened(row, batch))
        self._is_open[slot] = incident is not None
        if incident is not None:
            self._open[slot] = incident
        else:
            self._alerted.pop(slot, None)

    def _stretch(
        self, slot: int, incident: Incident | None, rows: NDArray[np.int64], batch: _Batch
    ) -> Generator[Transition, None, Incident | None]:
        """Transitions of one entity over its records; the loop turns once an incident, not once a record."""
        times, elevated, at = batch.columns.time[rows], batch.decided.elevated[rows], 0
        opening = np.flatnonzero(batch.opening[rows])
        while True:
            if incident is None:
                following = opening[np.searchsorted(opening, at) :]
                following = following[self._warm(slot, times[following])]
                if not len(following):
                    return None
                at = int(following[0])
                incident = _opened(int(rows[at]), batch)
                self._alerted[slot] = [_record(int(rows[at]), batch)]
                yield Transition(int(rows[at]), "opened", incident)
                at += 1
            quiet_at = self._quiet_at(incident.last_elevated, times[at:], elevated[at:])
            taken = rows[at : at + quiet_at][elevated[at : at + quiet_at]]
            for last, kind in self._told(incident, taken, batch):
                grown_ = _grown(incident, taken[: last + 1], batch)
                yield Transition(int(taken[last]), kind, grown_)
                incident = replace(incident, told=grown_.last_elevated)
                if kind == "escalated":
                    self._alerted[slot].append(_record(int(taken[last]), batch))
            incident = _grown(incident, taken, batch)
            at += quiet_at
            if at == len(rows):
                return incident
            yield Transition(int(rows[at]), "resolved", incident)
            self._ended[slot] = _Ended(incident, int(times[at]))
            incident = None

    def _in_its_place(
        self, slot: int, incident: Incident | None, rows: NDArray[np.int64], batch: _Batch
    ) -> Generator[Transition, None, Incident | None]:
        """Transitions of one late record. It belongs to the incident in whose span it lies; else to the open one, which
        is no farther from it than records may be late; else it is a record like any other."""
        row, time, ended = int(rows[0]), int(batch.columns.time[rows[0]]), self._ended.get(slot)
        if batch.decided.elevated[row]:
            if ended and self._spans(ended.incident, time) and not (incident and self._spans(incident, time)):
                amended = _grown_back(ended.incident, rows, batch)
                self._ended[slot] = ended._replace(incident=amended)
                yield Transition(row, "amended", amended)
            elif incident is None:
                incident = yield from self._stretch(slot, None, rows, batch)
            else:
                before, incident = incident, _grown_back(incident, rows, batch)
                rises = incident.rank > before.rank
                yield Transition(row, "escalated" if rises else "amended", incident)
                self._alerted[slot] += [_record(row, batch)] * rises
        if incident is not None:
            told = {record.offset: record for record in self._alerted[slot]}
            for number in range(*np.searchsorted(batch.late.cause, [row, row + 1]).tolist()):
                if (record := told.get(int(batch.late.offset[number]))) is not None:
                    again = Again(record, batch.late.x[number], int(batch.columns.offsets[row]))
                    yield Transition(row, "amended", incident, again)
        return incident

    def _spans(self, incident: Incident, time: int) -> bool:
        """Whether an elevated record at this time would have been one of the incident."""
        return incident.opened - self._quiet_ms < time < incident.last_elevated + self._quiet_ms

    def _warm(self, slot: int, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the entity may open an incident at each of the times (n,)."""
        ended = self._ended.get(slot)
        return np.abs(times - ended.at) >= self._cooldown_ms if ended else np.ones(len(times), np.bool_)

    def _quiet_at(self, last_elevated: int, times: NDArray[np.int64], elevated: NDArray[np.bool_]) -> int:
        """The first record that is the quiet time away from the elevated one before it; how many there are if none.
        Looks at ever more of them, so that many short incidents in a long batch cost no more than one."""
        for most in (_GLANCE << power for power in count(0, 2)):
            found = self._first_quiet(last_elevated, times[:most], elevated[:most])
            if found < most:
                break
        return found

    def _first_quiet(self, last_elevated: int, times: NDArray[np.int64], elevated: NDArray[np.bool_]) -> int:
        before = np.maximum.accumulate(np.where(elevated, np.arange(len(times)), -1))
        before = np.concatenate([[-1], before[:-1]])[: len(times)]
        latest = np.where(before >= 0, times[before], last_elevated)
        away = np.flatnonzero(np.abs(times - latest) >= self._quiet_ms)
        return int(away[0]) if len(away) else len(times)

    def _told(
        self, incident: Incident, rows: NDArray[np.int64], batch: _Batch
    ) -> Iterator[tuple[int, Literal["escalated", "reminded"]]]:
        """Which of these elevated records are told: those of a higher severity than all before them in the incident,
        and those that come so long after the last alert that it is told again."""
        ranks = np.maximum.accumulate(np.concatenate([[incident.rank], batch.decided.rank[rows]]))
        rising, told = np.diff(ranks) > 0, incident.told
        if self._remind_ms is None:
            yield from ((int(last), "escalated") for last in np.flatnonzero(rising))
            return
        for last, time in enumerate(batch.columns.time[rows].tolist()):
            if rising[last] or time - told >= self._remind_ms:
                told = time
                yield last, "escalated" if rising[last] else "reminded"


def _stretches(rows: NDArray[np.int64], batch: _Batch) -> list[NDArray[np.int64]]:
    """The records of one slot, cut where it changes hands, after each drift, and around each late record."""
    drifts, lates = np.flatnonzero(batch.decided.drift[rows] > 0), np.flatnonzero(batch.late.rows[rows])
    edges = np.unique(np.concatenate([np.flatnonzero(batch.fresh[rows]), drifts + 1, lates, lates + 1]))
    return [part for part in np.split(rows, edges) if len(part)]


def _opened(row: int, batch: _Batch) -> Incident:
    """The incident that this record begins."""
    columns, decided = batch.columns, batch.decided
    time, peak = int(columns.time[row]), float(decided.nats[row])
    return Incident(
        entity=str(columns.entity[row]),
        first=time,
        opened=time,
        opened_offset=int(columns.offsets[row]),
        last_elevated=time,
        records=1,
        peak=peak,
        peak_model=str(decided.model[row]),
        rank=int(decided.rank[row]),
        told=time,
    )


def _record(row: int, batch: _Batch) -> Record:
    columns = batch.columns
    return Record(
        int(columns.offsets[row]),
        int(columns.time[row]),
        {name: float(column[row]) for name, column in columns.numbers.items()},
        {name: column[row] for name, column in columns.texts.items()},
    )


def _to_state(alerted: Mapping[int, Sequence[Record]]) -> State:
    """Records by slot, m in all, with their numbers (m, fields). Where a version knew other fields than another, those
    are as if missing."""
    rows = [(slot, record) for slot, records in alerted.items() for record in records]
    numbers, texts = _names(record.numbers for _, record in rows), _names(record.texts for _, record in rows)
    values = chain.from_iterable(map(record.numbers.get, numbers, repeat(math.nan)) for _, record in rows)
    return {
        **to_columns(_ALERTED, ((slot, record.offset, record.time) for slot, record in rows)),
        "number_fields": numbers,
        "numbers": np.fromiter(values, np.float64, len(rows) * len(numbers)).reshape(len(rows), len(numbers)),
        "text_fields": texts,
        "texts": [[*map(record.texts.get, texts)] for _, record in rows],
    }


def _names(records: Iterable[Mapping[str, object]]) -> list[str]:
    """The fields that any of them has."""
    return [*dict.fromkeys(chain.from_iterable(dict.fromkeys(map(tuple, records))))]


def _from_state(state: State) -> dict[int, list[Record]]:
    alerted: dict[int, list[Record]] = {}
    rows = zip(to_rows(_ALERTED, state), state["numbers"].tolist(), state["texts"], strict=True)
    for (slot, offset, time), numbers, texts in rows:
        known = (
            dict(zip(state[f"{kind}_fields"], of, strict=True)) for kind, of in (("number", numbers), ("text", texts))
        )
        alerted.setdefault(slot, []).append(Record(offset, time, *known))
    return alerted


def _grown(incident: Incident, rows: NDArray[np.int64], batch: _Batch) -> Incident:
    """The incident with further elevated records."""
    if not len(rows):
        return incident
    columns, decided = batch.columns, batch.decided
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


def _grown_back(incident: Incident, rows: NDArray[np.int64], batch: _Batch) -> Incident:
    """The incident with one late elevated record."""
    grown_ = _grown(incident, rows, batch)
    return replace(
        grown_,
        opened=min(incident.opened, grown_.last_elevated),
        last_elevated=max(incident.last_elevated, grown_.last_elevated),
    )

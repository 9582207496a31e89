"""Outbreaks: when many entities cross together that is one incident, named by what they have in common.

The openings of the last while are counted, an entity once, and compared with what the promised rate lets expect of the
records of that time. A count that chance does not explain is an outbreak; then, and as long as it stays beyond chance,
openings join it and are not told one by one. The count in a sliding window against its Poisson tail is a scan statistic
(Naus, Journal of the American Statistical Association 1965).

Time is what passes on the clock of the partition: the greatest event time that two entities in a row have come to, so
that no single wrong clock moves it. What is told depends on the records alone, not on where batches end. An entity that
stops reporting leaves its incident open, and with it the outbreak; what opens later is told, alone or as another one.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtrc

from consumers.batch import Columns
from consumers.compiled import compiled
from detector.alerts import ENDING
from detector.entities import Visits, renumbered
from detector.incidents import INCIDENT, Incident, Transition, TransitionKind, incident_values
from detector.snapshot import State, to_columns, to_rows
from detector.traits import Common, Traits

CHANCE = 1e-6
"""Probability below which so many openings are not chance. Each opening is a test; of those that come by chance, in
simulation, one in a million completes an outbreak, at 0.1 to 5 expected in the window."""
BUCKETS = 16
"""Parts in which promised alarms are summed up: at most one of them more than the window is looked at."""
PATIENCE = 1000.0
"""So many records in a row behind the clock by more than the window, and the clock was wrong."""
MOST_NAMES = 20
"""Entities that an outbreak names."""

NOBODY = -1
"""In place of an outbreak, or of a slot."""
RECENT, OPENING = ("slot", "at"), ("slot", "alone", "open", "live", *INCIDENT)

# What is remembered of the clock and of what was promised.
NOW, SLOT, LATEST, OTHER, BEHIND, ELAPSED, PROMISED, BUCKET, CLOCK = range(9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbreak(Incident):
    """One stretch of trouble of many entities. Its entity is empty, and it opened with the record that completed it.

    `records`, `peak` and `rank` are those of its members together, as last told of each. `members` counts entities,
    `names` has the first of them, `common` what they share, the most telling first.
    """

    members: int
    names: tuple[str, ...]
    common: tuple[Common, ...]


@dataclass(slots=True)
class _Live:
    """An outbreak that is not over, as it is and as it was told. Times are ms elapsed: of the last alert, of the last
    opening that joined, and of the last sign of a member; `open` counts members with an open incident."""

    outbreak: Outbreak
    told: Outbreak
    told_at: float = 0.0
    joined: float = 0.0
    stirred: float = 0.0
    open: int = 0
    drifted: bool = False

    @classmethod
    def completed_by(cls, incident: Incident) -> Self:
        """Without members yet, with the identity of the opening that was one too many."""
        known = {it.name: getattr(incident, it.name) for it in fields(incident)}
        empty = Outbreak(**{**known, "entity": "", "records": 0}, members=0, names=(), common=())
        return cls(empty, empty)

    def join(self, opening: _Opening, now: float, *, new: bool) -> None:
        """An entity opened an incident, which is part of this; `new` if it was no member yet."""
        opening.live, self.joined = self, now
        self.open += opening.open
        known = self.outbreak
        names = (*known.names, opening.incident.entity) if new and len(known.names) < MOST_NAMES else known.names
        self.outbreak = replace(known, members=known.members + new, names=names)
        self.stir(opening.incident, opening.incident.records, now)

    def stir(self, incident: Incident, more: int, now: float) -> None:
        """Something is told of a member's incident, which has so many more records."""
        known, self.stirred = self.outbreak, now
        highest = max(known, incident, key=lambda it: it.peak)
        self.outbreak = replace(
            known,
            last_elevated=max(known.last_elevated, incident.last_elevated),
            records=known.records + more,
            peak=highest.peak,
            peak_model=highest.peak_model,
            rank=max(known.rank, incident.rank),
        )


@dataclass(slots=True)
class _Opening:
    """The last incident of an entity, as last told; `alone` if it was told by itself when it opened."""

    incident: Incident
    alone: bool
    open: bool = True
    live: _Live | None = None


class _Batch(NamedTuple):
    """Records; of each (n,) the ms elapsed and the openings that are expected in the window; and the rows from which is
    learned what entities are."""

    columns: Columns
    visits: Visits
    elapsed: NDArray[np.float64]
    expected: NDArray[np.float64]
    lessons: NDArray[np.int64]

    def after(self, elapsed: float, first: int) -> int:
        """The first row from `first` on at which more has elapsed; n if none."""
        return max(first, int(np.searchsorted(self.elapsed, elapsed, side="right")))


class Outbreaks:
    """The outbreaks of one partition: at least `entities` open within `within_ms`.

    A member that opens again joins its outbreak where there was a sign of one of the members in the last
    `quiet_ms + within_ms`.
    """

    def __init__(self, *, entities: int, within_ms: int, quiet_ms: int, remind_ms: int | None) -> None:
        self._entities, self._within = entities, float(within_ms)
        self._hold, self._remind = float(quiet_ms + within_ms), remind_ms
        self._clock, self._starts = np.zeros(CLOCK), np.zeros(BUCKETS)
        self._clock[[NOW, SLOT, LATEST, OTHER]] = -math.inf, NOBODY, -math.inf, -math.inf
        self._traits = Traits()
        self._recent: OrderedDict[int, float] = OrderedDict()
        self._alone: dict[int, _Opening] = {}
        self._members: dict[int, _Opening] = {}
        self._live: list[_Live] = []

    def __len__(self) -> int:
        return len(self._live)

    def update(
        self, columns: Columns, transitions: Sequence[Transition], promised: NDArray[np.float64], visits: Visits
    ) -> list[Transition]:
        """Takes in records of this partition in offset order, what became of single incidents, in row order, and the
        alarms (n,) promised at each record. Returns what is told, in row order."""
        elapsed, expected = np.empty(len(columns)), np.empty(len(columns))
        _pass(columns.time, visits.slot, promised, self._within, self._clock, self._starts, elapsed, expected)
        openings = np.array([row for row, kind, *_ in transitions if kind == "opened"], np.int64)
        batch = _Batch(columns, visits, elapsed, expected, self._traits.lessons(visits, openings))
        told, row = list[Transition](), 0
        for transition in transitions:
            told += self._due(row, transition.row, batch)
            row = transition.row
            told += self._follow(transition, batch)
        told += self._due(row, len(columns) - 1, batch)
        self._traits.learn(columns, visits, batch.lessons)
        return sorted(told, key=lambda transition: transition.row)

    @property
    def slots(self) -> list[int]:
        """Where the members of outbreaks that are not over live."""
        return list(self._members)

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """What is remembered of these slots, and of all outbreaks. Of their members, others are open no more."""
        alone, members = renumbered(self._alone, slots), renumbered(self._members, slots)
        place = {id(live): number for number, live in enumerate(self._live)}
        before, after = (Counter(id(it.live) for it in of.values() if it.open) for of in (self._members, members))
        clock, last = self._clock.copy(), renumbered({int(self._clock[SLOT]): None}, slots)
        clock[SLOT] = next(iter(last), NOBODY)
        openings = (
            (slot, it.alone, it.open, place.get(id(it.live), NOBODY), *incident_values(it.incident))
            for slot, it in (*alone.items(), *members.items())
        )
        return {
            "clock": clock,
            "starts": self._starts.copy(),
            "traits": self._traits.to_state(slots),
            "recent": to_columns(RECENT, renumbered(self._recent, slots).items()),
            "live": [{**asdict(live), "open": live.open - before[id(live)] + after[id(live)]} for live in self._live],
            "openings": to_columns(OPENING, openings),
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._clock, self._starts = state["clock"].copy(), state["starts"].copy()
        self._traits.restore(state["traits"])
        self._recent = OrderedDict(to_rows(RECENT, state["recent"]))
        self._live = [
            _Live(**{**live, "outbreak": _outbreak(live["outbreak"]), "told": _outbreak(live["told"])})
            for live in state["live"]
        ]
        self._alone, self._members = {}, {}
        for slot, alone, is_open, live, *incident in to_rows(OPENING, state["openings"]):
            opening = _Opening(Incident(*incident), alone, is_open, None if live == NOBODY else self._live[live])
            (self._alone if live == NOBODY else self._members)[slot] = opening

    def _follow(self, transition: Transition, batch: _Batch) -> Iterator[Transition]:
        """What is told of a transition of one entity: itself, its outbreak, both, or nothing."""
        row, kind, incident, _ = transition
        slot, now = int(batch.visits.slot[row]), float(batch.elapsed[row])
        if kind == "opened":
            yield from self._opened(transition, slot, now, batch)
            return
        opening = self._alone.get(slot) or self._members.get(slot)
        if opening is None or opening.incident.opened_offset != incident.opened_offset or kind == "creep":
            yield transition
            return
        more, ended = incident.records - opening.incident.records, opening.open and kind in ENDING
        opening.incident, opening.open = incident, opening.open and not ended
        if opening.live is None or (ended and opening.alone):
            yield transition
        if opening.live is not None:
            yield from self._stirred(opening.live, transition, more, ended, batch)

    def _opened(self, transition: Transition, slot: int, now: float, batch: _Batch) -> Iterator[Transition]:
        """Itself where chance explains it, and where it joins an outbreak the beginning of that, or a rise."""
        row, _, incident, _ = transition
        self._alone.pop(slot, None)
        known = self._members.get(slot)
        live = known.live if known is not None and known.incident.entity == incident.entity else None
        if live is None or now - live.stirred > self._hold:
            self._count(slot, now)
            if not self._are_too_many(float(batch.expected[row])):
                self._alone[slot] = _Opening(incident, alone=True)
                yield transition
                return
            live = self._growing(incident, now)
        self._join(live, slot, _Opening(incident, alone=False), now)
        if not live.told.members:
            yield self._tell("opened", live, row, batch)
        elif live.outbreak.rank > live.told.rank:
            yield self._tell("escalated", live, row, batch)

    def _count(self, slot: int, now: float) -> None:
        """An entity counts once, with its last opening."""
        self._recent[slot] = now
        self._recent.move_to_end(slot)
        while (oldest := next(iter(self._recent.items())))[1] < now - self._within:
            self._recent.popitem(last=False)
            self._alone.pop(oldest[0], None)

    def _are_too_many(self, expected: float) -> bool:
        """Whether chance does not explain how many entities opened: P(N ≥ n) where their number N is Poisson."""
        n = len(self._recent)
        return n >= self._entities and float(pdtrc(n - 1, expected)) < CHANCE

    def _growing(self, incident: Incident, now: float) -> _Live:
        """The outbreak of those who open now; who was told alone in the window joins it."""
        if not self._live or now - self._live[-1].joined > self._within:
            self._live.append(_Live.completed_by(incident))
        live = self._live[-1]
        for slot, opening in self._alone.items():
            self._join(live, slot, opening, now)
        self._alone.clear()
        return live

    def _join(self, live: _Live, slot: int, opening: _Opening, now: float) -> None:
        known = self._members.get(slot)
        new = known is None or known.live is not live or known.incident.entity != opening.incident.entity
        self._members[slot] = opening
        live.join(opening, now, new=new)

    def _stirred(
        self, live: _Live, transition: Transition, more: int, ended: bool, batch: _Batch
    ) -> Iterator[Transition]:
        """What a member's transition tells of the outbreak."""
        row, kind, incident, _ = transition
        now = float(batch.elapsed[row])
        live.open -= ended
        live.drifted |= kind == "drift"
        live.stir(incident, more, now)
        if live.outbreak.rank > live.told.rank:
            yield self._tell("escalated", live, row, batch)
        elif kind == "reminded" and self._remind is not None and now - live.told_at >= self._remind:
            yield self._tell("reminded", live, row, batch)

    def _due(self, first: int, last: int, batch: _Batch) -> Iterator[Transition]:
        """What time brings from row `first` to row `last`: that members have doubled is told when the last alert is
        older than the window; an outbreak is over when no member has an open incident, and none opened for longer.
        """
        for live in list(self._live):
            has_doubled = live.outbreak.members >= 2 * live.told.members
            over = last + 1 if live.open else batch.after(live.joined + self._within, first)
            doubled = batch.after(live.told_at + self._within, first) if has_doubled else last + 1
            if doubled <= last and doubled < over:
                yield self._tell("escalated", live, doubled, batch)
            if over <= last:
                yield self._tell("drift" if live.drifted else "resolved", live, over, batch)
                self._live.remove(live)
                self._members = {slot: it for slot, it in self._members.items() if it.live is not live}

    def _tell(self, kind: TransitionKind, live: _Live, row: int, batch: _Batch) -> Transition:
        known = batch.lessons[: np.searchsorted(batch.lessons, row, side="right")]
        self._traits.learn(batch.columns, batch.visits, known)
        members = [slot for slot, opening in self._members.items() if opening.live is live]
        common = self._traits.common(np.array(members, np.int64))
        live.outbreak = replace(live.outbreak, told=int(batch.columns.time[row]), common=common)
        live.told, live.told_at = live.outbreak, float(batch.elapsed[row])
        return Transition(row, kind, live.outbreak)


def _outbreak(state: Mapping[str, Any]) -> Outbreak:
    common = tuple(Common(*it) for it in state["common"])
    return Outbreak(**{**state, "names": tuple(state["names"]), "common": common})


@compiled
def _pass(
    time: NDArray[np.int64],
    slot: NDArray[np.int64],
    promised: NDArray[np.float64],
    within: float,
    clock: NDArray[np.float64],
    starts: NDArray[np.float64],
    elapsed: NDArray[np.float64],
    expected: NDArray[np.float64],
) -> None:
    """The clock, record by record, and the alarms promised in the window, by what was promised in all when each of the
    last `BUCKETS` parts of it began."""
    now, last_slot, latest, other, behind, passed, total, bucket = clock
    part, at_start = within / (BUCKETS - 1), starts[int(bucket + 1) % BUCKETS]
    for i in range(len(time)):
        if slot[i] != last_slot:
            last_slot, other = float(slot[i]), latest
        latest = float(time[i])
        agreed = min(latest, other)
        step = agreed - now
        behind = behind + 1 if step < -within else 0.0
        if step > 0 or behind > PATIENCE:
            passed += step if 0 < step < math.inf else 0.0
            now, behind = agreed, 0.0
            if passed >= (bucket + 1) * part:
                bucket = max(bucket, math.floor(passed / part) - BUCKETS)
                while passed >= (bucket + 1) * part:
                    bucket += 1
                    starts[int(bucket) % BUCKETS] = total
                at_start = starts[int(bucket + 1) % BUCKETS]
        total += promised[i]
        elapsed[i], expected[i] = passed, total - at_start
    clock[:] = now, last_slot, latest, other, behind, passed, total, bucket

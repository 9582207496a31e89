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
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import repeat
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtrc

from consumers.batch import Columns
from detector.alerts import ENDING
from detector.compiled import compiled
from detector.entities import Visits, grown
from detector.incidents import Incident, Transition, TransitionKind

CHANCE = 1e-6
"""Probability below which so many openings are not chance. Each opening is a test; of those that come by chance, in
simulation, one in a million completes an outbreak, at 0.1 to 5 expected in the window."""
BUCKETS = 16
"""Parts in which promised alarms are summed up: at most one of them more than the window is looked at."""
PATIENCE = 1000.0
"""So many records in a row behind the clock by more than the window, and the clock was wrong."""
MOST_NAMES = 20
"""Entities that an outbreak names."""
MOST_REASONS = 1000
"""Entities whose first reason is remembered."""
SHARED, LIFT, MOST_COMMON = 0.8, 2.0, 3
"""What is common, at least this share of the members has, and so many times the share of all others; so much is named
at most."""
REFRESH = 128
"""Of an entity's records one in so many is looked at for what the entity is, the first one among them."""
LONGEST_TEXT = 64
"""Characters beyond which a text is taken for nobody's common property."""
FEWEST_TEXTS = 256
"""Texts of a field that there is always room for."""
NAME = ""
"""In place of a field: how the names of entities begin."""
SEPARATORS = "-._/:"

# What is remembered of the clock and of what was promised.
NOW, SLOT, LATEST, OTHER, BEHIND, ELAPSED, PROMISED, BUCKET, CLOCK = range(9)


class Common(NamedTuple):
    """A text of a field, or a beginning of names like `rack7-*` (field `NAME`), and the shares of the members and of
    all other entities that have it."""

    field: str
    value: str
    share: float
    elsewhere: float

    @property
    def likeness(self) -> float:
        """How little it tells the members from the others."""
        return self.elsewhere / self.share


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
        self._clock[[NOW, SLOT, LATEST, OTHER]] = -math.inf, -1.0, -math.inf, -math.inf
        self._traits = Traits()
        self._recent: OrderedDict[int, float] = OrderedDict()
        self._alone: dict[int, _Opening] = {}
        self._members: dict[int, _Opening] = {}
        self._live: list[_Live] = []
        self._reasons: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def update(
        self, columns: Columns, transitions: Sequence[Transition], promised: NDArray[np.float64], visits: Visits
    ) -> list[Transition]:
        """Takes in records of this partition in offset order, what became of single incidents, in row order, and the
        alarms (n,) promised at each record. Returns what is told, in row order."""
        elapsed, expected = np.empty(len(columns)), np.empty(len(columns))
        _pass(columns.time, visits.slot, promised, self._within, self._clock, self._starts, elapsed, expected)
        openings = np.array([row for row, kind, _ in transitions if kind == "opened"], np.int64)
        batch = _Batch(columns, visits, elapsed, expected, self._traits.lessons(visits, openings))
        told, row = list[Transition](), 0
        for transition in transitions:
            told += self._due(row, transition.row, batch)
            row = transition.row
            told += self._follow(transition, batch)
        told += self._due(row, len(columns) - 1, batch)
        self._traits.learn(columns, visits, batch.lessons)
        return sorted(told, key=lambda transition: transition.row)

    def explained(self, entity: str, feature: str) -> None:
        """The feature that an alert of this entity names first; to be said in the order in which they are told."""
        self._reasons[entity] = feature
        self._reasons.move_to_end(entity)
        if len(self._reasons) > MOST_REASONS:
            self._reasons.popitem(last=False)

    def blamed(self, outbreak: Outbreak) -> str | None:
        """The feature that alerts of its members named first most often."""
        named = Counter(self._reasons[name] for name in outbreak.names if name in self._reasons)
        return named.most_common(1)[0][0] if named else None

    def to_state(self) -> dict[str, Any]:
        """Everything remembered: arrays, and what JSON can hold."""
        place = {id(live): number for number, live in enumerate(self._live)}
        return {
            "clock": self._clock.copy(),
            "starts": self._starts.copy(),
            "traits": self._traits.to_state(),
            "recent": list(self._recent.items()),
            "live": [asdict(live) for live in self._live],
            "openings": [
                [slot, asdict(it.incident), it.alone, it.open, None if it.live is None else place[id(it.live)]]
                for slot, it in (*self._alone.items(), *self._members.items())
            ],
            "reasons": list(self._reasons.items()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where `to_state` stood."""
        self._clock, self._starts = state["clock"].copy(), state["starts"].copy()
        self._traits = Traits.from_state(state["traits"])
        self._recent = OrderedDict(map(tuple, state["recent"]))
        self._live = [
            _Live(**{**live, "outbreak": _outbreak(live["outbreak"]), "told": _outbreak(live["told"])})
            for live in state["live"]
        ]
        for slot, incident, alone, is_open, live in state["openings"]:
            opening = _Opening(Incident(**incident), alone, is_open, None if live is None else self._live[live])
            (self._alone if live is None else self._members)[slot] = opening
        self._reasons = OrderedDict(map(tuple, state["reasons"]))

    def _follow(self, transition: Transition, batch: _Batch) -> Iterator[Transition]:
        """What is told of a transition of one entity: itself, its outbreak, both, or nothing."""
        row, kind, incident = transition
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
        row, _, incident = transition
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
        self._alone.pop(slot, None)
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
        row, kind, incident = transition
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


class Traits:
    """What the entities of a partition are, by slot: their latest texts, and how their names begin."""

    def __init__(self) -> None:
        self._fields: dict[str, _Texts] = {}
        self._seen = np.zeros(0, np.uint8)
        self._inhabited = 0

    def lessons(self, visits: Visits, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows to learn from, of n: these, and of each entity the first record and then one in `REFRESH`."""
        self._seen = grown(self._seen, int(visits.slot.max(initial=-1)) + 1)
        chosen = np.zeros(len(visits.slot), np.bool_)
        chosen[rows] = True
        _choose(visits.slot, visits.fresh, self._seen, chosen)
        return np.flatnonzero(chosen)

    def learn(self, columns: Columns, visits: Visits, rows: NDArray[np.int64]) -> None:
        """From these rows, in order; to learn the first of them twice does no harm."""
        slots, met = visits.slot[rows], rows[visits.fresh[rows]]
        self._inhabited = max(self._inhabited, int(slots.max(initial=-1)) + 1)
        self._fields = {name: self._fields.get(name, _Texts()) for name in (NAME, *columns.texts)}
        self._fields[NAME].put(visits.slot[met], [_beginning(name) for name in columns.entity[met]])
        for name, texts in columns.texts.items():
            self._fields[name].put(slots, texts[rows].tolist())

    def common(self, members: NDArray[np.int64]) -> tuple[Common, ...]:
        """What the entities in these slots have in common and most others have not, the most telling first."""
        outside = np.ones(self._inhabited, np.bool_)
        outside[members] = False
        others = np.flatnonzero(outside)
        if not len(others):
            return ()
        found = [list(texts.shared(name, members, others)) for name, texts in self._fields.items()]
        best = [min(shared, key=lambda it: (it.likeness, -len(it.value))) for shared in found if shared]
        return tuple(sorted(best, key=lambda it: it.likeness)[:MOST_COMMON])

    def to_state(self) -> dict[str, Any]:
        """Everything remembered: arrays, and what JSON can hold."""
        texts = {name: [list(it.numbers), it.of.copy()] for name, it in self._fields.items()}
        return {"fields": texts, "seen": self._seen.copy(), "inhabited": self._inhabited}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Traits:
        """What `to_state` gave, to go on."""
        traits = cls()
        traits._seen, traits._inhabited = state["seen"].copy(), state["inhabited"]
        for name, (texts, of) in state["fields"].items():
            traits._fields[name] = _Texts({text: number for number, text in enumerate(texts)}, of.copy())
        return traits


@dataclass(slots=True)
class _Texts:
    """The texts of one field, numbered, and the number that each slot's entity has; None is a text too."""

    numbers: dict[str | None, int] = field(default_factory=lambda: {None: 0})
    of: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def put(self, slots: NDArray[np.int64], texts: Sequence[str | None]) -> None:
        """The entities in these slots have these texts; of a slot that comes twice, the last."""
        self.of = grown(self.of, int(slots.max(initial=-1)) + 1)
        found = np.fromiter(map(self.numbers.get, texts, repeat(-1)), np.int32, len(slots))
        for place in np.flatnonzero(found < 0).tolist():
            found[place] = self._number(texts[place])
        self.of[slots] = found
        if len(self.numbers) > max(FEWEST_TEXTS, 2 * len(self.of)):
            self._forget()

    def shared(self, name: str, members: NDArray[np.int64], others: NDArray[np.int64]) -> Iterator[Common]:
        """Texts, in `NAME` beginnings of any length, that are common to the members."""
        known = grown(self.of, int(max(members.max(), others.max())) + 1)
        inside, outside, texts = known[members], known[others], list(self.numbers)
        counts = Counter[str]()
        for number, count in enumerate(np.bincount(inside).tolist()):
            if count and (text := texts[number]) is not None:
                counts.update(dict.fromkeys(_beginnings(text) if name == NAME else [text], count))
        for value, count in counts.items():
            if (share := count / len(members)) < SHARED:
                continue
            alike = [number for text, number in self.numbers.items() if text and text.startswith(value)]
            elsewhere = float(np.isin(outside, alike if name == NAME else self.numbers[value]).mean())
            if share >= LIFT * elsewhere:
                yield Common(name, f"{value}*" if name == NAME else value, share, elsewhere)

    def _number(self, text: str | None) -> int:
        return 0 if text is None or len(text) > LONGEST_TEXT else self.numbers.setdefault(text, len(self.numbers))

    def _forget(self) -> None:
        """Texts that no entity has any more."""
        texts, kept = list(self.numbers), np.unique(np.append(self.of, 0))
        self.numbers = {texts[old]: new for new, old in enumerate(kept.tolist())}
        self.of = np.searchsorted(kept, self.of).astype(np.int32)


def _beginning(name: str) -> str | None:
    """Up to the last separator; `rack7-` of `rack7-m3`."""
    return name[: 1 + max(map(name.rfind, SEPARATORS))] or None


def _beginnings(beginning: str) -> list[str]:
    return [beginning[: 1 + end] for end, character in enumerate(beginning) if character in SEPARATORS]


def _outbreak(state: Mapping[str, Any]) -> Outbreak:
    common = tuple(Common(*it) for it in state["common"])
    return Outbreak(**{**state, "names": tuple(state["names"]), "common": common})


@compiled
def _choose(
    slot: NDArray[np.int64], fresh: NDArray[np.bool_], seen: NDArray[np.uint8], chosen: NDArray[np.bool_]
) -> None:
    """`seen` counts an entity's records since one was chosen."""
    for i in range(len(slot)):
        count = 0 if fresh[i] else seen[slot[i]]
        chosen[i] |= count == 0
        seen[slot[i]] = (count + 1) % REFRESH


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

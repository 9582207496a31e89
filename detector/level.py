"""The level: at which p-value a record is an alarm. Nowhere else is that decided.

Where a level begins is fitted to the calibration rows (`Start`), for each segment and for everybody; how it moves from
there is `detector.recursion`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.entities import Visits, grown, of_slots
from detector.recursion import (
    CREDIT,
    ENTITY,
    EXCESS_RANGE,
    EXCURSION,
    HOME,
    KNOWN,
    M0,
    MEMBERS,
    OFFSET,
    OFFSET0,
    Q0,
    RING,
    RISE,
    SEGMENT,
    SLOW,
    TAIL,
    Levelled,
    M,
    Memory,
    Q,
    follow,
)
from detector.snapshot import State

SHRINKAGE = 100.0
"""Calibration rows of its own at which a segment counts as much as the whole."""
EXTREME = 0.01
"""Share of the calibration rows by which it is seen whether unlikely ones come in runs."""


def tail_share(rate: float) -> float:
    """β for a promised rate: q must lie well below the level."""
    return max(TAIL, min(0.3, 5 * rate))


class CalibrationRows(NamedTuple):
    """What levels begin from: −ln p (n,) of calibration rows in order of time, the entity (n,) and the segment (n,) of
    each as numbers, and the segments' names."""

    nats: NDArray[np.float32]
    entity: NDArray[np.int32]
    segment: NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, nats: NDArray[np.floating], entity: NDArray[np.object_], segment: NDArray[np.object_]
    ) -> CalibrationRows:
        """From names (n,) in place of numbers."""
        names, numbers = np.unique(segment, return_inverse=True)
        _, entities = np.unique(entity, return_inverse=True)
        return cls(
            nats.astype(np.float32),
            entities.astype(np.int32),
            numbers.astype(np.int32),
            tuple(map(str, names.tolist())),
        )

    def take(self, rows: slice) -> CalibrationRows:
        """Some of the rows, of the same segments."""
        return CalibrationRows(self.nats[rows], self.entity[rows], self.segment[rows], self.names)

    @property
    def independent(self) -> float:
        """As how many rows these count where the tail is concerned: scores that come in runs, as averages do, tell no
        more of it than there are runs.

        n θ with the extremal index θ, runs of exceedances of a high quantile over exceedances (Smith and Weissman, JRSS
        B 1994). A run of an entity is over after as many of its records as it takes an excursion to be over.
        """
        if not len(self.nats):
            return 0.0
        order, over = np.argsort(self.entity, kind="stable"), math.ceil(EXCURSION / RISE)
        entity, nats = self.entity[order], self.nats[order]
        beyond = np.flatnonzero(nats > np.quantile(nats, 1 - EXTREME))
        goes_on = (np.diff(beyond) <= over) & (np.diff(entity[beyond]) == 0)
        return len(nats) * (1 - float(goes_on.sum()) / max(1, len(beyond)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, by name."""
        names = np.frombuffer(json.dumps(self.names).encode(), np.uint8)
        return {"nats": self.nats, "entity": self.entity, "segment": self.segment, "names": names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CalibrationRows:
        """What `to_arrays` took apart."""
        names = json.loads(arrays["names"].tobytes())
        return cls(arrays["nats"], arrays["entity"], arrays["segment"], tuple(names))


class Start(NamedTuple):
    """Where levels begin: a row for segments that calibration did not see, and one for each that it did."""

    states: NDArray[np.float64]
    places: dict[str, int]
    tail: float
    adapt: bool

    @classmethod
    def fit(cls, rows: CalibrationRows, *, rate: float, adapt: bool = True) -> Start:
        """A segment's q and m are shrunken to everybody's by its number of rows; then all rows are lived through once
        more, so that the level begins where it would have come to. Rows too few for `rate` leave the tail extrapolated:
        the level then begins higher by ln(1/(rate·n)), of which n counts what is independent.
        """
        tail, count, n = tail_share(rate), len(rows.names), len(rows.nats)
        everybody = rows._replace(segment=np.zeros(n, np.int32))
        whole = _lived(everybody, _at_rest(*_tails(everybody, 1, tail)), rate, tail, adapt)
        own = np.bincount(rows.segment, minlength=count)
        weight = own / (own + SHRINKAGE)
        q, m = _tails(rows, count, tail)
        shrunken = _at_rest(weight * q + (1 - weight) * whole[0, Q], weight * m + (1 - weight) * whole[0, M])
        states = np.concatenate([whole, _lived(rows, shrunken, rate, tail, adapt)])
        states[:, OFFSET] += max(0.0, -math.log(rate * rows.independent)) if n else 0.0
        states[:, OFFSET0] = states[:, OFFSET]
        return cls(states, {name: 1 + number for number, name in enumerate(rows.names)}, tail, adapt)


class Levels:
    """The levels of one partition. What comes of its records does not depend on how they are cut into batches."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._memory = _blank(0, 0)

    def decide(
        self,
        nats: NDArray[np.float64],
        rate: NDArray[np.float64],
        entities: Visits,
        segments: Visits,
        names: NDArray[np.object_],
    ) -> Levelled:
        """Of records in offset order: −ln p (n,) against the calibration rows (what is not finite is passed over), the
        rate (n,) promised at each, where their entities and segments live, and the segments' names (n,)."""
        held, inhabited = int(segments.slot.max(initial=-1)) + 1, int(entities.slot.max(initial=-1)) + 1
        known, rings, own = self._memory
        self._memory = Memory(grown(known, held), grown(rings, held), grown(own, inhabited))
        begins = np.zeros(len(nats), np.int64)
        for row in np.flatnonzero(segments.fresh).tolist():
            begins[row] = self._start.places.get(names[row], 0)
        found, start = _nothing(len(nats)), self._start
        follow(nats, rate, entities, segments, begins, start.states, self._memory, start.tail, start.adapt, found)
        return found

    def adopt(self, start: Start) -> None:
        """Another version takes over: its scores have another scale, so every level begins anew where calibration put
        everybody's; excursions of entities stay open."""
        self._start = start
        members = self._memory.segments[:, MEMBERS].copy()
        self._memory.segments[:] = start.states[0]
        self._memory.segments[:, MEMBERS] = members

    def to_state(self, entities: NDArray[np.int64], segments: NDArray[np.int64]) -> State:
        """What is remembered of the entities and segments in these slots; who is left out is no member any more."""
        known, rings, own = self._memory
        members, kept = _members(own[:, HOME], len(known)), of_slots(own, entities)
        levels = of_slots(known, segments)
        levels[:, MEMBERS] -= (members - _members(kept[:, HOME], len(known)))[segments]
        homes = np.zeros(1 + len(known))
        homes[1 + segments] = 1 + np.arange(len(segments))
        kept[:, HOME] = homes[kept[:, HOME].astype(np.int64)]
        return {"segments": levels, "rings": of_slots(rings, segments), "entities": kept}

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._memory = Memory(*(state[name].copy() for name in Memory._fields))


def concat(parts: Sequence[Levelled]) -> Levelled:
    """All records of the parts."""
    return Levelled(*map(np.concatenate, zip(_nothing(0), *parts, strict=True)))


def _nothing(n: int) -> Levelled:
    never = np.zeros(n, np.bool_)
    unknown = np.full(n, np.nan)
    return Levelled(np.zeros(n), np.zeros(n), np.zeros(n), unknown, never, never.copy(), np.zeros(n, np.uint8))


def _blank(segments: int, entities: int) -> Memory:
    return Memory(np.zeros((segments, SEGMENT)), np.zeros((segments, RING), np.float32), np.zeros((entities, ENTITY)))


def _members(home: NDArray[np.float64], segments: int) -> NDArray[np.int64]:
    """How many entities, of which the home (e,) is a segment counted from 1, or 0 for none, each segment has."""
    return np.bincount(home.astype(np.int64), minlength=1 + segments)[1:]


def _at_rest(q: NDArray[np.float64], m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Segments (k, SEGMENT) at rest with these tails."""
    states = np.zeros((len(q), SEGMENT))
    states[:, [Q, Q0, SLOW, KNOWN]] = q[:, None]
    states[:, [M, M0]] = m[:, None]
    return states


def _tails(rows: CalibrationRows, count: int, tail: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(1 − β) quantile and mean excess over it (count,) of each segment; 0 and 1 where it has no rows."""
    order = np.lexsort((rows.nats, rows.segment))
    u = rows.nats[order].astype(np.float64)
    sizes = np.bincount(rows.segment, minlength=count)
    ends = np.cumsum(sizes)
    at = np.maximum(ends - sizes, ends - 1 - (tail * sizes).astype(np.int64))
    total = np.concatenate([[0.0], np.cumsum(u)])
    there, above = sizes > 0, ends - 1 - at
    q = np.where(there, u[np.minimum(at, len(u) - 1)], 0.0)
    beyond = total[ends] - total[np.minimum(at + 1, len(u))]
    m = np.where(there & (above > 0), beyond / np.maximum(above, 1) - q, 1.0)
    return q, np.clip(m, *EXCESS_RANGE)


def _lived(
    rows: CalibrationRows, states: NDArray[np.float64], rate: float, tail: float, adapt: bool
) -> NDArray[np.float64]:
    """Where these segments stand after the rows, at rest."""
    n, slot = len(rows.nats), rows.segment.astype(np.int64)
    entity, met = np.unique(rows.entity, return_index=True)
    first, never = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    first[met] = True
    memory = _blank(len(states), int(entity.max(initial=-1)) + 1)
    memory.segments[:] = states
    owners, places = Visits(rows.entity.astype(np.int64), first, slot, first), Visits(slot, never, slot, never)
    follow(
        *(rows.nats.astype(np.float64), np.full(n, rate), owners, places, slot, states, memory, tail, adapt),
        _nothing(n),
    )
    rested = _at_rest(memory.segments[:, Q], memory.segments[:, M])
    rested[:, [OFFSET, CREDIT]] = memory.segments[:, [OFFSET, CREDIT]]
    return rested

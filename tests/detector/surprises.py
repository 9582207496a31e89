"""Streams of surprises that tests put through levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.entities import EntityTable, Visits, everybody
from detector.level import CalibrationRows, Levels, Start
from detector.recursion import Levelled, Q
from detector.snapshot import State

RATE = 0.01
CALIBRATED = 2_000
N = 100_000
Floats = NDArray[np.float64]
Names = NDArray[np.object_]


class Partitioned:
    """The levels of one partition and the tables of its entities and segments."""

    def __init__(self, start: Start, by: str = "entity", max_entities: int = 100) -> None:
        self.levels = Levels(start)
        self._by = by
        self._entities, self._segments = EntityTable(max_entities), EntityTable(max_entities)

    def take(self, nats: Floats, entity: Names, segment: Names, rate: Floats | float = RATE) -> Levelled:
        visits = self._entities.locate(entity)
        places = self._places(visits, segment)
        return self.levels.decide(nats, np.broadcast_to(rate, len(nats)).copy(), visits, places, segment)

    def state(self) -> State:
        entities, segments = (np.arange(len(table)) for table in (self._entities, self._segments))
        return self.levels.to_state(entities, entities if self._by == "entity" else segments)

    def _places(self, visits: Visits, segment: Names) -> Visits:
        if self._by == "entity":
            return visits
        return everybody(self._segments, len(segment)) if self._by == "all" else self._segments.locate(segment)


class Alone:
    """One entity, calibrated on surprises in nats."""

    def __init__(self, calibration: Floats, *, adapt: bool = True, rate: float = RATE) -> None:
        rows = CalibrationRows.of(calibration, same(len(calibration)), same(len(calibration)))
        self._start = Start.fit(rows, rate=rate, adapt=adapt)
        self._partition = Partitioned(self._start)

    def take(self, nats: Floats, rate: Floats | float = RATE) -> Levelled:
        return self._partition.take(nats, same(len(nats)), same(len(nats)), rate)

    @property
    def begin(self) -> float:
        return float(self._start.states[1, Q])

    @property
    def q(self) -> float:
        return float(self._partition.state()["segments"][0, Q])


def same(n: int, name: str = "a") -> Names:
    return np.full(n, name, object)


def noise(n: int, seed: int) -> Floats:
    """Surprises (n,) of records like those of calibration: exponential."""
    return np.random.default_rng(seed).exponential(size=n)


def told(found: Levelled) -> list[int]:
    return [int(kind) for kind in found.drift if kind]

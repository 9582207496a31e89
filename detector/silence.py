"""Silence: an entity that stops reporting is told at onset, by the rhythm that it had (`detector.rhythm`)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.entities import grown
from detector.rhythm import (
    AWAY,
    BLOCK,
    COUNT,
    DUE,
    ELAPSED,
    ENTITY,
    GONE,
    HEARD,
    NEXT,
    NOW,
    PARTITION,
    PREVIOUS,
    STANDING,
    TOGETHER,
    Found,
    Memory,
    hear,
    overdue,
)
from detector.rhythm import READY as READY
from detector.rhythm import TOPIC as TOPIC
from detector.snapshot import State


class Silences(NamedTuple):
    """Silences that began or ended, an array (k,) each, in the order in which they did."""

    row: NDArray[np.int64]
    """Record of the batch by which the clock passed the deadline, or that ended the silence; -1 without records."""
    slot: NDArray[np.int64]
    """Of the entity; `TOPIC` for most of the partition's entities at once."""
    last: NDArray[np.int64]
    """The entity's last record in this batch up to `row`, -1 where that came before it: slots may change hands."""
    since_ms: NDArray[np.int64]
    """When it was heard last, on the partition's clock."""
    lasted_ms: NDArray[np.int64]
    """How long ago that was at `row`."""
    entities: NDArray[np.int64]
    """How many fell silent together."""
    over: NDArray[np.bool_]
    """Whether it ended here, else it began."""


class SilenceWatch:
    """The rhythms of the entities of one partition. What comes of a sequence of records does not depend on how it is
    cut into batches."""

    def __init__(self) -> None:
        partition = np.zeros(PARTITION)
        partition[[NOW, PREVIOUS, NEXT]] = -np.inf, -np.inf, np.inf
        self._memory = Memory(np.zeros((0, ENTITY)), partition, np.zeros(0))

    @property
    def ready(self) -> int:
        """Entities whose rhythm is known; the others are not watched yet."""
        return int((self._memory.entities[:, COUNT] >= READY).sum())

    @property
    def silent(self) -> int:
        """Entities that are silent now."""
        return int((self._memory.entities[:, STANDING] != HEARD).sum())

    @property
    def clock_ms(self) -> float:
        """The partition's clock; -inf before its first record."""
        return float(self._memory.partition[NOW])

    def observe(
        self,
        slot: NDArray[np.int64],
        fresh: NDArray[np.bool_],
        time_ms: NDArray[np.int64],
        rate: NDArray[np.float64],
    ) -> Silences:
        """Takes in records in offset order: the slot (n,) of the entity of each, whether it is met there for the first
        time (n,), its event time (n,), and the share (n,) of gaps that may be told as silence though they end."""
        self._make_room(int(slot.max(initial=0)) + 1)
        return _silences(hear(slot, fresh, time_ms, rate, self._memory))

    def overdue(self, now_ms: float) -> Silences:
        """Silences that begin by `now_ms` though no record came; that is on the partition's clock: `clock_ms` and the
        time since the last record. The clock itself goes on by records alone."""
        elapsed = self._memory.partition[ELAPSED] + max(0.0, now_ms - self.clock_ms)
        return _silences(overdue(elapsed, self._memory))

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """The rhythms of these slots. Of those silent together, others do not count any more."""
        self._make_room(int(slots.max(initial=-1)) + 1)
        at, partition = self._memory.entities, self._memory.partition.copy()
        entities = at[slots]
        away = int((entities[:, STANDING] == TOGETHER).sum())
        partition[[GONE, AWAY]] = partition[GONE] - (partition[AWAY] - away) if away else 0.0, away
        return {"entities": entities, "partition": partition}

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        entities = state["entities"].copy()
        blocks = [entities[first : first + BLOCK, DUE].min() for first in range(0, len(entities), BLOCK)]
        self._memory = Memory(entities, state["partition"].copy(), np.array(blocks, np.float64))

    def _make_room(self, slots: int) -> None:
        entities, partition, blocks = self._memory
        larger = grown(entities, slots)
        larger[len(entities) :, DUE] = np.inf
        self._memory = Memory(
            larger, partition, np.append(blocks, np.full(-(-len(larger) // BLOCK) - len(blocks), np.inf))
        )


def _silences(found: Found) -> Silences:
    row, slot, last, since, lasted, entities, over = np.array(found, np.int64).reshape(-1, len(Silences._fields)).T
    return Silences(row, slot, last, since, lasted, entities, over.astype(np.bool_))

"""Which slot of a bounded table each record's entity has; the entity not seen for longest gives way to a new one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from itertools import compress, repeat
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.snapshot import State

T = TypeVar("T", bound=np.generic)
V = TypeVar("V")


def segments(columns: Columns, by: str) -> NDArray[np.object_]:
    """Whose level each record (n,) shares: `by` is entity, all, or one of the text fields."""
    if by == "entity":
        return columns.entity
    if by == "all":
        return np.full(len(columns), "", object)
    texts: NDArray[np.object_] = columns.texts[by].copy()
    texts[texts == None] = ""  # noqa: E711 - element by element
    return texts


class Visits(NamedTuple):
    """Where the entities of n records live.

    A slot may change hands within a batch: `fresh` marks each record at which an entity is met for the first time, or
    again after it was forgotten. `order` sorts the records by slot and keeps their sequence within it; `first` (in that
    order) marks where a run of one entity begins.
    """

    slot: NDArray[np.int64]
    fresh: NDArray[np.bool_]
    order: NDArray[np.int64]
    first: NDArray[np.bool_]

    def before(self) -> NDArray[np.int64]:
        """The row of each record's predecessor of the same entity within the batch, -1 where there is none."""
        before = np.full(len(self.slot), -1, dtype=np.int64)
        follows = ~self.first[1:]
        before[self.order[1:][follows]] = self.order[:-1][follows]
        return before

    def last(self) -> NDArray[np.int64]:
        """The row of the last record in each slot."""
        slot = self.slot[self.order]
        ends = np.ones(len(slot), dtype=np.bool_)
        ends[:-1] = slot[1:] != slot[:-1]
        return self.order[ends]


class EntityTable:
    """Slots 0, 1, 2, … of at most `max_entities` entities, exactly least-recently-seen first out, record by record:
    where a batch ends makes no difference."""

    def __init__(self, max_entities: int) -> None:
        self.evicted = 0
        self._max_entities = max_entities
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._names: list[str] = []
        self._before: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def locate(self, entities: NDArray[np.object_]) -> Visits:
        """Slots of the entities of n records, given in the order in which they came."""
        names: list[str] = entities.tolist()
        self._before.clear()
        slot = self._known(names)
        unknown = slot < 0
        fresh = np.zeros(len(names), dtype=np.bool_)
        if unknown.any():
            newcomers = dict.fromkeys(compress(names, unknown.tolist()))
            if len(self) + len(newcomers) > self._max_entities:
                return _visits(*self._one_by_one(names))
            self._slots.update(zip(newcomers, range(len(self), len(self) + len(newcomers)), strict=True))
            self._names += newcomers
            slot = self._known(names)
            rows = np.flatnonzero(unknown)
            fresh[rows[np.unique(slot[rows], return_index=True)[1]]] = True
        deque(map(self._slots.move_to_end, names), maxlen=0)
        return _visits(slot, fresh)

    def owner(self, slot: int) -> str:
        """The entity that the slot belonged to before the records located last."""
        return self._before.get(slot) or self._names[slot]

    def order(self) -> NDArray[np.int64]:
        """All slots that are lived in, that of the entity not seen for longest first."""
        return np.fromiter(self._slots.values(), np.int64, len(self))

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """The entities of these slots, in ascending order."""
        order = self.order()
        return {
            "evicted": self.evicted,
            "names": [self._names[slot] for slot in slots.tolist()],
            "order": np.searchsorted(slots, order[np.isin(order, slots)]),
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self.evicted, self._names = state["evicted"], list(state["names"])
        self._slots = OrderedDict((self._names[slot], slot) for slot in state["order"].tolist())

    def _known(self, names: list[str]) -> NDArray[np.int64]:
        return np.fromiter(map(self._slots.get, names, repeat(-1)), dtype=np.int64, count=len(names))

    def _one_by_one(self, names: list[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For batches that bring more entities than there is room for: who gives way depends on the exact sequence."""
        slot = np.empty(len(names), dtype=np.int64)
        fresh = np.zeros(len(names), dtype=np.bool_)
        for row, name in enumerate(names):
            found = self._slots.get(name)
            if found is None:
                found = self._slots[name] = self._vacate()
                self._settle(name, found)
                fresh[row] = True
            else:
                self._slots.move_to_end(name)
            slot[row] = found
        return slot, fresh

    def _settle(self, name: str, slot: int) -> None:
        if slot == len(self._names):
            self._names.append(name)
        else:
            self._before.setdefault(slot, self._names[slot])
            self._names[slot] = name

    def _vacate(self) -> int:
        if len(self) < self._max_entities:
            return len(self)
        self.evicted += 1
        return self._slots.popitem(last=False)[1]


def everybody(table: EntityTable, n: int) -> Visits:
    """Where n records live that all share one slot of the table."""
    slot, fresh = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    if n and not len(table):
        fresh[:1] = table.locate(np.array([""], object)).fresh
    return Visits(slot, fresh, np.arange(n), fresh)


def _visits(slot: NDArray[np.int64], fresh: NDArray[np.bool_]) -> Visits:
    order = np.argsort(slot, kind="stable")
    arranged = slot[order]
    first = fresh[order]
    first[:1] = True
    first[1:] |= arranged[1:] != arranged[:-1]
    return Visits(slot, fresh, order, first)


def grown(array: NDArray[T], rows: int) -> NDArray[T]:
    """The array with room for so many rows, new ones zero; it at least doubles, so that growing costs little in the
    long run."""
    if rows <= len(array):
        return array
    larger = np.zeros((max(rows, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


def of_slots(array: NDArray[T], slots: NDArray[np.int64]) -> NDArray[T]:
    """The rows (k, ...) of these slots, zero where the array does not reach so far; a copy."""
    return grown(array, int(slots.max(initial=-1)) + 1)[slots]


def renumbered(by_slot: Mapping[int, V], slots: NDArray[np.int64]) -> dict[int, V]:
    """What there is of these slots, which ascend, by their place among them; in its own order."""
    keys = np.fromiter(by_slot, np.int64, len(by_slot))
    places, there = np.searchsorted(slots, keys).tolist(), np.isin(keys, slots).tolist()
    return {place: value for place, value, known in zip(places, by_slot.values(), there, strict=True) if known}

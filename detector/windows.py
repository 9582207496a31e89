"""The last records of each entity in order of event time: what one partition remembers, and the windows it makes.

A record that is late, behind the newest of its entity, is put in its place: its window is what led up to it, and it
becomes part of the windows of those after it. One that is behind by more than `late_for` is taken as a clock set back:
what is ahead of it is forgotten. So a time from the far future harms no record but its own.
"""

from __future__ import annotations

from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from consumers.compiled import compiled
from detector.entities import Visits, grown
from detector.features import FeatureEncoder
from detector.parts import Previous, remembered
from detector.snapshot import State

T = TypeVar("T", bound=np.generic)

LATE = 8
"""A record that at most so many of its entity have overtaken still finds all of its window, and changes theirs."""
FOREIGN = -1
"""In place of the offset of a record that another version encoded: its time and values count, its row does not."""


class Late(NamedTuple):
    """Which of n records are late (n,); and m records scored before, whose windows hold a late one now: the row of that
    one, their own offset, (m,) each, and their windows (m, window, d), in the order in which it came about."""

    rows: NDArray[np.bool_]
    cause: NDArray[np.int64]
    offset: NDArray[np.int64]
    x: NDArray[np.float32]

    @classmethod
    def none(cls, n: int) -> Self:
        """All n came in order."""
        nothing = np.empty(0, np.int64)
        return cls(np.zeros(n, np.bool_), nothing, nothing, np.empty((0, 0, 0), np.float32))


class Memory(NamedTuple):
    """What is remembered, by slot: how many records (k,); their places in order of time, then the vacant ones
    (k, places); and by place the time, the offset, the values (k, places, fields) and the encoded row (k, places, d).
    """

    known: NDArray[np.int64]
    line: NDArray[np.int16]
    time: NDArray[np.int64]
    offset: NDArray[np.int64]
    values: NDArray[np.float64]
    rows: NDArray[np.float32]

    @classmethod
    def blank(cls, slots: int, encoder: FeatureEncoder) -> Self:
        """There is one place more than records are remembered: the newest is there before the oldest gives way. Where a
        window is its record alone, no rows are needed."""
        places, fields = encoder.window + LATE, len(remembered(encoder.features))
        return cls(
            np.zeros(slots, np.int64),
            np.tile(np.arange(places, dtype=np.int16), (slots, 1)),
            np.zeros((slots, places), np.int64),
            np.zeros((slots, places), np.int64),
            np.zeros((slots, places, fields)),
            np.zeros((slots, places if encoder.window > 1 else 0, encoder.layout.columns), np.float32),
        )


class EntityHistory:
    """What one partition remembers of its entities, by slot: of the last `window - 1 + LATE` records in order of time
    the encoded row (d,) and the values of fields that are scored by their change, 4 d + 8 fields + 18 bytes a record.

    A record that is up to `late_for` seconds behind the newest is late. What comes of a sequence of records does not
    depend on how it is cut into batches.
    """

    def __init__(self, encoder: FeatureEncoder, late_for: float) -> None:
        self._encoder = encoder
        self._late_ms = round(late_for * 1000)
        self._memory = Memory.blank(0, encoder)

    def windows(self, columns: Columns, visits: Visits) -> tuple[NDArray[np.float32], Late]:
        """(n, window, d): each record encoded, behind the rows of its entity that led up to it, the oldest repeated
        where the window has room for more; and what is late. All records are of this partition, in offset order, and
        live where `visits` says; they are remembered.

        A row stays as it was encoded: a field that is scored by its change has changed since the record that was its
        predecessor then.
        """
        n, window, d = len(columns), self._encoder.window, self._encoder.layout.columns
        slots = int(visits.slot.max(initial=-1)) + 1
        self._memory = Memory._make(grown(array, slots) for array in self._memory)
        names = remembered(self._encoder.features)
        values = np.stack([columns.numbers[name] for name in names], axis=1) if names else np.empty((n, 0))
        before, before_time = np.full_like(values, np.nan), np.zeros(n, np.int64)
        places, late = np.empty((n, window), np.int16), np.zeros(n, np.bool_)
        found = _line_up(
            *(columns.time, columns.offsets, values, visits.slot, visits.fresh, self._late_ms),
            *(self._memory, before, before_time, places, late),
        )
        previous = Previous({name: before[:, column] for column, name in enumerate(names)}, before_time)
        cause, offset, again = np.split(found, [1, 2], axis=1)
        x, changed = np.empty((n, window, d), np.float32), np.empty((len(again), window, d), np.float32)
        encoded = self._encoder.encode(columns, previous)
        _lay(encoded, visits.slot, places, cause[:, 0], again, self._memory.rows, x, changed)
        return x, Late(late, cause[:, 0], offset[:, 0], changed)

    def adopt(self, encoder: FeatureEncoder) -> None:
        """Another version takes over between two batches. Where it sees the same features through the same window,
        remembered rows are re-expressed in its scale, else every window starts afresh; the last values are kept of each
        field that both score by its change."""
        memory, (slots, places, d) = self._memory, self._memory.rows.shape
        rows = encoder.carried(self._encoder, memory.rows.reshape(slots * places, d))
        if rows is None:
            self._memory = _newest(memory, self._encoder, encoder)
        else:
            self._memory = memory._replace(rows=rows.reshape(slots, places, encoder.layout.columns))
        self._encoder = encoder

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """What is remembered of these slots, the records of each in order of time, and zeros behind them."""
        memory, most = self._memory, self._memory.time.shape[1] - 1
        known, line = memory.known[slots], memory.line[slots, :most]
        vacant = np.arange(most) >= known[:, None]
        return {
            "known": known,
            "time": _in_line(memory.time, slots, line, vacant),
            "offset": _in_line(memory.offset, slots, line, vacant),
            "values": _in_line(memory.values, slots, line, vacant),
            "rows": _in_line(memory.rows, slots, line, vacant),
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        memory = Memory.blank(len(state["known"]), self._encoder)
        memory.known[:] = state["known"]
        for name in ("time", "offset", "values", "rows"):
            lined_up = state[name]
            getattr(memory, name)[:, : lined_up.shape[1]] = lined_up
        self._memory = memory


def _in_line(
    array: NDArray[T], slots: NDArray[np.int64], line: NDArray[np.int16], vacant: NDArray[np.bool_]
) -> NDArray[T]:
    """What is remembered by place (slots, places, ...), in order of time (k, most, ...) and zero in vacant places."""
    places = array.shape[1]
    found = array[slots[:, None], line[:, :places]]
    found[vacant[:, :places]] = 0
    return found


def _newest(memory: Memory, old: FeatureEncoder, new: FeatureEncoder) -> Memory:
    """Time and values of each slot's newest record, as far as `new` needs them."""
    slots = np.arange(len(memory.known))
    newest = memory.line[slots, memory.known - 1]
    kept, names = Memory.blank(len(slots), new), remembered(old.features)
    kept.known[:] = np.minimum(memory.known, 1)
    kept.time[:, 0] = memory.time[slots, newest]
    kept.offset[:, 0] = FOREIGN
    for column, name in enumerate(remembered(new.features)):
        kept.values[:, 0, column] = memory.values[slots, newest, names.index(name)] if name in names else np.nan
    return kept


@compiled
def _line_up(
    time: NDArray[np.int64],
    offset: NDArray[np.int64],
    values: NDArray[np.float64],
    slots: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    late_ms: int,
    memory: Memory,
    before: NDArray[np.float64],
    before_time: NDArray[np.int64],
    places: NDArray[np.int16],
    late: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Puts the records into the lines of their entities one by one. Writes the values and the time of each one's
    predecessor, the places (n, window) of the rows in its window, and whether it is late. Gives, of each record whose
    window changes by it, the row of the late one, its own offset, and the places of the rows in its window."""
    window, most = places.shape[1], memory.time.shape[1] - 1
    line, times, again, m = memory.line, memory.time, np.empty((1, 2 + window), np.int64), 0
    for i in range(len(time)):
        s = slots[i]
        if fresh[i]:
            memory.known[s] = 0
            for k in range(most + 1):
                line[s, k] = k
        at = known = memory.known[s]
        while at > 0 and times[s, line[s, at - 1]] > time[i]:
            at -= 1
        if at < known and times[s, line[s, known - 1]] - time[i] > late_ms:
            known = at
        late[i], place = at < known, line[s, known]
        for k in range(known, at, -1):
            line[s, k] = line[s, k - 1]
        line[s, at] = place
        known += 1
        times[s, place], memory.offset[s, place] = time[i], offset[i]
        for k in range(values.shape[1]):
            memory.values[s, place, k] = values[i, k]
        if at > 0:
            previous = line[s, at - 1]
            before_time[i] = times[s, previous]
            for k in range(values.shape[1]):
                before[i, k] = memory.values[s, previous, k]
        _lead(memory, s, at, places, i)
        for k in range(at + 1, min(at + window, known) if known - at <= LATE + 1 else 0):
            if memory.offset[s, line[s, k]] != FOREIGN:
                if m == len(again):
                    again = np.concatenate((again, again))
                again[m, 0], again[m, 1] = i, memory.offset[s, line[s, k]]
                _lead(memory, s, k, again[:, 2:], m)
                m += 1
        if known > most:
            known = most
            oldest = line[s, 0]
            for k in range(most):
                line[s, k] = line[s, k + 1]
            line[s, most] = oldest
        memory.known[s] = known
    return again[:m]


@compiled
def _lead(memory: Memory, slot: int, at: int, places: NDArray[np.signedinteger], i: int) -> None:
    """Writes the places of the rows that lead up to the record at `at` in the line, and of its own, as places[i]."""
    for k in range(places.shape[1] - 1, -1, -1):
        places[i, k] = memory.line[slot, at]
        if at > 0 and memory.offset[slot, memory.line[slot, at - 1]] != FOREIGN:
            at -= 1


@compiled
def _lay(
    x: NDArray[np.float32],
    slots: NDArray[np.int64],
    places: NDArray[np.int16],
    cause: NDArray[np.int64],
    again: NDArray[np.int64],
    rows: NDArray[np.float32],
    windows: NDArray[np.float32],
    changed: NDArray[np.float32],
) -> None:
    """Remembers encoded rows (n, d) one by one, and lays the windows of each, and of those that change by it, out of
    what is remembered then. Element by element, which is compiled to less than slices are."""
    last, done, d = places.shape[1] - 1, 0, x.shape[1]
    for i in range(len(x)):
        s, own = slots[i], places[i, last]
        for c in range(d * (last > 0)):
            rows[s, own, c] = x[i, c]
        for k in range(last):
            place = places[i, k]
            for c in range(d):
                windows[i, k, c] = rows[s, place, c]
        for c in range(d):
            windows[i, last, c] = x[i, c]
        while done < len(cause) and cause[done] == i:
            for k in range(last + 1):
                changed[done, k] = rows[s, again[done, k]]
            done += 1

"""The last records of each entity: what one partition remembers, and the windows that come of it."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.entities import Visits, grown
from detector.features import FeatureEncoder
from detector.parts import Previous, remembered


class EntityHistory:
    """What one partition remembers of its entities, by slot: their last encoded rows, and the last values of fields
    that are scored by their change.

    What comes of a sequence of records does not depend on how it is cut into batches.
    """

    def __init__(self, encoder: FeatureEncoder) -> None:
        self._encoder = encoder
        self._names = remembered(encoder.features)
        self._values = np.empty((0, len(self._names)))
        self._time = np.empty(0, dtype=np.int64)
        self._rows = _no_rows(encoder)
        self._started = np.empty(0, dtype=np.bool_)

    def windows(self, columns: Columns, visits: Visits) -> NDArray[np.float32]:
        """(n, window, d): each record encoded, behind the rows of its entity that led up to it, the oldest repeated
        where the window has room for more. All records are of this partition, in offset order, and live where `visits`
        says; they are remembered."""
        if not len(columns):
            return np.empty((0, self._encoder.window, self._encoder.layout.columns), dtype=np.float32)
        self._make_room(int(visits.slot.max()) + 1)
        values = _stacked(columns, self._names)
        x = self._encoder.encode(columns, self._previous(columns.time, values, visits))
        windows = self._assemble(x, visits)
        windows[:, :-1, self._encoder.restricted] = 0.0  # or what does not count now would count later, as the past
        last = visits.last()
        slot = visits.slot[last]
        self._values[slot], self._time[slot] = values[last], columns.time[last]
        self._rows[slot], self._started[slot] = windows[last, 1:], True
        return windows

    def adopt(self, encoder: FeatureEncoder) -> None:
        """Another version takes over between two batches. Where it sees the same features through the same window,
        remembered rows are re-expressed in its scale, else every window starts afresh; the last values are kept of each
        field that both score by its change."""
        rows = encoder.carried(self._encoder, self._rows.reshape(-1, self._encoder.layout.columns))
        if rows is None:
            self._started[:] = False
            self._rows = np.zeros((len(self._rows), *_no_rows(encoder).shape[1:]), dtype=np.float32)
        else:
            self._rows = rows.reshape(len(self._rows), *_no_rows(encoder).shape[1:])
        names = remembered(encoder.features)
        values = np.full((len(self._values), len(names)), np.nan)
        for column, name in enumerate(names):
            if name in self._names:
                values[:, column] = self._values[:, self._names.index(name)]
        self._encoder, self._names, self._values = encoder, names, values

    def _make_room(self, slots: int) -> None:
        self._values = grown(self._values, slots)
        self._time = grown(self._time, slots)
        self._rows = grown(self._rows, slots)
        self._started = grown(self._started, slots)

    def _previous(self, time: NDArray[np.int64], values: NDArray[np.float64], visits: Visits) -> Previous:
        """From within the batch, else from memory, else nothing."""
        before = visits.before()
        outside = np.flatnonzero(before < 0)
        slot = visits.slot[outside]
        previous, previous_time = values[before], time[before]
        previous[outside] = np.where(visits.fresh[outside, None], np.nan, self._values[slot])
        previous_time[outside] = self._time[slot]
        return Previous({name: previous[:, column] for column, name in enumerate(self._names)}, previous_time)

    def _assemble(self, x: NDArray[np.float32], visits: Visits) -> NDArray[np.float32]:
        """Lays the rows of each run of an entity in line, those that led up to it in front: a window is one stretch."""
        (n, d), ahead = x.shape, self._encoder.window - 1
        place = np.empty(n, dtype=np.int64)
        place[visits.order] = np.arange(n) + ahead * np.cumsum(visits.first)
        heads = visits.order[visits.first]
        slot = visits.slot[heads]
        known = self._started[slot] & ~visits.fresh[heads]
        laid = np.empty((n + ahead * len(heads), d), dtype=np.float32)
        laid[place] = x
        led = self._rows[slot]
        led[~known] = x[heads[~known], None]
        _stretches(laid, ahead)[place[heads] - ahead] = led.reshape(len(heads), ahead * d)
        return _stretches(laid, ahead + 1)[place - ahead].reshape(n, ahead + 1, d)


def _stretches(laid: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """A view of `laid` (m, d) that at index i has the `rows` rows from i on, as one piece of memory."""
    d = laid.shape[1]
    return sliding_window_view(laid.reshape(-1), rows * d, writeable=True)[::d]


def _no_rows(encoder: FeatureEncoder) -> NDArray[np.float32]:
    return np.empty((0, encoder.window - 1, encoder.layout.columns), dtype=np.float32)


def _stacked(columns: Columns, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([columns.numbers[name] for name in names], axis=1) if names else np.empty((len(columns), 0))

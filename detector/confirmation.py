"""Confirmation: enough of an entity's last records must be beyond the level, and one of them an alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled
from detector.entities import Visits, grown, of_slots
from detector.snapshot import State

if TYPE_CHECKING:
    from detector.config import ConfirmSettings


class Confirmation:
    """What the last records of the entities of one partition were, by slot, in the order in which they came."""

    def __init__(self, settings: ConfirmSettings) -> None:
        self._settings = settings
        self._recent = np.zeros((0, 2), np.uint64)

    def opening(self, alarm: NDArray[np.bool_], elevated: NDArray[np.bool_], visits: Visits) -> NDArray[np.bool_]:
        """Which of n records, of which it is known whether each is an alarm (n,) and beyond the level (n,), open an
        incident where none is open."""
        records, of = self._settings.records, self._settings.of
        if of == 1:
            return alarm
        self._recent = grown(self._recent, int(visits.slot.max(initial=-1)) + 1)
        opening = np.zeros_like(alarm)
        _confirm(visits.slot, visits.fresh, alarm, elevated, self._recent, records, of, opening)
        return opening

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """What the last records in these slots were."""
        return {"recent": of_slots(self._recent, slots)}

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._recent = state["recent"].copy()


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

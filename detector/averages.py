"""Scores in time: exponentially weighted averages of what the models say of an entity's records, as its state.

One record beyond what is usual may be chance; a run of them that are each a little unlikely is not. An average over the
last few records tells the two apart, and one over the last hundred what sets in slowly (control charts of Roberts,
Technometrics 1959). Of likelihoods given the past, whose normal values have no memory of their own, that finds far more
incidents; squares are averaged, not their logarithms, so that one large deviation weighs as much as many small ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled
from detector.entities import EntityTable, Visits, grown, of_slots

HALF_LIVES = (4.0, 16.0, 64.0)
"""Records after which one counts half: a burst, an incident, a change that creeps in."""
BOUND = 10.0
"""A score enters an average at most so far beyond the usual, in distances from the mean to the highest hundredth of
calibration scores: after an incident the average comes back within a few half-lives, however large it was."""

_DECAYS = np.array([0.5 ** (1 / half_life) for half_life in HALF_LIVES])


class Usual(NamedTuple):
    """Where averages begin, and what enters them at most, (m,) each, by model."""

    mean: NDArray[np.float64]
    most: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> Self:
        """From calibration scores (m, n)."""
        mean, high = scores.mean(axis=1, dtype=np.float64), np.quantile(scores, 0.99, axis=1).astype(np.float64)
        return cls(mean, mean + BOUND * np.maximum(high - mean, 0.0))


class Averages:
    """The averages of one partition's entities, by slot: 8 bytes a model and half-life. What comes of a sequence of
    records does not depend on how it is cut into batches."""

    def __init__(self, usual: Usual) -> None:
        self._usual = usual
        self._memory = np.zeros((0, len(usual.mean), len(HALF_LIVES)))

    def update(self, scores: NDArray[np.floating], visits: Visits) -> NDArray[np.float64]:
        """Scores (m, n) of records in offset order, which live where `visits` says -> (m, half-lives, n). A score that
        is not finite is passed over."""
        self._memory = grown(self._memory, int(visits.slot.max(initial=-1)) + 1)
        found = np.empty((len(scores), len(HALF_LIVES), scores.shape[1]))
        _follow(scores.astype(np.float64), visits.slot, visits.fresh, *self._usual, _DECAYS, self._memory, found)
        return found

    def adopt(self, usual: Usual) -> None:
        """Another version takes over, whose scores are on another scale: every average begins anew."""
        self._usual = usual
        self._memory = np.tile(usual.mean[:, None], (len(self._memory), 1, len(HALF_LIVES)))

    def to_state(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """The averages of these slots."""
        return of_slots(self._memory, slots)

    def restore(self, state: NDArray[np.float64]) -> None:
        """Goes on where `to_state` stood. Raises `ValueError` for averages of other models or half-lives."""
        require_floats("averages", state, (*state.shape[:1], len(self._usual.mean), len(HALF_LIVES)))
        self._memory = state.copy()


def averaged(scores: NDArray[np.floating], entity: NDArray[np.object_], usual: Usual) -> NDArray[np.float64]:
    """The averages (m, half-lives, n) of scores (m, n) of records of these entities (n,), nothing before them."""
    return Averages(usual).update(scores, EntityTable(max(1, len(entity))).locate(entity))


def require_floats(what: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless the array, named by `what`, is float64 of that shape: compiled code trusts it."""
    if array.shape != shape or array.dtype != np.float64:
        raise ValueError(f"Array '{what}' is {array.dtype} of shape {array.shape}. Expected float64 of shape {shape}.")


@compiled
def _follow(
    scores: NDArray[np.float64],
    slot: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    mean: NDArray[np.float64],
    most: NDArray[np.float64],
    decay: NDArray[np.float64],
    memory: NDArray[np.float64],
    found: NDArray[np.float64],
) -> None:
    for i in range(scores.shape[1]):
        for k in range(scores.shape[0]):
            known, score = memory[slot[i], k], scores[k, i]
            for h in range(len(decay)):
                before = mean[k] if fresh[i] else known[h]
                if np.isfinite(score):
                    before = decay[h] * before + (1 - decay[h]) * min(score, most[k])
                known[h] = found[k, h, i] = before

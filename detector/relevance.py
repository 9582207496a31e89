"""Which deviations count: a feature may be of interest in one direction only, or from some size on.

A deviation that does not count is taken back before a record is judged, in calibration as in service, so that the
budget is spent on those that do.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.features import FeatureEncoder
from models.scorer import Scorer

SURPRISING = math.log(20.0)
"""Nats from which on a record is looked at; what is likelier needs no explanation, and explaining takes time."""
_PLACES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Parts of the way from the observed to the expected value that are tried: in a record that is uncommon in other ways
too, what is expected of one feature is somewhat off."""


class Relevance:
    """Judges records by the deviations that count."""

    def __init__(self, encoder: FeatureEncoder, scorer: Scorer, calibration: Calibration) -> None:
        self._encoder = encoder
        self._scorer = scorer
        self._calibration = calibration

    def judge(
        self, x: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records (n, window, d) and the models' scores of them (m, n) -> both with the deviations taken back that do
        not count, each record's as far as makes it likeliest.

        What was expected is the most surprised model's word. Each record is judged on its own.
        """
        if not len(self._encoder.restricted):
            return x, scores
        each, nats = self._calibration.by_model(scores), self._calibration.nats(scores)
        rows = np.flatnonzero(nats >= SURPRISING)
        way = self._way_back(x[rows], each[:, rows].argmax(axis=0))
        rows, way = rows[way.any(axis=1)], way[way.any(axis=1)]
        judged, scores, least = x.copy(), scores.copy(), nats[rows]
        for part in _PLACES if len(rows) else ():
            trial = x[rows]
            trial[:, -1] += np.float32(part) * way
            after = self._scorer.score(trial)
            nats = self._calibration.nats(after)
            better = nats < least
            least[better], judged[rows[better]], scores[:, rows[better]] = nats[better], trial[better], after[:, better]
        return judged, scores

    def _way_back(self, x: NDArray[np.float32], most_surprised: NDArray[np.intp]) -> NDArray[np.float32]:
        """What leads the columns (n, d) of the records themselves to what was expected, 0 where a deviation counts."""
        way = np.zeros_like(x[:, -1])
        for number, model in enumerate(self._calibration.scales):
            rows = np.flatnonzero(most_surprised == number)
            if len(rows):
                _, expected = self._scorer.explain(model, x[rows])
                record = x[rows, -1]
                way[rows] = np.where(self._encoder.counts(record, expected), 0.0, expected - record)
        return way

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


class Relevance:
    """Judges records by the deviations that count."""

    def __init__(self, encoder: FeatureEncoder, scorer: Scorer, calibration: Calibration) -> None:
        self._encoder = encoder
        self._scorer = scorer
        self._calibration = calibration

    def judge(
        self, x: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records (n, window, d) and the models' scores of them (m, n) -> both with deviations taken back that do not
        count.

        In a surprising record each such feature is set to what the most surprised model expected; the result stands
        where it is likelier.
        """
        if not len(self._encoder.restricted):
            return x, scores
        each, nats = self._calibration.nats(scores)
        rows = np.flatnonzero(nats >= SURPRISING)
        mended = x[rows]
        mended[:, -1] = self._counting(x[rows], each[:, rows].argmax(axis=0))
        rows, mended = rows[changed := (mended != x[rows]).any(axis=(1, 2))], mended[changed]
        after = self._scorer.score(mended)
        better = self._calibration.nats(after)[1] < nats[rows]
        x, scores = x.copy(), scores.copy()
        x[rows[better]], scores[:, rows[better]] = mended[better], after[:, better]
        return x, scores

    def _counting(self, x: NDArray[np.float32], most_surprised: NDArray[np.intp]) -> NDArray[np.float32]:
        """The records themselves (n, d) without the deviations that do not count."""
        records = x[:, -1].copy()
        for number, model in enumerate(self._calibration.scales):
            rows = np.flatnonzero(most_surprised == number)
            _, expected = self._scorer.explain(model, x[rows])
            records[rows] = np.where(self._encoder.counts(records[rows], expected), records[rows], expected)
        return records

"""What a version says of many records at once, by its own calibration: no level, no memory between calls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.bundle import Bundle
from detector.config import DetectorSettings, WindowSettings
from detector.entities import EntityTable
from detector.features import FeatureEncoder
from detector.relevance import Relevance
from detector.windows import EntityHistory
from models.scorer import Scorer


class Surprise:
    """Asks one version."""

    def __init__(self, bundle: Bundle, settings: DetectorSettings) -> None:
        self.bundle = bundle
        self.scorer = Scorer(bundle.models, settings.device)
        self._relevance = Relevance(bundle.encoder, self.scorer, bundle.calibration)
        self._window = settings.window

    def encode(self, columns: Columns) -> NDArray[np.float32]:
        """What the models see of records in offset order, (n, window, d)."""
        return encode(self.bundle.encoder, columns, self._window)

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Each model's score (m, n) of rows (n, window, d), by the deviations that count."""
        return self._relevance.judge(x, self.scorer.score(x))[1]

    def nats(self, columns: Columns) -> NDArray[np.float64]:
        """−ln p (n,) of records in offset order against the version's calibration rows, each for itself."""
        if not len(columns):
            return np.empty(0)
        return self.bundle.calibration.nats(self.scores(self.encode(columns)))


def encode(encoder: FeatureEncoder, columns: Columns, window: WindowSettings) -> NDArray[np.float32]:
    """What a model sees of each record, (n, window, d): each partition goes through a history of its own, as it does in
    service."""
    parts = [columns.take(rows) for _, rows in columns.by_partition()]
    found = [
        EntityHistory(encoder, window.late_for).windows(part, EntityTable(window.max_entities).locate(part.entity))
        for part in parts
    ]
    return np.concatenate([x for x, _ in found])

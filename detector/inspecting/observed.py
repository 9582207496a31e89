"""Real records as a version sees them: which of them it was fitted on, and how unlikely it finds each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.alerts import event_time, severity_rank
from detector.bundle import Bundle, DataWindow
from detector.config import DetectorSettings
from detector.errors import NotEnoughRows
from detector.fidelity import LEAST_ROWS
from detector.proving.surprise import Surprise
from detector.training import split_by_time
from models.base import GenerativeModel

Stretch = Literal["fitted", "calibration", "recent"]
"""Models and features were fitted on the first, levels begin from the second, and the third came after the training."""


@dataclass(frozen=True, slots=True)
class Observed:
    """n records: what models see of them (n, window, d), each model's score (m, n), and −ln p (n,) of all models
    together, by the deviations that count. `level` is where an alarm begins, in nats, before service moves it."""

    x: NDArray[np.float32]
    scores: NDArray[np.float32]
    nats: NDArray[np.float64]
    level: float
    stretches: dict[Stretch, NDArray[np.intp]]
    """The rows of each, in order of time, where they are enough to tell anything."""

    @property
    def unseen(self) -> NDArray[np.intp]:
        """The rows that no model was fitted on."""
        return np.concatenate([rows for name, rows in self.stretches.items() if name != "fitted"])

    @property
    def normal(self) -> NDArray[np.intp]:
        """The rows below the level."""
        return np.flatnonzero(self.nats < self.level)

    @property
    def beyond(self) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """The rows at or beyond the level, and the severity of each as an index into `SEVERITIES`."""
        rows = np.flatnonzero(self.nats >= self.level)
        return rows, severity_rank(self.nats[rows], np.full(len(rows), self.level))


def observe(bundle: Bundle, columns: Columns, settings: DetectorSettings) -> Observed:
    """Records in offset order as the version sees them. Raises `NotEnoughRows` where fewer than `LEAST_ROWS` of them
    are later than what it was fitted on: only those tell what it knows, and not what it remembers."""
    stretches = {name: rows for name, rows in _stretches(columns, bundle.manifest.data) if len(rows) >= LEAST_ROWS}
    if not stretches.keys() - {"fitted"}:
        raise NotEnoughRows(
            f"Of {len(columns)} records too few are later than those that version {bundle.version} was fitted on, to "
            f"{event_time(_fitted_to(columns, bundle.manifest.data)):%Y-%m-%d %H:%M} UTC. Expected at least "
            f"{LEAST_ROWS}: give --records, or training.files that hold them."
        )
    surprise = Surprise(bundle, settings)
    x = surprise.encode(columns)
    nats = bundle.calibration.nats(surprise.scores(x))
    return Observed(x, surprise.scorer.score(x), nats, -math.log(bundle.manifest.rate), stretches)


def embedded(model: GenerativeModel, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Latent positions (n, k) of windows (n, at least the model's, d)."""
    window = x[:, -model.layout.window :]
    device = next(iter(model.state_dict().values())).device
    with torch.inference_mode():
        parts = [model.embed(rows.to(device)).cpu() for rows in torch.split(torch.tensor(window), _AT_ONCE)]
    return torch.cat(parts).double().numpy()


def some(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many of the rows, evenly spread over them: as random as records are, and the same every time."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


_AT_ONCE = 1024  # rows that are embedded at a time


def _stretches(columns: Columns, data: DataWindow) -> list[tuple[Stretch, NDArray[np.intp]]]:
    order = np.argsort(columns.time, kind="stable")
    time, fitted_to = columns.time[order], _fitted_to(columns, data)
    begin, middle, end = np.searchsorted(time, [data.first_ms, fitted_to + 1, data.last_ms + 1])
    return [("fitted", order[begin:middle]), ("calibration", order[middle:end]), ("recent", order[end:])]


def _fitted_to(columns: Columns, data: DataWindow) -> int:
    """Time of the newest record that models have seen; where an older manifest does not say, as the shares have it."""
    if data.fitted_to_ms is not None:
        return data.fitted_to_ms
    time = columns.time[(columns.time >= data.first_ms) & (columns.time <= data.last_ms)]
    older, _ = split_by_time(time, data.calibrated / data.records)
    return int(time[older[-1]]) if len(older) else data.last_ms

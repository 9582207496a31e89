"""How like real records generated ones are, and whether they are copies of them.

Everything is measured between rows (n, d) as models see them, so in units of each column's own spread, and told beside
what real rows come to: where a stream does not stay as it was, no model of its past is like its present.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # ships no types
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]  # as above

from detector.errors import NotEnoughRows

MOST_ROWS, MOST_TRAINING_ROWS = 5_000, 50_000
"""Rows a side, and training rows among which copies are looked for; of more, a random part is taken."""
LEAST_ROWS = 100
"""Fewest rows a side that tell anything."""
NEIGHBOURS = 5
MODES = 20
LOST_SHARE = 0.2
"""A mode is lost where generated rows have less than this part of its share of the real ones."""
LEAST_OF_A_MODE = 10
"""Fewest rows of a mode: that none of so many is generated is no chance."""
COPY_QUANTILE = 0.01
_EQUAL = 1e-6
"""Rows no farther apart are the same, as far as float32 tells."""
_CHUNK = 512  # rows whose distances are in memory at once

Rows = NDArray[np.float32]


class Likeness(BaseModel):
    """How rows compare with as many real ones that no model has seen."""

    model_config = ConfigDict(frozen=True)

    frechet_distance: float
    """Squared, between Gaussians fitted to both: |m − m'|² + tr(S + S' − 2(S S')^½) (Dowson and Landau 1982)."""
    precision: float
    """Share of the rows within reach of a real one: no farther than that one's fifth neighbour (Kynkäänniemi et al.
    2019)."""
    recall: float
    """Share of the real rows within reach of one of these."""
    density: float
    """How many real rows have a row within reach, on the average over rows, over five (Naeem et al. 2020): 1 where both
    are of one distribution."""
    coverage: float
    """Share of the real rows that have a row within reach: 1 − 2⁻⁵ where both are of one distribution."""
    modes_lost: float
    """Share of the clusters of the real rows that hardly any row falls into."""
    near_copies: float
    """Share of rows that are closer to a training row than all but one in a hundred training rows are to another."""


class Fidelity(BaseModel):
    """Generated rows, and what real ones come to: training rows, and for near-copies those that no model has seen. A
    model that knows its training data perfectly, and none of them by heart, is as good as these."""

    model_config = ConfigDict(frozen=True)

    rows: int
    """Compared on either side."""
    columns: int
    generated: Likeness
    expected: Likeness

    @property
    def frechet_ratio(self) -> float:
        """Of the generated rows' Fréchet distance to that of real ones."""
        return self.generated.frechet_distance / max(self.expected.frechet_distance, _EQUAL)

    def warnings(self) -> list[str]:
        """What is wrong with the generated rows, in words; nothing where they are good."""
        found, real = self.generated, self.expected
        bearable = 4.0 * (real.frechet_distance + 0.01 * self.columns)  # beside it a tenth of each column's spread
        told = {
            f"Mean and spread are off: Fréchet distance {found.frechet_distance:.3g}": found.frechet_distance
            > bearable,
            f"{1 - found.precision:.0%} are unlike any real row": found.precision < 0.5 * real.precision,
            f"{1 - found.recall:.0%} of the real rows are unlike any of them": found.recall < 0.5 * real.recall,
            f"They keep off where real rows are dense: density {found.density:.2g}": found.density < 0.5 * real.density,
            f"They leave out {1 - found.coverage:.0%} of the real rows": found.coverage < 0.5 * real.coverage,
            f"{found.modes_lost:.0%} of the clusters of real rows are lost": found.modes_lost > real.modes_lost + 0.1,
            f"{found.near_copies:.1%} are near-copies of training rows: the model may know records by heart": (
                found.near_copies > 0.02 + 2.0 * real.near_copies
            ),
        }
        return [words for words, wrong in told.items() if wrong]


def fidelity(generated: Rows, held_back: Rows, training: Rows, *, seed: int) -> Fidelity:
    """Compares generated rows (n, d) with real ones: those held back (m, d) and those trained on (k, d).

    Takes seconds. Raises `NotEnoughRows` where there are less than `LEAST_ROWS` of one.
    """
    given = {"generated": generated, "held-back": held_back, "training": training}
    for what, there in given.items():
        if len(there) < LEAST_ROWS:
            raise NotEnoughRows(f"{len(there)} {what} rows tell nothing. Expected at least {LEAST_ROWS}.")
    chance, rows = np.random.default_rng(seed), min(MOST_ROWS, *map(len, given.values()))
    drawn, real, trained = (_some(there, rows, chance) for there in given.values())
    modes = KMeans(min(MODES, len(np.unique(real, axis=0))), n_init=1, random_state=seed).fit(real)
    near = NearestNeighbors().fit(_some(training, MOST_TRAINING_ROWS, chance))
    apart = near.kneighbors(trained, 2)[0][:, 1]  # the first is the row itself, or its equal
    close = max(float(np.quantile(apart, COPY_QUANTILE)), _EQUAL)

    def compared(x: Rows, perhaps_copies: Rows) -> Likeness:
        reached, within = _reached(real, x)
        return Likeness(
            frechet_distance=frechet_distance(x, real),
            precision=float((within > 0).mean()),
            recall=float((_reached(x, real)[1] > 0).mean()),
            density=float(within.mean()) / NEIGHBOURS,
            coverage=float(reached.mean()),
            modes_lost=_modes_lost(modes, x),
            near_copies=float((near.kneighbors(perhaps_copies, 1)[0] <= close).mean()),
        )

    return Fidelity(
        rows=rows, columns=real.shape[1], generated=compared(drawn, drawn), expected=compared(trained, real)
    )


def frechet_distance(x: Rows, y: Rows) -> float:
    """Between Gaussians fitted to rows (n, d) and (m, d), squared; 0 or more."""
    (mean, covariance), (other_mean, other) = _moments(x), _moments(y)
    values, axes = np.linalg.eigh(covariance)
    root = (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0.0)).sum()
    distance = np.square(mean - other_mean).sum() + np.trace(covariance) + np.trace(other) - 2.0 * cross
    return max(0.0, float(distance))


def _moments(x: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = x.astype(np.float64)
    return rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False))


def _some(x: Rows, most: int, chance: np.random.Generator) -> Rows:
    """At most so many of the rows, in the order they have."""
    return x if len(x) <= most else x[np.sort(chance.choice(len(x), most, replace=False))]


def _reached(centres: Rows, points: Rows) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Around each centre is a ball that ends at its fifth neighbour among the centres: whether a point is in it (n,),
    and in how many balls each point is (m,)."""
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(centres)
    radii = near.kneighbors()[0][:, -1] + _EQUAL
    reached, within = np.zeros(len(centres), np.bool_), np.zeros(len(points), np.int64)
    for start in range(0, len(centres), _CHUNK):
        rows = slice(start, start + _CHUNK)
        inside = cdist(centres[rows], points) <= radii[rows, None]
        reached[rows] = inside.any(axis=1)
        within += inside.sum(axis=0)
    return reached, within


def _modes_lost(modes: Any, x: Rows) -> float:
    """Of the clusters (`KMeans`) of as many real rows."""
    real, found = (
        np.bincount(labels, minlength=len(modes.cluster_centers_)) for labels in (modes.labels_, modes.predict(x))
    )
    told = real >= LEAST_OF_A_MODE
    return float((found[told] < LOST_SHARE * real[told]).mean())

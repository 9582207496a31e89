"""The latent space of a model in two dimensions: where normal records, incidents and samples lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from detector.inspecting.observed import Observed, embedded, some
from models.base import GenerativeModel

MOST_POINTS = 2_000
"""Of a kind in a picture; more only cover one another."""
INSIDE = 0.99
"""Share of the normal records that lie inside."""


class LatentFigures(BaseModel):
    """Outside is farther from the middle, in the metric of their covariance, than 99 % of the normal records."""

    model_config = ConfigDict(frozen=True)

    dimensions: int
    explained: float
    """Share of the variance of normal records that the two axes hold."""
    samples_outside: float
    """About 0.01 for a good model."""
    incidents_outside: float | None
    """Small where what makes records unlikely is not in these two axes, or not in the latent space; None where there
    are no incidents."""


class Latent(NamedTuple):
    """Points (n, 2) of each kind, and the severity of each incident."""

    figures: LatentFigures
    normal: NDArray[np.float64]
    samples: NDArray[np.float64]
    incidents: NDArray[np.float64]
    severity: NDArray[np.int64]


def latent(model: GenerativeModel, observed: Observed, samples: NDArray[np.float32]) -> Latent:
    """Projects on the first two principal axes of the normal records (Pearson 1901), which incidents do not turn."""
    rows, severity = observed.beyond
    chosen = some(np.arange(len(rows)), MOST_POINTS)
    latents = embedded(model, observed.x[some(observed.normal, MOST_POINTS)])
    centre = latents.mean(axis=0)
    _, sizes, axes = np.linalg.svd(latents - centre, full_matrices=False)
    plane = np.zeros((latents.shape[1], 2))  # one latent dimension leaves the second axis empty
    plane[:, : len(axes[:2])] = axes[:2].T
    normal = (latents - centre) @ plane
    drawn = (embedded(model, samples[:MOST_POINTS]) - centre) @ plane
    incidents = (embedded(model, observed.x[rows[chosen]]) - centre) @ plane
    edge = np.quantile(_far(normal, normal), INSIDE)
    figures = LatentFigures(
        dimensions=latents.shape[1],
        explained=float(np.square(sizes[:2]).sum() / max(np.square(sizes).sum(), 1e-12)),
        samples_outside=float((_far(drawn, normal) > edge).mean()),
        incidents_outside=float((_far(incidents, normal) > edge).mean()) if len(incidents) else None,
    )
    return Latent(figures, normal, drawn, incidents, severity[chosen])


def _far(points: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance (n,) from the middle along principal axes, by the variances of normal points there."""
    distance: NDArray[np.float64] = (np.square(points) / np.maximum(normal.var(axis=0), 1e-12)).sum(axis=1)
    return distance

"""Linear regression, and how far what it foretells is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Ridge(NamedTuple):
    """Targets (n, k) ≈ inputs (n, q) @ weights + level, once for each penalty: weights (penalties, q, k) and levels
    (penalties, k)."""

    weights: Tensor
    levels: Tensor

    def errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(penalties, k): mean squares of what is missed of each target."""
        fits = zip(self.weights, self.levels, strict=True)
        return torch.stack([(targets - level - inputs @ weights).square().mean(0) for weights, level in fits])

    def chosen(self, best: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (q, k) and level (k,), with the penalty of that number (k,) for each target."""
        target = torch.arange(len(best), device=best.device)
        return self.weights[best, :, target].T, self.levels[best, target]


def ridge(inputs: Tensor, targets: Tensor, penalties: Sequence[float], towards: Tensor | None = None) -> Ridge:
    """Minimises Σ |target − weights · input − level|² + penalty · |weights − towards|² (Hoerl and Kennard, 1970) for
    all penalties, out of one decomposition; towards zero where nothing is said. Where inputs have unit variance, a
    penalty is so many rows that say `towards`. Expects float64: where columns move as one float32 leaves no digits."""
    prior = inputs.new_zeros(inputs.shape[1], targets.shape[1]) if towards is None else towards
    mean, centre = inputs.mean(0), targets.mean(0)
    inputs = inputs - mean
    strengths, axes = torch.linalg.eigh(inputs.T @ inputs)
    along = axes.T @ (inputs.T @ (targets - centre - inputs @ prior))
    weights = torch.stack(
        [prior + axes @ (along / (strengths.clamp_min(0.0) + penalty).unsqueeze(1)) for penalty in penalties]
    )
    return Ridge(weights, centre - mean @ weights)


def pooled_deviation(residuals: Tensor, forecast: Tensor) -> Tensor:
    """(k,): √((s² + r²) / 2) with s the deviation of training residuals (n, k) and r² the mean squares (k,) of those of
    held-back rows: of rows that a model was fitted to they are too small, and of few later ones they are a guess."""
    return (((residuals - residuals.mean(0)).square().mean(0) + forecast) / 2).sqrt()

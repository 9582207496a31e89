"""What models take from a Gaussian of their rows: its axes, its factor, and what it expects of some columns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.replacing import MAX_REPLACED

_RIDGE = 0.01  # of the mean variance, added to the variances along principal axes
_SLACK = 1e-3  # of each variance, added to it before a covariance is factored: columns may be the same
_LEAST_VARIANCE = 1e-6  # of a column, where that share is taken of it


class Axes(NamedTuple):
    """Principal axes of rows: their mean (m,), directions (m, m), one a column, the variance along each (m,), the ridge
    () that keeps those of no variance from counting without end, and the root of their sum (m,), by which to divide."""

    mean: Tensor
    directions: Tensor
    variances: Tensor
    ridge: Tensor
    deviations: Tensor


def principal(rows: Tensor, *, least: float) -> Axes:
    """Of rows (n, m), with a ridge of `_RIDGE` times their mean variance, taken to be no less than `least`."""
    mean = rows.mean(0)
    variances, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    ridge = _RIDGE * variances.mean().nan_to_num().clamp_min(least)  # of no column the mean is NaN
    return Axes(mean, directions, variances, ridge, (variances.clamp_min(0.0) + ridge).sqrt())


def factor(rows: Tensor) -> Tensor:
    """(m, m): lower Cholesky factor of the covariance of rows (n, m), to draw such rows by."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / len(rows)
    slack = _SLACK * covariance.diagonal().clamp_min(_LEAST_VARIANCE)
    lower: Tensor = torch.linalg.cholesky(covariance + slack.diag())
    return lower.contiguous()  # LAPACK has columns first, with which it could not be saved


def excess(gradient: Tensor, precision: Tensor, replaced: Tensor) -> Tensor:
    """(n, d): by how much columns exceed their expectation where −log p is a quadratic of gradient g (n, d) and Hessian
    H (d, d). Of the replaced ones R (n, d), `MAX_REPLACED` at most, that is H_RR⁻¹ g_R, jointly given the others; of
    each other one (g − H e)_j / H_jj, given the rest with R so replaced. 0 where H has none, of columns that are not
    Gaussian."""
    diagonal = precision.diagonal()
    replaced = replaced & (diagonal > 0)
    chosen, column = replaced.to(gradient).topk(min(MAX_REPLACED, len(diagonal)))  # (n, r)
    system = precision[column.unsqueeze(2), column.unsqueeze(1)] * chosen.unsqueeze(2) * chosen.unsqueeze(1)
    solved = torch.linalg.solve(system + (1.0 - chosen).diag_embed(), gradient.gather(1, column) * chosen)
    joint = torch.zeros_like(gradient).scatter(1, column, solved)
    single = (gradient - joint @ precision) / diagonal
    return torch.where(replaced, joint, single).where(diagonal > 0, 0.0)

"""Expectation-maximisation for the Gaussian mixture: in float64, on rows brought to one scale, with covariances
shrunken to what the components have in common."""

from __future__ import annotations

import math
import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.base import Layout, Progress

Shape = Literal["full", "diag", "tied"]

_MAX_ITERATIONS = 20  # from a start whose columns went together otherwise; fewer from k-means
_TOLERANCE = 0.01  # nats a row: EM stops when an iteration gains less
_K_MEANS_ITERATIONS = 10  # k-means only has to part the rows: EM moves the means on
_COUNTED = 0.98  # share of the later rows that choose the number of components; the rest may be anomalies
_WORTH = 0.02  # nats a row by which more components have to be better: fewer score faster
_MEAN_SHRINKAGE = 0.01  # rows that say a component's mean is the table's (κ of Fraley and Raftery)
_FLOOR = 0.01  # of the table's variance in every direction: less, and a level that moves later costs thousands of nats
_LEAST_SHRINKAGE = 1e-4  # of a covariance to a sphere: columns that copy each other leave it singular
_LEAST_SHARE = 1e-6  # of a row, to count for the covariance of a component
_DISCRETE_SLACK = 0.01  # variance added to binary and one-hot columns, which may never change within a component
_LEAST_DEVIATION = 0.01  # of a numeric column, which comes scaled to about 1


class Table(NamedTuple):
    """Flattened rows (n, D), standardised by mean and deviation (D,); by how much 1 exceeds their variance (D,); and
    which columns are left out (D,)."""

    rows: Tensor
    mean: Tensor
    deviation: Tensor
    slack: Tensor
    reference: Tensor

    def standardise(self, x: Tensor) -> Tensor:
        """Other rows (n, window, d) -> (n, D), in the units of the table."""
        return ((x.flatten(1) - self.mean) / self.deviation).masked_fill(self.reference, 0.0)


class Mixture(NamedTuple):
    """Weights (k,), means (k, D), and covariances: full (k, D, D), tied (1, D, D), diag (k, D)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor


class Prior(NamedTuple):
    """What is known of covariances before a component's rows are looked at: the least that they are, and the unit of
    their shape, (D, D), diag (D,); the share of a sphere in what components have in common; and how many rows that
    counts for beside a component's own."""

    floor: Tensor
    unit: Tensor
    shrinkage: float
    strength: float


def standardised(x: Tensor, layout: Layout) -> Table:
    """Deviations of binary and one-hot columns are √(p(1 − p)) with p = (count + ½) / (n + 1)."""
    mean = x.mean(0)  # (window, d)
    deviation = x.std(0, correction=0).clamp_min(_LEAST_DEVIATION)
    reference, least_slack = torch.zeros_like(mean, dtype=torch.bool), torch.zeros_like(mean)
    for block, columns in layout.slices():
        if block.kind == "numeric":
            continue
        count = x[..., columns].sum(0).clamp(0, len(x))  # draws of a mixture may lie beyond 0 and 1
        frequency = (count + 0.5) / (len(x) + 1)
        mean[:, columns], deviation[:, columns] = frequency, (frequency * (1.0 - frequency)).sqrt()
        least_slack[:, columns] = _DISCRETE_SLACK
        if block.kind == "categorical":
            reference[:, columns].scatter_(1, frequency.argmax(1, keepdim=True), True)
    mean[reference], deviation[reference] = 0.5, 1.0
    rows = ((x - mean) / deviation).masked_fill(reference, 0.0).flatten(1)
    slack = torch.maximum(1.0 - rows.var(0, correction=0), least_slack.flatten())
    return Table(rows, mean.flatten(), deviation.flatten(), slack, reference.flatten())


def prior(table: Table, shape: Shape) -> Prior:
    """The table's covariance C, shrunken to a sphere of the same mean variance by the intensity that has the least
    expected error (Ledoit and Wolf, 2004), is what the floor is a share of.

    What components have in common counts for as many rows as a covariance has numbers to a column: fewer rows would not
    determine one.
    """
    n, width = table.rows.shape
    rows = table.rows - table.rows.mean(0)
    covariance = rows.T @ rows / n
    mean_variance = covariance.trace() / width
    spread = covariance.square().sum() - width * mean_variance**2
    error = (rows.square().sum(1).square().mean() - covariance.square().sum()) / n
    shrinkage = float((error / spread.clamp_min(torch.finfo(spread.dtype).tiny)).clamp(_LEAST_SHRINKAGE, 1.0))
    unit = torch.ones_like(table.mean) if shape == "diag" else torch.ones_like(table.mean).diag()
    whole = covariance.diagonal() if shape == "diag" else covariance
    floor = _FLOOR * _shrunken(whole, unit, shrinkage) + table.slack * unit
    return Prior(floor, unit, shrinkage, strength=1.0 if shape == "diag" else (width + 1) / 2)


def _shrunken(covariance: Tensor, unit: Tensor, shrinkage: float) -> Tensor:
    """Of a covariance, so much exchanged for a sphere with the same mean variance."""
    sphere = (covariance * unit).sum() / unit.sum() * unit
    return torch.lerp(covariance, sphere, shrinkage)


def whitening(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Of covariances (c, D, D) upper triangular matrices by which deviations from the mean come to unit covariance, of
    variances (k, D) their reciprocal roots; and the logarithm of each one's determinant."""
    if covariances.dim() == 2:
        roots = covariances.rsqrt()
        return roots, roots.log().sum(-1)
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype)
    upper = torch.linalg.solve_triangular(torch.linalg.cholesky(covariances), identity, upper=False).mT
    return upper, upper.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def log_joint(rows: Tensor, mixture: Mixture) -> Tensor:
    """(n, D) -> (n, k): log p(row, component)."""
    weights, means, covariances = mixture
    roots, log_determinant = whitening(covariances)
    whitened = (
        (rows - mean) * root if root.dim() == 1 else (rows - mean) @ root
        for mean, root in zip(means, roots.expand(len(means), *roots.shape[1:]), strict=True)
    )
    distance = torch.stack([own.square_().sum(1) for own in whitened], 1)
    return weights.log() + log_determinant - 0.5 * (rows.shape[1] * math.log(2 * math.pi) + distance)


def maximised(rows: Tensor, shares: Tensor, prior: Prior, shape: Shape) -> Mixture:
    """The mixture to be expected where each component accounts for its share of each row (n, k).

        Σ_k = (S_k + ν P) / (n_k + ν) + floor,    P = Σ_j S_j / n, shrunken to a sphere

    with S_k the scatter about its mean and n_k the rows of component k: the mean of its covariance a posteriori under
    an inverse Wishart prior of scale ν P and ν + D + 1 degrees of freedom (Fraley and Raftery, 2007, take the mode),
    with a P that the components share. A component of few rows is as wide as P, and tied covariances are P itself.
    """
    counts = shares.sum(0)
    means = shares.T @ rows / (counts + _MEAN_SHRINKAGE).unsqueeze(1)
    scatter = torch.stack([_scatter(rows, share, mean, prior) for share, mean in zip(shares.T, means, strict=True)])
    common = _shrunken(scatter.sum(0) / len(rows), prior.unit, prior.shrinkage)
    if shape == "tied":
        covariances = common.unsqueeze(0)
    else:
        own = counts.view(-1, *(1 for _ in common.shape))
        covariances = (scatter + prior.strength * common) / (own + prior.strength)
    return Mixture((counts + 1.0) / (counts + 1.0).sum(), means, covariances + prior.floor)


def _scatter(rows: Tensor, share: Tensor, mean: Tensor, prior: Prior) -> Tensor:
    """Sum of squares and products of deviations from the mean, of the rows with a share that counts."""
    there = (share > _LEAST_SHARE).nonzero().squeeze(1)
    away, share = rows[there] - mean, share[there]
    return share @ away.square() if prior.unit.dim() == 1 else (away.T * share) @ away


def by_k_means(rows: Tensor, size: int, seed: int) -> Tensor:
    """(n, size): each row wholly of its cluster."""
    # Imported here, because it takes as long as torch and a daemon that only scores does without it.
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # scikit-learn ships no types
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]  # scikit-learn ships no types

    k_means = KMeans(size, max_iter=_K_MEANS_ITERATIONS, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: the others stay empty
        clusters = k_means.fit_predict(rows.numpy())
    return F.one_hot(torch.from_numpy(clusters).long(), size).to(rows)


def expectation_maximisation(rows: Tensor, start: Mixture, prior: Prior, shape: Shape) -> tuple[Mixture, int]:
    """From a start until an iteration gains little, and the iterations taken."""
    mixture, before, taken = start, -math.inf, 0
    while taken < _MAX_ITERATIONS:
        joint = log_joint(rows, mixture)
        mixture, taken = maximised(rows, joint.softmax(-1), prior, shape), taken + 1
        likelihood = float(joint.logsumexp(-1).mean())
        if likelihood - before < _TOLERANCE:
            break
        before = likelihood
    return mixture, taken


def chosen_mixture(
    table: Table, later: Tensor, known: Mixture | None, sizes: list[int], shape: Shape, seed: int, progress: Progress
) -> tuple[Mixture, int]:
    """Of the mixtures of these sizes, which rise, the smallest under which later rows are about as likely as under any;
    where one is known, the one it leads to. And the iterations that all of them took."""
    before, iterations = prior(table, shape), 0
    tried: list[tuple[float, Mixture]] = []
    for size in sizes if known is None else [len(known.weights)]:
        progress(len(tried) / len(sizes), f"{size} components")
        start = known or maximised(table.rows, by_k_means(table.rows, size, seed), before, shape)
        mixture, taken = expectation_maximisation(table.rows, start, before, shape)
        tried.append((_surprise(later, mixture), mixture))
        iterations += taken
    progress(1.0, "done")
    enough = min(surprise for surprise, _ in tried) + _WORTH
    return next(mixture for surprise, mixture in tried if surprise <= enough), iterations


def _surprise(rows: Tensor, mixture: Mixture) -> float:
    """Mean −log p of all rows but the least likely, which would decide on their own."""
    scores = -log_joint(rows, mixture).logsumexp(-1)
    return float(scores[scores <= scores.quantile(_COUNTED)].mean())

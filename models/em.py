"""Expectation-maximisation for the Gaussian mixture: in float64, on rows brought to one scale."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.base import Layout

_MAX_ITERATIONS = 25
_TOLERANCE = 0.02  # nats a row: EM stops when an iteration gains less
_RIDGE = 1e-4  # added to the variances of standardised columns
_DISCRETE_SLACK = 0.01  # more for binary and one-hot columns, which may never change within a component
_LEAST_DEVIATION = 0.01  # of a numeric column, which comes scaled to about 1


class Table(NamedTuple):
    """Flattened rows (n, D), standardised by mean and deviation (D,); by how much 1 exceeds their variance (D,); and
    which columns are left out (D,)."""

    rows: NDArray[np.float64]
    mean: Tensor
    deviation: Tensor
    slack: Tensor
    reference: Tensor


class Components(NamedTuple):
    """What a mixture knows, in the units of a table, under scikit-learn's names: weights (k,), means (k, D), and
    precisions, full (k, D, D), tied (D, D), diag (k, D)."""

    weights_init: NDArray[np.float64]
    means_init: NDArray[np.float64]
    precisions_init: NDArray[np.float64]


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
    return Table(rows.numpy(), mean.flatten(), deviation.flatten(), slack, reference.flatten())


def expectation_maximisation(
    rows: NDArray[np.float64], size: int, covariance: str, seed: int, known: Components | None
) -> Any:
    """A mixture of `size` components that starts from those known, else from k-means, which starts from k-means++."""
    # Imported here, because it takes as long as torch and a daemon that only scores does without it.
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]  # scikit-learn ships no types
    from sklearn.mixture import GaussianMixture as EM  # type: ignore[import-untyped]  # scikit-learn ships no types

    em = EM(
        size,
        covariance_type=covariance,
        tol=_TOLERANCE,
        reg_covar=_RIDGE,
        max_iter=_MAX_ITERATIONS,
        random_state=seed,
        **({} if known is None else known._asdict()),
    )
    with warnings.catch_warnings():
        # An unfinished EM is a mixture none the worse, and fewer distinct rows than components a harmless table.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return em.fit(rows)

"""Which models to fit where the settings leave it open, by what the training records look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from detector.config_models import (
    GaussianMixtureSettings,
    KernelMixtureSettings,
    LinearAutoregressionSettings,
    ModelSettings,
)
from detector.entities import EntityTable

STREAM: tuple[ModelSettings, ...] = (LinearAutoregressionSettings(type="ar"),)
"""Where records follow from those before them."""
TABLE: tuple[ModelSettings, ...] = (KernelMixtureSettings(type="kernel"), GaussianMixtureSettings(type="gmm"))
"""Where they do not: one model of many small parts, and one of few large ones."""
LAGS = 16
"""Records before one that its dependence is looked for in: as many as the average of a medium half-life holds."""
SUBSTANTIAL = 0.03
"""Part of a column's variance that what came before tells, from which on there is an order: of records in random order
it is about `LAGS` in their number, and less is of no use to a model."""
CHANCE = 0.01
"""And that would come about by chance no more often than this, in any of the columns."""
LEAST_ROWS = 2 * LAGS
"""Rows of one entity that tell whether they depend on one another; where nobody has as many, they are taken to, as
those of a topic are written one after the other."""


class Order(NamedTuple):
    """Whether what came before a record tells something of it; the strongest dependence of a column, as the sum of
    squared autocorrelations (Box and Pierce 1970), and how many rows told it."""

    there: bool
    dependence: float
    rows: int

    def __str__(self) -> str:
        if not self.rows:
            return f"no entity has {LEAST_ROWS} records, from which on it can be told: they are taken to have an order"
        verdict = "records depend on those before them" if self.there else "records have no order that matters"
        return f"{verdict} (squared autocorrelations add up to {self.dependence:.3g}, {SUBSTANTIAL:g} counts)"


def order_of(x: NDArray[np.float32], entity: NDArray[np.object_]) -> Order:
    """Looks at records (n, d) of these entities (n,), in order of time.

    By rank, so that no outlier decides, and about each entity's own mean, as that two machines differ is no order.
    """
    visits = EntityTable(max(1, len(entity))).locate(entity)
    own = visits.slot[visits.order]
    long = np.bincount(own)[own] >= LEAST_ROWS
    rows, own = visits.order[long], np.unique(own[long], return_inverse=True)[1]
    varying = np.flatnonzero(np.ptp(x, axis=0) > 0)
    if not len(rows):
        return Order(True, 0.0, 0)
    if not len(varying):
        return Order(False, 0.0, len(rows))
    rank = rankdata(x[rows][:, varying], axis=0)
    count = np.bincount(own)
    means = np.stack([np.bincount(own, weights=column) for column in rank.T], axis=1) / count[:, None]
    rank -= means[own]
    rank /= np.maximum(rank.std(axis=0), 1e-12)
    dependence, statistic = np.zeros(len(varying)), np.zeros(len(varying))
    for lag in range(1, LAGS + 1):
        pairs = own[lag:] == own[:-lag]
        correlation = np.einsum("ij,ij->j", rank[lag:][pairs], rank[:-lag][pairs]) / len(rows)
        dependence += correlation**2
        statistic += len(rows) * correlation**2
    by_chance = chi2.sf(statistic, LAGS) * len(varying)
    there = bool(((dependence >= SUBSTANTIAL) & (by_chance <= CHANCE)).any())
    return Order(there, float(dependence.max()), len(rows))


def chosen(models: Sequence[ModelSettings] | str, order: Order) -> Sequence[ModelSettings]:
    """The models of the settings, or those for records of this order where it is left open."""
    if not isinstance(models, str):
        return models
    return STREAM if order.there else TABLE

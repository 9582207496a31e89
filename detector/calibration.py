"""Scores to p-values.

A model's score says how unlikely a record is under that model, in units of its own. `ScoreScale` turns it into nats,
−ln p with p the share of normal records that score at least as high, so that models become comparable; `Calibration`
combines several models, and the averages of what they said lately, to one such number. Which p-value is an alarm is
decided in `detector.level`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled
from detector.averages import HALF_LIVES, Usual, require_floats
from detector.errors import NotEnoughRows

TAIL_SHARE = 0.1
"""Share of the calibration rows, the highest scores, that the tail is fitted to."""
SHAPE_RANGE = (0.05, 0.5)
"""Bounds of the tail's shape: above 0, so that huge scores do not run away; at most 1/2, so that they keep an order."""
WEIGHTS = (1.0, 0.5, 0.25)
"""How much the average over each of `HALF_LIVES` counts: a slower one half as much as the one before, as it goes on
longest after an incident is over."""
OWN_WEIGHT, OWN_WEIGHT_RANKED = 1.0, 0.5
"""How much the record itself counts for alarms, and where records are ranked: averages show which records belong to an
incident, but they come in runs, of which calibration sees few, and a budget must not rest on few."""


def rows_needed(rate: float) -> int:
    """Calibration rows that a conformal p-value as small as `rate` needs: the least n with 1/(n+1) <= rate."""
    return math.ceil(1 / rate - 1e-9) - 1


@dataclass(frozen=True)
class ScoreScale:
    """One model's scores in nats, −ln p.

    Up to the largest calibration score, p is the split-conformal p-value (#{c >= s} + 1) / (n + 1), for which
    exchangeable records have P(p <= a) <= a for every a (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random
    World, 2005). Beyond it p goes on as a generalised Pareto tail (Pickands 1975), fitted to the highest tenth by
    probability-weighted moments (Hosking & Wallis, Technometrics 1987, section 3).
    """

    sorted_scores: NDArray[np.float64]
    tail_start: float
    shape: float
    scale: float

    @classmethod
    def fit(cls, scores: NDArray[np.floating]) -> ScoreScale:
        """Scale of the scores (n,) of normal records that the model has not seen."""
        ordered = np.sort(scores.astype(np.float64))
        if len(ordered) < _LEAST_ROWS or not np.isfinite(ordered).all():
            raise NotEnoughRows(
                f"{int(np.isfinite(ordered).sum())} finite calibration scores. Expected at least {_LEAST_ROWS}, all of "
                "them finite."
            )
        count = max(3, int(TAIL_SHARE * len(ordered)), min(10, len(ordered) // 3))
        start = ordered[-count]
        shape, scale = _generalised_pareto(ordered[-count:] - start)
        least = 1e-5 * max(1.0, abs(float(start)))  # rounding of float32 scores must not look like surprise
        return cls(ordered, float(start), shape, max(scale, 1e-3 * float(start - np.median(ordered)), least))

    def nats(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """−ln p of scores (n,): non-decreasing in the score, without an upper end."""
        nats = np.empty(len(scores))
        _look_up(scores.astype(np.float64), self.sorted_scores, *self._guide, self._nats_below, nats)
        beyond = np.flatnonzero(scores > self.sorted_scores[-1])
        nats[beyond] += self._tail(scores[beyond]) - self._tail(self.sorted_scores[-1])
        return nats

    def graded(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """As `nats`, but by the tail from where it starts: no two scores beyond are the same, though between the
        highest calibration scores p is no conformal p-value. For what is calibrated once more."""
        start = -math.log((len(self.sorted_scores) - self._below_tail + 1) / (len(self.sorted_scores) + 1))
        return np.minimum(self.nats(scores), start) + self._tail(scores)

    @cached_property
    def _below_tail(self) -> int:
        """Calibration scores below `tail_start`."""
        return int(np.searchsorted(self.sorted_scores, self.tail_start, side="left"))

    def score_at(self, rate: float) -> float:
        """The least score whose p-value is at most `rate`."""
        n = len(self.sorted_scores)
        at_or_above = math.floor(rate * (n + 1) + 1e-9) - 1
        if at_or_above >= 1:
            return float(self.sorted_scores[n - at_or_above])
        nats = -math.log(rate * (n + 1)) + float(self._tail(self.sorted_scores[-1]))
        return self.tail_start + self.scale * math.expm1(self.shape * nats) / self.shape

    def rate_beyond(self, score: float) -> float:
        """The p-value of a score."""
        return float(np.exp(-self.nats(np.array([score]))[0]))

    @cached_property
    def _nats_below(self) -> NDArray[np.float64]:
        """−ln p (n + 1,) of a score by how many calibration scores are below it."""
        n = len(self.sorted_scores)
        return -np.log((np.arange(n, -1, -1) + 1) / (n + 1))

    @cached_property
    def _guide(self) -> tuple[NDArray[np.int64], float, float]:
        """How many calibration scores lie below each of `_CELLS` evenly spaced edges, the first edge, and the cells a
        unit: where a look-up begins."""
        low, high = np.quantile(self.sorted_scores, [0.0, 0.99])
        edges = np.linspace(low, high, _CELLS) if high > low else np.full(_CELLS, low)
        below = np.searchsorted(self.sorted_scores, edges, side="left")
        return below, float(low), (_CELLS - 1) / float(high - low) if high > low else 0.0

    def _tail(self, scores: NDArray[np.floating] | np.float64) -> NDArray[np.float64]:
        """−ln of the fitted survival function of the excess over `tail_start`."""
        excess = np.maximum(0.0, np.asarray(scores, np.float64) - self.tail_start) / self.scale
        nats: NDArray[np.float64] = np.log1p(self.shape * excess) / self.shape
        return nats


@dataclass(frozen=True, slots=True)
class Calibration:
    """The scores of all models of a detector, turned into one −ln p a record.

    With several models the mean of their nats (Fisher's statistic, 1925) is calibrated once more on the same rows: the
    p-value holds whatever the dependence between the models, because that dependence is in the calibration rows too. So
    it is with the averages of what they said lately (`detector.averages`), where records have an order: each has a
    scale of its own, and their mean, weighted by `WEIGHTS`, is calibrated once more.
    """

    scales: Mapping[str, ScoreScale]
    """Of each model."""
    slow: Mapping[str, tuple[ScoreScale, ...]]
    """Of each model's averages, by half-life; empty where records have no order."""
    alone: ScoreScale | None
    """Of a record for itself; None where a single model says it."""
    combined: ScoreScale | None
    """Of a record with what came before it; None where that does not count."""
    usual: Usual
    """Where averages begin."""

    @classmethod
    def fit(
        cls, scores: Mapping[str, NDArray[np.floating]], averages: NDArray[np.float64] | None = None
    ) -> Calibration:
        """Calibration on the scores (n,) of each model for the same n rows, unseen by all of them; where rows have an
        order, with the averages (m, half-lives, n) at each."""
        usual = Usual.of(np.stack([*scores.values()]))
        scales = {name: ScoreScale.fit(column) for name, column in scores.items()}
        slow = {} if averages is None else dict(zip(scores, map(_fitted, averages), strict=True))
        found = cls(scales, slow, None, None, usual)
        by_model = found.by_model(np.stack([*scores.values()]))
        alone = ScoreScale.fit(by_model.mean(axis=0)) if len(scales) > 1 else None
        combined = None if averages is None else ScoreScale.fit(found._with_past(by_model, averages)[0])
        return replace(found, alone=alone, combined=combined)

    @property
    def rows(self) -> int:
        """Calibration rows this rests on."""
        return len(self._last.sorted_scores)

    def interval(self, rate: float, *, independent: float | None = None, seed: int = 0) -> tuple[float, float]:
        """Between which rates the share of records beyond the p-value `rate` lies, as nine in ten bootstrap samples of
        the calibration rows have it (Efron, Annals of Statistics 1979), of as many rows as are `independent`. Holds for
        records like these, before the online level corrects it."""
        chance, scale = np.random.default_rng(seed), self._last
        size = self.rows if independent is None else max(_LEAST_ROWS, round(independent))
        samples = (chance.choice(scale.sorted_scores, size) for _ in range(_BOOTSTRAPS))
        beyond = [scale.rate_beyond(ScoreScale.fit(sample).score_at(rate)) for sample in samples]
        low, high = np.quantile(beyond, [0.05, 0.95])
        return float(low), float(high)

    def by_model(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scores (m, n), a row a model in the order of `scales`, to nats of each (m, n)."""
        return np.stack([scale.graded(row) for scale, row in zip(self.scales.values(), scores, strict=True)])

    def nats(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scores (m, n) of records for themselves to −ln p (n,), whatever came before them."""
        if self.alone is None:
            return next(iter(self.scales.values())).nats(scores[0])
        return self.alone.nats(self.by_model(scores).mean(axis=0))

    def in_time(
        self, scores: NDArray[np.floating], by_model: NDArray[np.float64], averages: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores (m, n), the nats of each, and the averages (m, half-lives, n) at each record, to −ln p (n,), and to
        what records are ranked by (n,)."""
        if self.combined is None:
            return self.nats(scores), by_model.mean(axis=0)
        surprise, ranking = self._with_past(by_model, averages)
        return self.combined.nats(surprise), ranking

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Everything fitted, by name."""
        return {
            "usual.mean": self.usual.mean,
            "usual.most": self.usual.most,
            **{
                f"{name}.{part}": array
                for name, scale in self._named()
                for part, array in (
                    ("sorted_scores", scale.sorted_scores),
                    ("tail", np.array([scale.tail_start, scale.shape, scale.scale])),
                )
            },
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64]], models: Sequence[str]) -> Calibration:
        """The calibration that `to_arrays` took apart; `models` gives their order. Raises `ValueError` where averages
        begin for another number of models."""
        for what in ("usual.mean", "usual.most"):
            require_floats(what, arrays[what], (len(models),))

        def scale(name: str) -> ScoreScale:
            return ScoreScale(arrays[f"{name}.sorted_scores"], *map(float, arrays[f"{name}.tail"]))

        ordered = f"{_COMBINED}.tail" in arrays
        return cls(
            {name: scale(name) for name in models},
            {name: tuple(scale(_average(name, at)) for at in HALF_LIVES) for name in models if ordered},
            scale(_ALONE) if len(models) > 1 else None,
            scale(_COMBINED) if ordered else None,
            Usual(arrays["usual.mean"], arrays["usual.most"]),
        )

    @property
    def _last(self) -> ScoreScale:
        """By which p-values are read off in the end."""
        return self.combined or self.alone or next(iter(self.scales.values()))

    def _with_past(
        self, by_model: NDArray[np.float64], averages: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The weighted means (n,) of the nats of records (m, n) and of averages (m, half-lives, n), over all models: as
        they count for alarms, and for ranking."""
        own, past = by_model.mean(axis=0), np.zeros(by_model.shape[1])
        for scales, of_model in zip(self.slow.values(), averages, strict=True):
            for scale, weight, average in zip(scales, WEIGHTS, of_model, strict=True):
                past += weight / len(averages) * scale.graded(average)
        total = sum(WEIGHTS)
        return (
            (OWN_WEIGHT * own + past) / (OWN_WEIGHT + total),
            (OWN_WEIGHT_RANKED * own + past) / (OWN_WEIGHT_RANKED + total),
        )

    def _named(self) -> Iterator[tuple[str, ScoreScale]]:
        yield from self.scales.items()
        for name, scales in self.slow.items():
            yield from ((_average(name, at), scale) for at, scale in zip(HALF_LIVES, scales, strict=True))
        if self.alone is not None:
            yield _ALONE, self.alone
        if self.combined is not None:
            yield _COMBINED, self.combined


def _fitted(averages: NDArray[np.float64]) -> tuple[ScoreScale, ...]:
    return tuple(map(ScoreScale.fit, averages))


def _average(model: str, half_life: float) -> str:
    return f"{model} over {half_life:g}"


_ALONE = "alone"
_COMBINED = "combined"
_BOOTSTRAPS = 100
_LEAST_ROWS = 3
_CELLS = 1024


def _generalised_pareto(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution for excesses (k,) in ascending order, smallest 0."""
    k = len(excess)
    first = float(excess.mean())
    second = float((excess * (k - 1 - np.arange(k)) / (k - 1)).mean())
    if first <= 2 * second or second <= 0:
        return SHAPE_RANGE[1], first
    shape = float(np.clip(2 - first / (first - 2 * second), *SHAPE_RANGE))
    return shape, first * (1 - shape)


@compiled
def _look_up(
    scores: NDArray[np.float64],
    ordered: NDArray[np.float64],
    guide: NDArray[np.int64],
    low: float,
    cells: float,
    nats_below: NDArray[np.float64],
    nats: NDArray[np.float64],
) -> None:
    """nats[i] = nats_below[number of `ordered` below scores[i]]: the search that numpy's is too slow for, by cells."""
    for i in range(len(scores)):
        score = scores[i]
        if math.isnan(score):
            nats[i] = score
            continue
        if score <= low or score > ordered[-1]:
            nats[i] = nats_below[0 if score <= low else len(ordered)]
            continue
        cell = int(min((score - low) * cells, len(guide) - 1.0))
        below = guide[max(cell - 1, 0)]  # a cell to either side, as the product above is rounded
        above = guide[cell + 2] if cell + 2 < len(guide) else len(ordered)
        while below < above:
            middle = (below + above) // 2
            if ordered[middle] < score:
                below = middle + 1
            else:
                above = middle
        nats[i] = nats_below[below]

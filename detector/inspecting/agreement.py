"""Whether what a model draws is distributed as records are, feature by feature and in pairs."""

from __future__ import annotations

import calendar
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from detector.alerts import LONGEST_TEXT
from detector.features import FeatureEncoder
from detector.fidelity import Rows
from detector.parts import Part

BINS = 20
"""Of a histogram of the probability integral transform: as fine as some hundred records allow."""
CHANCE = 3.02
"""Standard deviations within which all `BINS` counts stay in 19 of 20 histograms: the normal quantile of 1 − 0.05 / 2
BINS."""
BEARABLE = 0.1
"""Distance up to which a feature counts as calibrated: a tenth of the records would have to lie elsewhere."""
_SAME = 0.05
"""Spreads of a feature within which numbers count as equal: a model draws numbers of many digits where records repeat
one, and that is nothing to mend."""
_SHIFTED, _NARROW, _WIDE = 0.1, 1.25, 0.75
"""How far the mean of the transform is off 1/2, and the bounds of its variance over 1/12, for a feature to be called
shifted, too narrow or too wide."""
_LEAST_LIKELY = 1.63
"""What √(nm / (n + m)) times the distance between two samples of one distribution exceeds once in a hundred (Smirnov
1948)."""
_CONSTANT = 1e-6
"""Spread of a column up to which it does not vary, as far as float32 tells."""
_PAIRS = 10
_UNDEFINED = "missing or never seen"

_DRIFTED = 0.8
"""Part of the distance from which on it is put down to the stream, where records fitted are as far away."""

Verdict = Literal["calibrated", "drifted", "shifted up", "shifted down", "too narrow", "too wide", "another shape"]
"""What the model's distribution is like beside the records'. Drifted: records that it was fitted on are about as far
from them as its samples. Shifted: where the records lie, seen from the model."""


class FeatureFit(BaseModel):
    """One feature of the records beside the same of the model's samples."""

    model_config = ConfigDict(frozen=True)

    feature: str
    verdict: Verdict
    distance: float
    """0 to 1. Of numbers the largest difference between the transform's distribution and the uniform one (Kolmogorov
    1933); of categories half the sum of the differences in frequency (total variation)."""
    expected: float | None
    """The same of records that the model was fitted on, in place of samples: what a perfect model comes to."""
    missing: tuple[float, float]
    """Share of the records, and of the samples, in which a number is missing."""
    transform: list[int]
    """Histogram of the probability integral transform over `BINS` bins from 0 to 1; nothing for categories."""
    band: tuple[float, float]
    """Between which its counts lie where the model is right, by chance."""
    frequencies: dict[str, tuple[float, float]]
    """By category its share of the records and of the samples; nothing for numbers."""


class Pair(BaseModel):
    """Two columns and their correlation among records that the model was not fitted on, and among its samples."""

    model_config = ConfigDict(frozen=True)

    columns: tuple[str, str]
    observed: float
    generated: float
    fitted: float | None
    """Among the records that the model was fitted on."""


class Correlations(NamedTuple):
    """Names of the columns (k,) that vary, and their correlations (k, k)."""

    names: list[str]
    observed: NDArray[np.float64]
    generated: NDArray[np.float64]
    fitted: NDArray[np.float64] | None

    def farthest(self) -> list[Pair]:
        """The pairs that differ most, those first."""
        off = np.abs(self.observed - self.generated)
        pairs = sorted(combinations(range(len(self.names)), 2), key=lambda pair: -off[pair])[:_PAIRS]
        return [
            Pair(
                columns=(self.names[one], self.names[other]),
                observed=float(self.observed[one, other]),
                generated=float(self.generated[one, other]),
                fitted=None if self.fitted is None else float(self.fitted[one, other]),
            )
            for one, other in pairs
        ]


def feature_fits(
    encoder: FeatureEncoder, real: Rows, drawn: Rows, fitted: Rows | None, *, seed: int
) -> list[FeatureFit]:
    """Of each feature how records (n, d) and samples (m, d) agree, the worst first; beside it how records (k, d) that
    the model was fitted on do, where there are any."""
    chance, own = np.random.default_rng(seed), columns_of(encoder)
    sides = [x for x in (real, drawn, fitted) if x is not None]
    values = [encoder.decode(x) for x in sides]
    fits = []
    for part in encoder.parts:
        told = [it[part.name] for it in values]
        if part.settings.kind in ("numeric", "counter"):
            column, missing = own[part.name].start, [np.isnan(it) for it in told]
            there = [x[~gone, column] for x, gone in zip(sides, missing, strict=True)]
            fits.append(_numbers(part.name, there, (float(missing[0].mean()), float(missing[1].mean())), chance))
        else:
            fits.append(_categories(part.name, [_labels(part, it) for it in told]))
    return sorted(fits, key=lambda fit: -fit.distance)


def transform(observed: NDArray[Any], drawn: NDArray[Any], chance: np.random.Generator) -> NDArray[np.float64]:
    """The randomised probability integral transform u (n,) of observed values (n,) under the distribution of drawn ones
    (m,), in spreads of the feature:

        u = F(x − ε) + v (F(x + ε) − F(x − ε)),   v uniform, F the share of the draws, x itself among them.

    Uniform where both are of one distribution (Dawid 1984), for discrete values too (Czado, Gneiting and Held 2009,
    section 2), and where they differ by no more than ε. It says nothing of how a feature goes with the others.
    """
    ordered = np.sort(drawn)
    below = np.searchsorted(ordered, observed - _SAME, side="left")
    above = np.searchsorted(ordered, observed + _SAME, side="right")
    u: NDArray[np.float64] = (below + chance.random(len(observed)) * (above - below + 1)) / (len(drawn) + 1)
    return u


def columns_of(encoder: FeatureEncoder) -> dict[str, slice]:
    """The columns of each feature's value, its mark left out."""
    places: dict[str, slice] = {}
    for block, columns in encoder.layout.slices():
        places.setdefault(block.feature, columns)
    return places


def correlations(encoder: FeatureEncoder, real: Rows, drawn: Rows, fitted: Rows | None) -> Correlations:
    """Pearson correlations of the columns that models see, as far as they vary among the records (n, d)."""
    varying = real.std(axis=0) > _CONSTANT

    def of(x: Rows) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):  # what does not vary here correlates with nothing
            return np.nan_to_num(np.corrcoef(x[:, varying], rowvar=False)).reshape(varying.sum(), varying.sum())

    names = [name for name, varies in zip(_column_names(encoder), varying.tolist(), strict=True) if varies]
    return Correlations(names, of(real), of(drawn), None if fitted is None else of(fitted))


def _numbers(name: str, sides: Sequence[Rows], missing: tuple[float, float], chance: np.random.Generator) -> FeatureFit:
    """From columns of records, samples, and perhaps records fitted, the missing ones left out."""
    observed, drawn, *others = sides
    u = transform(observed, drawn, chance)
    distance, expected = _from_uniform(u), [_from_uniform(transform(observed, other, chance)) for other in others]
    n, m = max(1, len(observed)), max(1, len(drawn))
    usual = n / BINS
    reach = CHANCE * math.sqrt(usual * (1 - 1 / BINS) * (1 + n / m))
    return FeatureFit(
        feature=name,
        verdict=_verdict(distance, _LEAST_LIKELY * math.sqrt(1 / n + 1 / m), expected) or _shape(u),
        distance=distance,
        expected=next(iter(expected), None),
        missing=missing,
        transform=np.histogram(u, BINS, (0.0, 1.0))[0].tolist(),
        band=(max(0.0, usual - reach), usual + reach),
        frequencies={},
    )


def _categories(name: str, sides: Sequence[Sequence[str]]) -> FeatureFit:
    """From the words of records, of samples, and perhaps of records fitted."""
    real, drawn, *others = ({word: n / len(side) for word, n in Counter(side).items()} for side in sides)
    both = sorted(real | drawn, key=lambda word: (-real.get(word, 0.0), word))
    distance, expected = _variation(real, drawn), [_variation(real, other) for other in others]
    return FeatureFit(
        feature=name,
        verdict=_verdict(distance, math.sqrt(len(both) / len(sides[0])), expected) or "another shape",
        distance=distance,
        expected=next(iter(expected), None),
        missing=(0.0, 0.0),
        transform=[],
        band=(0.0, 0.0),
        frequencies={word: (real.get(word, 0.0), drawn.get(word, 0.0)) for word in both},
    )


def _verdict(distance: float, chance: float, expected: Sequence[float]) -> Verdict | None:
    """None where the model itself is off."""
    if distance <= max(BEARABLE, chance):
        return "calibrated"
    return "drifted" if expected and expected[0] >= _DRIFTED * distance else None


def _shape(u: NDArray[np.float64]) -> Verdict:
    """What a transform (n,) that is not uniform says of the distribution it was taken under."""
    if abs(u.mean() - 0.5) > _SHIFTED:
        return "shifted up" if u.mean() > 0.5 else "shifted down"
    spread = 12 * u.var()
    return "too narrow" if spread > _NARROW else "too wide" if spread < _WIDE else "another shape"


def _from_uniform(u: NDArray[np.float64]) -> float:
    """Kolmogorov's distance of numbers (n,) between 0 and 1 from the uniform distribution."""
    ordered, steps = np.sort(u), np.arange(len(u) + 1) / max(1, len(u))
    return float(max((ordered - steps[:-1]).max(initial=0.0), (steps[1:] - ordered).max(initial=0.0)))


def _variation(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return 0.5 * sum(abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in one.keys() | other.keys())


def _labels(part: Part, values: NDArray[Any]) -> list[str]:
    """Decoded values (n,) in words: hours of the day for minutes."""
    if part.settings.kind == "categorical":
        return [_category(value) for value in values.tolist()]
    if part.settings.kind == "flag":
        return ["missing" if math.isnan(value) else str(value > 0.5).lower() for value in values.tolist()]
    if part.name == "hour":
        return [f"{minute // 60:02}:00" for minute in values.tolist()]
    return [calendar.day_name[day] for day in values.tolist()]


def _category(value: Any) -> str:
    return _UNDEFINED if value is None else str(value)[:LONGEST_TEXT]


def _column_names(encoder: FeatureEncoder) -> list[str]:
    """What each column that models see is of, in words."""
    parts, names = {part.name: part for part in encoder.parts}, list[str]()
    for block, columns in encoder.layout.slices():
        if block.feature not in parts or columns != columns_of(encoder)[block.feature]:
            names.append(f"{block.feature} missing" if block.feature in parts else block.feature)
        elif block.kind == "categorical":
            hot = np.eye(block.width, dtype=np.float32)
            names += [f"{block.feature} = {_category(parts[block.feature].read(row))}" for row in hot]
        else:
            names += [block.feature] if block.width == 1 else [f"{block.feature} ({it})" for it in ("sine", "cosine")]
    return names

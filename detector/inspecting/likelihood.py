"""How likely a model finds records, and what each feature has to do with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from detector.bundle import Bundle
from detector.inspecting.observed import Observed, Stretch, some
from models.base import Block, GenerativeModel

ORDINARY_TAIL, MARKED_TAIL = 0.05, 0.15
"""Share of the fitted records that count as their tail, and share of others there from which on they are markedly less
likely: three times as many."""
DEARER = 1.0
"""Bits by which a feature is told to be dearer on records not fitted: half as likely."""
_ROWS = 64  # of a stretch, of which features are priced: each takes dozens of scores a column
_AT_ONCE = 4096  # rows that are scored at a time
_STEP = 0.53
_REACH = np.exp(np.log(40.0) - _STEP * np.arange(21)[::-1]).astype(np.float32)
_OFFSETS = np.concatenate([-_REACH[::-1], [0.0], _REACH]).astype(np.float32)
"""Where a column's density is looked at around a place: from a thousandth of a spread, finer than models are, to twice
the clip at 20, so to beyond it on the other side, in steps of the logarithm of the distance."""
_WEIGHTS = np.concatenate([_STEP * _REACH[::-1], [_REACH[0] * (2.0 - _STEP)], _STEP * _REACH]).astype(np.float64)
"""By the trapezoidal rule in that logarithm; within the least distance the density is constant."""
_LOOKS = 3


class Spread(BaseModel):
    """Scores of one stretch of records, in the unit of the model."""

    model_config = ConfigDict(frozen=True)

    rows: int
    mean: float
    quartiles: tuple[float, float, float]
    tail: float | None
    """Share beyond the 95 % quantile of the fitted records' scores: 0.05 where both are equally likely. None where none
    of those were given."""


class FeatureBits(BaseModel):
    """What the value of one feature costs in the middling record, −log₂ p(value | rest of the record, records before):
    the conditionals of the pseudo-likelihood (Besag 1975). Of a number this is a density per spread of the feature, so
    it may be below 0; a value that follows from the others costs little. No sum over features is the record's bits."""

    model_config = ConfigDict(frozen=True)

    feature: str
    bits: dict[Stretch, float]


class Likelihood(BaseModel):
    """How likely a model finds records. `bits` are score / ln 2 of a model whose score is −ln p: of one that is over
    its whole window for all records of it, of one that is causal for the newest given those before."""

    model_config = ConfigDict(frozen=True)

    unit: Literal["bits", "score"]
    level: float
    """The score at which this model alone would raise an alarm at the promised rate."""
    stretches: dict[Stretch, Spread]
    features: list[FeatureBits]
    """Dearest on records not fitted first; nothing where scores are no density."""

    def in_unit(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores of the model in this unit."""
        return scores.astype(np.float64) / (math.log(2.0) if self.unit == "bits" else 1.0)

    def warnings(self) -> list[str]:
        """What is wrong, in words."""
        told = []
        for name, spread in self.stretches.items():
            if name != "fitted" and spread.tail is not None and spread.tail > MARKED_TAIL:
                told.append(
                    f"{spread.tail:.0%} of the {name} records score beyond all but {ORDINARY_TAIL:.0%} of the fitted "
                    "ones: the model has learned its records by heart, or the stream has changed since"
                )
        dearer = [it.feature for it in self.features if _rise(it) > DEARER]
        if dearer:
            told.append(f"{', '.join(dearer[:5])}: at most half as likely on records that were not fitted")
        return told


def likelihood(bundle: Bundle, kind: str, observed: Observed) -> Likelihood:
    """The figures of one model."""
    model = bundle.models[kind]
    unit = 1.0 / math.log(2.0) if model.is_density else 1.0
    scores = unit * observed.scores[list(bundle.models).index(kind)].astype(np.float64)
    fitted = observed.stretches.get("fitted")
    edge = None if fitted is None else float(np.quantile(scores[fitted], 1.0 - ORDINARY_TAIL))
    return Likelihood(
        unit="bits" if model.is_density else "score",
        level=unit * bundle.calibration.scales[kind].score_at(bundle.manifest.rate),
        stretches={name: _spread(scores[rows], edge) for name, rows in observed.stretches.items()},
        features=_priced(model, observed) if model.is_density else [],
    )


def _spread(scores: NDArray[np.float64], edge: float | None) -> Spread:
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75]).tolist()
    tail = None if edge is None else float((scores > edge).mean())
    return Spread(rows=len(scores), mean=float(scores.mean()), quartiles=(low, middle, high), tail=tail)


def _priced(model: GenerativeModel, observed: Observed) -> list[FeatureBits]:
    found: dict[str, dict[Stretch, float]] = {}
    device = next(iter(model.state_dict().values())).device
    for name, rows in observed.stretches.items():
        x = torch.tensor(observed.x[some(rows, _ROWS), -model.layout.window :], device=device)
        for block, bits in block_bits(model, x):
            costs = found.setdefault(block.feature, {})
            costs[name] = costs.get(name, 0.0) + float(bits.median())
    return sorted((FeatureBits(feature=it, bits=bits) for it, bits in found.items()), key=_rise, reverse=True)


def _rise(feature: FeatureBits) -> float:
    """Bits that it costs more on records that were not fitted."""
    fitted = feature.bits.get("fitted", 0.0)
    return max(cost - fitted for name, cost in feature.bits.items() if name != "fitted")


def block_bits(model: GenerativeModel, x: Tensor) -> Iterator[tuple[Block, Tensor]]:
    """−log₂ p (n,) of the values that windows x (n, window, d) have in each block of the record itself, given all
    else; for several numeric columns the sum over them. Numeric columns are integrated over by the trapezoidal rule
    around the likeliest place, which is looked for from the value on. So of several narrow peaks far from one another
    only the one found counts, and the value comes out too cheap.
    """
    with torch.inference_mode():
        own = _scored(model, x)
        for block, columns in model.layout.slices():
            if block.kind == "numeric":
                mass = [_integrated(model, x, column) for column in range(columns.start, columns.stop)]
            else:
                values = torch.eye(block.width) if block.kind == "categorical" else torch.tensor([[0.0], [1.0]])
                mass = [(-_tried(model, x, columns, values.expand(len(x), -1, -1).to(x))).logsumexp(1)]
            yield block, sum((own + part for part in mass), torch.zeros_like(own)) / math.log(2.0)


def _integrated(model: GenerativeModel, x: Tensor, column: int) -> Tensor:
    """ln ∫ exp(−score) over one numeric column of the record itself, (n,)."""
    middle = x[:, -1, column, None]
    for _ in range(_LOOKS):
        places = middle + torch.from_numpy(_OFFSETS).to(x)
        nats = _tried(model, x, slice(column, column + 1), places.unsqueeze(-1))
        middle = places.gather(1, nats.argmin(1, keepdim=True))
    return (torch.from_numpy(_WEIGHTS).to(nats).log() - nats).logsumexp(1)


def _tried(model: GenerativeModel, x: Tensor, columns: slice, values: Tensor) -> Tensor:
    """Scores (n, k) of windows (n, window, d) with values (n, k, width) in these columns of the record itself."""
    trials = x.unsqueeze(1).repeat(1, values.shape[1], 1, 1)
    trials[:, :, -1, columns] = values
    return _scored(model, trials.flatten(0, 1)).view(values.shape[:2])


def _scored(model: GenerativeModel, x: Tensor) -> Tensor:
    return torch.cat([model.score(rows) for rows in torch.split(x, _AT_ONCE)]).double()

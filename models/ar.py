"""Linear autoregression: what the records before make likely, column by column, in closed form."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from models.base import Explanation, FitReport, GenerativeModel, Layout, Progress, require_compatible, seeded, silent
from models.columns import discrete_columns
from models.discrete import chosen, drawn
from models.fitting import check_rows, rehearsed, scored
from models.gaussian import factor
from models.regression import pooled_deviation, ridge

_MIN_ROWS = 16
_PENALTIES = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5)  # in rows that say every coefficient is zero
_TRUSTED = 1e2  # least of them with a start, whose coefficients then take the place of zero
_ORIGINS = (0.7, 0.8, 0.9)  # shares of the rows from which forecasts tell the penalties: one alone is a matter of luck
_LEAST_DEVIATION = 1e-6  # of a column, below which it is taken to be constant
_LEAST_INNOVATION = 0.01  # of their deviation, in those of the column: what follows exactly must not make rounding news
_LEAST_ROBUST = 0.5  # robust deviation, in plain ones: columns that mostly rest would have next to none
_NORMAL_MAD = 1.4826  # deviation of a normal distribution in median absolute deviations
_SAME = 0.01  # values of a switch no farther apart are one
_UNSEEN = 30.0  # nats of a value that no row had, beyond what any usual record comes to
_OTHER, _NONE = 2, 3  # states of a switch that is at neither of its values, and of one that is not known
_MOST_INPUTS = (
    512  # columns of the past that a forecast rests on where the settings say nothing, or those of one record
)
_TINY = 1e-12
_MOST = 60.0  # where scaled values end


class LinearAutoregression(GenerativeModel):
    """p(x_t | x_{t−w+1} … x_{t−1}), the product over the columns; `score` is −log p of the newest record in nats, a
    density of it given those before.

    Numeric column j is Gaussian around a linear forecast, x_tj = c_j + Σ_l a_jl · x_{t−l} + σ_j ε: ridge regression on
    all columns of the w − 1 records before (Hoerl and Kennard 1970; as vector autoregression: Lütkepohl 2005, section
    2.1), with a penalty for each column by its forecasts from several origins (Tashman 2000). σ_j is the geometric mean
    of the innovations' standard deviation, fitted and forecast alike, and of a robust one: heavy tails inflate the
    first and are ignored by the second, and either alone ranks incidents worse.

    What takes a few values only jumps, and has no Gaussian innovations: binary columns, one-hot blocks, and numeric
    columns with at most two values in training (switches), are Markov chains of order one with counts smoothed by ½
    (Krichevsky and Trofimov 1981). A value never seen costs `_UNSEEN` nats at
    least.

    Fails where columns of one record must fit together rather than follow from the past (their innovations are taken
    to be independent), where the past acts in ways that are not linear, and on records without order.
    """

    kind: ClassVar[str] = "ar"
    is_density: ClassVar[bool] = True
    conditional: ClassVar[bool] = True
    window: ClassVar[int] = 5
    sizes: ClassVar[tuple[str, ...]] = ()

    coefficients: Tensor
    """(p, d) with p = (window − 1) · d: of the columns before, oldest first, in deviations of the columns."""
    whitening: Tensor
    """(D, d) with D = window · d: x @ whitening + shift are the innovations in units of σ, 0 of what is no Gaussian."""
    shift: Tensor
    """(d,)"""
    sigma: Tensor
    """(d,): in the units of x."""
    constant: Tensor
    """(): nats of the Gaussians' normalisation."""
    switching: Tensor
    """(d,): true for the columns that are switches."""
    levels: Tensor
    """(2, d): the two values of a switch."""
    flips: Tensor
    """(d, 4, 3): −log p of a switch's state, first, second or neither, by the one before, the fourth being none."""
    moves: Tensor
    """(K + 1, K): −log p of each of the K one-hot columns by that of its block before, the last being none."""
    start_mean: Tensor
    """(d,): of single records."""
    start_factor: Tensor
    """(d, d): Cholesky factor of their covariance."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        d, (discrete, widths) = layout.columns, discrete_columns(Layout(layout.blocks))
        self._one_hot, self._widths = discrete[widths[0] :], widths[1:]
        hot = len(self._one_hot)
        self.register_buffer("coefficients", torch.zeros((layout.window - 1) * d, d))
        self.register_buffer("whitening", torch.zeros(layout.window * d, d))
        self.register_buffer("shift", torch.zeros(d))
        self.register_buffer("sigma", torch.zeros(d))
        self.register_buffer("constant", torch.zeros(()))
        self.register_buffer("switching", torch.zeros(d, dtype=torch.bool))
        self.register_buffer("levels", torch.zeros(2, d))
        self.register_buffer("flips", torch.zeros(d, 4, 3))
        self.register_buffer("moves", torch.zeros(hot + 1, hot))
        self.register_buffer("start_mean", torch.zeros(d))
        self.register_buffer("start_factor", torch.zeros(d, d))

    @classmethod
    def natural_window(cls, columns: int) -> int:
        """Fewer records of many columns: the regression costs the cube of the columns that it looks at."""
        return max(2, min(cls.window, 1 + _MOST_INPUTS // columns))

    def fit(
        self,
        x: Tensor,
        valid: Tensor,
        *,
        seed: int,
        start: GenerativeModel | None = None,
        progress: Progress = silent,
    ) -> FitReport:
        """With `start`, ridge regression shrinks towards its coefficients in place of zero."""
        check_rows(self.layout, x, valid, needed=_MIN_ROWS)
        before = None if start is None else require_compatible(self, start)
        rows = x if before is None else rehearsed(x, before, seed=seed)
        penalties = [it for it in _PENALTIES if before is None or it >= _TRUSTED]
        every = torch.cat([rows, valid])
        self._find_switches(every[:, -1])
        self._regress(every.double(), before, penalties)
        self._count(every)
        progress(1.0, "done")
        self.eval()
        details: dict[str, float | int | str] = {
            "rows": len(x),
            "iterations": len(penalties),
            "switches": int(self.switching.sum()),
        }
        return FitReport(float(scored(self, valid).mean()), details)

    def score(self, x: Tensor) -> Tensor:
        innovations = torch.addmm(self.shift, x.flatten(1), self.whitening)
        column = self.switching.nonzero().squeeze(1)
        score = 0.5 * innovations.square().sum(-1) + self.constant + self._flips(x, column).sum(-1)
        return score + self._moves(x).sum(-1) if self._one_hot else score

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Windows whose first record is drawn for itself, with the covariance of single records, as if nothing had
        happened before it; the others follow from those before them."""
        model, generator, window = self.precise(), seeded(seed), self.layout.window
        noise = torch.randn(n, window, self.layout.columns, generator=generator, dtype=torch.float64)
        first = model.start_mean + noise[:, 0] @ model.start_factor.T
        x = first.unsqueeze(1).repeat(1, window, 1)
        for position in range(window):
            past = x[:, [max(0, position - lag) for lag in range(window - 1, -1, -1)]]
            if position:
                innovations = torch.addmm(model.shift, past.flatten(1), model.whitening)
                x[:, position] += model.sigma * (noise[:, position] - innovations)
            x[:, position] = model._drawn(x[:, position], past if position else None, generator)
        return x.float()

    def _find_switches(self, records: Tensor) -> None:
        low, high = records.amin(0), records.amax(0)
        self.levels = torch.stack([low, high])
        self.switching = ((records == low) | (records == high)).all(0)
        for block, columns in self.layout.slices():
            if block.kind != "numeric":
                self.switching[columns] = block.kind == "binary"
                self.levels[0, columns], self.levels[1, columns] = 0.0, 1.0

    def _regress(self, x: Tensor, before: LinearAutoregression | None, penalties: list[float]) -> None:
        """Coefficients, innovations and all that scoring makes of them, of rows in float64 in order of time."""
        window, d = self.layout.window, self.layout.columns
        mean, deviation = x[:, -1].mean(0), x[:, -1].std(0, correction=0)
        deviation = torch.where(deviation > _LEAST_DEVIATION, deviation, 1.0)
        gaussian = ~self.switching
        gaussian[self._one_hot] = False
        known = (x - mean) / deviation
        prior = None if before is None else before.coefficients.to(known)
        forecast = torch.stack([_forecast_errors(known, prior, penalties, share) for share in _ORIGINS])
        least, best = forecast.mean(0).min(0)
        past, newest = _lagged(known)
        coefficients, intercept = ridge(past, newest, penalties, prior).chosen(best)
        sigma = _deviation(newest - intercept - past @ coefficients, least)
        self.coefficients = (coefficients * gaussian).float().contiguous()
        through = torch.cat([-coefficients.view(window - 1, d, d), torch.eye(d).to(coefficients).unsqueeze(0)])
        whitening = through / deviation.view(1, d, 1) / sigma * gaussian
        self.whitening = whitening.view(window * d, d).float().contiguous()
        self.shift = (-(intercept / sigma * gaussian) - (mean.repeat(window) @ self.whitening.double())).float()
        self.sigma = (sigma * deviation * gaussian).float()
        self.constant = ((sigma * deviation).log() + 0.5 * math.log(2 * math.pi))[gaussian].sum().float()
        self.start_mean, self.start_factor = mean.float(), factor(x[:, -1]).float()

    def _count(self, x: Tensor) -> None:
        """The chains, from the last two records of each row."""
        column = torch.arange(self.layout.columns, device=x.device)
        state, before = self._state(x[:, -1], column), self._before(x, column)
        counts = torch.full((self.layout.columns, 4, 3), 0.5, device=x.device)
        for past in (before, torch.full_like(before, _NONE))[self.layout.window == 1 :]:
            counts.index_put_((column.expand_as(state), past, state), counts.new_ones(()), accumulate=True)
        unseen = (counts[:, _NONE:] <= 0.5).expand_as(counts).clone()
        unseen[:, _OTHER] = False  # a switch that is at neither value may stay there
        self.flips = _surprise(counts, unseen).float()
        if not self._one_hot:
            return
        hot, past = x[:, -1, self._one_hot], x[:, max(-2, -self.layout.window), self._one_hot]
        often = torch.cat([past.T @ hot, hot.sum(0, keepdim=True)])
        blocks = torch.split(often, self._widths, dim=1)
        self.moves = torch.cat([_surprise(block + 0.5, block[-1] <= 0) for block in blocks], dim=1).float()
        block = torch.arange(len(self._widths)).repeat_interleave(torch.tensor(self._widths)).to(x.device)
        self.moves[:-1][block.unsqueeze(1) != block] = 0.0  # another block's past is none of its business

    def _state(self, records: Tensor, column: Tensor) -> Tensor:
        """(n, k): where records (n, k) of these columns are as switches."""
        low, high = self.levels[:, column]
        state = torch.where((records - high).abs() <= _SAME, 1, _OTHER)
        return torch.where((records - low).abs() <= _SAME, 0, state)

    def _flips(self, x: Tensor, column: Tensor) -> Tensor:
        """(n, k): nats of the columns (k,), which are switches."""
        return self.flips[column, self._before(x, column), self._state(x[:, -1, column], column)]

    def _before(self, x: Tensor, column: Tensor) -> Tensor:
        """(n, k): the states of switches in the record before."""
        if self.layout.window > 1:
            return self._state(x[:, -2, column], column)
        return torch.full((len(x), len(column)), _NONE, device=x.device)

    def _expected_moves(self, x: Tensor) -> Tensor:
        """(n, K): nats that each one-hot column would cost."""
        if self.layout.window > 1:
            return x[:, -2, self._one_hot] @ self.moves[:-1]
        return self.moves[-1].expand(len(x), -1)

    def _moves(self, x: Tensor) -> Tensor:
        """(n, K): nats of the one-hot columns."""
        return self._expected_moves(x) * x[:, -1, self._one_hot]

    def _explained(self, x: Tensor) -> Explanation:
        """Columns are independent given the past: a column's share is what it costs more than the most likely value
        there, which is what was expected."""
        innovations = torch.addmm(self.shift, x.flatten(1), self.whitening)
        expected, excess = x[:, -1] - innovations * self.sigma, 0.5 * innovations.square() + _TINY
        column = self.switching.nonzero().squeeze(1)
        if len(column):
            costs = self.flips[column, self._before(x, column)]
            expected[:, column] = self.levels[costs[..., :_OTHER].argmin(-1), column]
            excess[:, column] += self._flips(x, column) - costs.amin(-1)
        start = 0
        for width in self._widths:
            own = self._one_hot[start : start + width]
            costs = self._expected_moves(x)[:, start : start + width]
            expected[:, own] = (-costs).softmax(-1)
            more = (x[:, -1, own] * costs).sum(-1) - costs.amin(-1)
            change = (x[:, -1, own] - expected[:, own]).abs()
            excess[:, own] += more.clamp_min(0.0).unsqueeze(1) * change / change.sum(-1, keepdim=True).clamp_min(_TINY)
            start += width
        return Explanation(excess / excess.sum(1, keepdim=True), expected.clamp(-_MOST, _MOST))

    def _drawn(self, records: Tensor, past: Tensor | None, generator: torch.Generator) -> Tensor:
        """Records (n, d) with values of switches and categories drawn, given the windows that end with them."""
        records = records.clamp(-_MOST, _MOST)
        column = self.switching.nonzero().squeeze(1)
        if len(column):
            before = self._state(past[:, -2, column], column) if past is not None else _NONE
            odds = (-self.flips[column, before][..., :_OTHER]).softmax(-1).expand(len(records), -1, -1)
            records[:, column] = self.levels[chosen(odds, generator), column]
        if not self._one_hot:
            return records
        none = self.moves[-1].expand(len(records), -1)
        costs = none if past is None else past[:, -2, self._one_hot] @ self.moves[:-1]
        odds = torch.cat([(-block).softmax(-1) for block in torch.split(costs, self._widths, -1)], dim=-1)
        records[:, self._one_hot] = drawn(odds, [0, *self._widths], generator)
        return records


def _lagged(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows (n, window, d) the records before the newest (n, p), and the newest (n, d)."""
    return x[:, :-1].flatten(1), x[:, -1]


def _forecast_errors(x: Tensor, prior: Tensor | None, penalties: list[float], share: float) -> Tensor:
    """Mean squared errors (penalties, d) on the tenth of the rows after that share of them, fitted on those before."""
    begin, end = int(share * len(x)), int((share + 0.1) * len(x)) + 1
    return ridge(*_lagged(x[:begin]), penalties, prior).errors(*_lagged(x[begin:end]))


def _deviation(innovations: Tensor, forecast: Tensor) -> Tensor:
    """σ (d,) out of innovations (n, d) and the mean squares (d,) of those that were forecast."""
    plain = pooled_deviation(innovations, forecast).clamp_min(_LEAST_INNOVATION)
    robust = _NORMAL_MAD * (innovations - innovations.median(0).values).abs().median(0).values
    return (plain * torch.maximum(robust, _LEAST_ROBUST * plain)).sqrt()


def _surprise(counts: Tensor, unseen: Tensor) -> Tensor:
    """−log of shares along the last dimension; what is `unseen` costs `_UNSEEN` at least."""
    return (-(counts / counts.sum(-1, keepdim=True)).log()).clamp_min(0.0).maximum(torch.where(unseen, _UNSEEN, 0.0))

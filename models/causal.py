"""Causal models: p(x_t | x_<t), a density of the next record given the ones before it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.base import (
    Explanation,
    FitReport,
    GenerativeModel,
    Layout,
    Progress,
    require_compatible,
    seeded,
    silent,
)
from models.causal_heads import HEADS, LEAST_DEVIATION, Answer, Output
from models.columns import discrete_columns, units
from models.discrete import Discrete
from models.fitting import check_rows, initialise, perceptron, rehearsed, scored, train
from models.gaussian import factor
from models.ranks import Noise
from models.regression import pooled_deviation, ridge

_MIN_ROWS = 32  # fewer say nothing of their own scatter
_LAGS = 4  # records that the linear part sees: on servers no worse than 16, and a quarter of the weights
_PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)  # of ridge regression: from none to speak of to none but the level
_REACH = 10.0  # values beyond it look the same to the network
_THINNED = 4  # one of so many windows of a batch is trained on: the positions of a window make up for the others
_MEASURED = 10_000  # rows that the linear part and deviations are taken from, at most: more than it has weights
_TINY = 1e-12


class _Said(NamedTuple):
    """What a model says of positions (n, p): the linear part (n, p, numeric) and the raw outputs of the heads."""

    linear: Tensor
    numeric: Tensor
    discrete: Tensor


class CausalModel(GenerativeModel):
    """−log p(x_t | x_<t) of the newest record given those before it in the window, in nats.

    Columns of one record are independent given the past. Numeric ones are x_t = A (x_{t-1}, ..., x_{t-4}) + b + s z_t:
    A and b by ridge regression, s the deviation of what that leaves, z_t the innovation, whose density
    (`models.causal_heads`) the network shapes by the records before; so training starts from a linear autoregression.
    Binary columns are Bernoulli, one-hot blocks categorical, their logits moved by the network.

    Given the past, it is blind to columns that stopped going together, and with a window of one record to all but
    their own frequencies. A disturbance that stays becomes the past, and costs at its ends only: smooth the score.
    """

    is_density: ClassVar[bool] = True
    by_gradient: ClassVar[bool] = True
    conditional: ClassVar[bool] = True
    window: ClassVar[int] = 16

    order: Tensor
    """(d,): columns of x with the numeric first, then the binary, then the one-hot ones."""
    before: Tensor
    """(d,): the mean record, which stands before the first."""
    skip: Tensor
    """(d · lags, numeric): A."""
    level: Tensor
    """(numeric,): b."""
    deviation: Tensor
    """(numeric,): s."""
    start_factor: Tensor
    """(numeric, numeric): Cholesky factor of the covariance of single records."""

    def __init__(self, layout: Layout, *, hidden: int, output: Output, epochs: int, **sizes: int) -> None:
        """`hidden` is the width of what `_encode` gives."""
        super().__init__(layout, **sizes, output=output, epochs=epochs)
        discrete, widths = discrete_columns(Layout(layout.blocks))
        numeric = [column for column in range(layout.columns) if column not in discrete]
        self._numeric, self._lags = len(numeric), min(_LAGS, layout.window - 1)
        self.innovation = HEADS[output](len(numeric))
        self.discrete = Discrete(widths)
        self.head = perceptron([hidden, self.innovation.outputs + len(discrete)])
        self.register_buffer("order", torch.tensor(numeric + discrete), persistent=False)
        self.register_buffer("before", torch.zeros(layout.columns))
        self.register_buffer("skip", torch.zeros(layout.columns * self._lags, len(numeric)))
        self.register_buffer("level", torch.zeros(len(numeric)))
        self.register_buffer("deviation", torch.ones(len(numeric)))
        self.register_buffer("start_factor", torch.zeros(len(numeric), len(numeric)))

    @abstractmethod
    def _encode(self, history: Tensor, last: bool) -> Tensor:
        """(n, p, d) -> (n, p, hidden): what the network makes of the records up to each position; with `last`, of the
        last position alone, (n, 1, hidden)."""

    @abstractmethod
    def _innermost(self) -> nn.Module:
        """The layers that a fine-tuning moves last."""

    def fit(
        self,
        x: Tensor,
        valid: Tensor,
        *,
        seed: int,
        start: GenerativeModel | None = None,
        progress: Progress = silent,
    ) -> FitReport:
        """With `start`, its network goes on from there: first the layers next to the data, then all; what is measured
        or regressed comes from the new rows."""
        check_rows(self.layout, x, valid, needed=_MIN_ROWS)
        generator = seeded(seed)
        if start is None:
            self._initialise(generator)
            outermost = []
        else:
            x = rehearsed(x, require_compatible(self, start), seed=seed)
            self.load_state_dict(start.state_dict())
            inner = set(self._innermost().parameters())
            outermost = [weight for weight in self.parameters() if weight not in inner]
        some, later = _few(x, generator), _few(valid, generator)
        self._count(x[:, -1])
        self._regress(some, later)
        epochs = self.arguments["epochs"]
        steps = train(
            self.train(), self._loss, x, valid, epochs=epochs, seed=seed, outermost=outermost, progress=progress
        )
        self.eval()
        with torch.no_grad():
            self.innovation.settle(self._answer(some), self._answer(later), LEAST_DEVIATION / self.deviation)
        return FitReport(float(scored(self, valid).mean()), {"steps": steps})

    def score(self, x: Tensor) -> Tensor:
        return self._costs(x[:, -1:], self._say(x, last=True)).sum(-1).squeeze(1)

    def surprises(self, x: Tensor) -> Tensor:
        """(n, p, d) -> (n, p): −log p of each record given those before it, p being at most `layout.window`. Where
        fewer than four are before it, the mean record stands in for them, as it did for no training row."""
        return self._costs(x, self._say(x, last=False)).sum(-1)

    def embed(self, x: Tensor) -> Tensor:
        return self._encode(x.clamp(-_REACH, _REACH), last=True).squeeze(1)

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Record by record, the first drawn for itself; those that have fewer records before them than the linear part
        looks back to are left out. Training rows to begin from would have to travel with the model."""
        model, generator, window = copy.deepcopy(self).cpu(), seeded(seed), self.layout.window
        with torch.no_grad():
            x = model._starts(n, generator)[:, : window - 1]
            while x.shape[1] < self._lags + window:
                seen = x[:, max(0, x.shape[1] + 1 - window) :]
                said = model._say(torch.cat([seen, model.before.expand(n, 1, -1)], dim=1), last=True)
                numeric = said.linear + model.deviation * model.innovation.draw(said.numeric, generator)
                discrete = model.discrete.draw(said.discrete, generator)
                x = torch.cat([x, model._record(numeric, discrete)], dim=1)
        return x[:, -window:]

    def _starts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 1, d): records as if nothing had come before: numeric columns by the Gaussian of single records, discrete
        ones by their frequencies."""
        noise = torch.randn(n, 1, self._numeric, generator=generator)
        raw = self.discrete.prior.new_zeros(n, 1, len(self.discrete.prior))
        numeric = self._values(self.before)[0] + noise @ self.start_factor.T
        return self._record(numeric, self.discrete.draw(raw, generator))

    def _explained(self, x: Tensor) -> Explanation:
        """A column's share is what it costs above the likeliest value in its place; a one-hot block's is spread
        over the hot column and the likeliest."""
        said, unit = self._say(x, last=True), units(self.layout).to(x)
        together = unit.T @ unit
        numeric = said.linear + self.deviation * self.innovation.likeliest(said.numeric)
        likeliest = self._record(numeric, self.discrete.likeliest(said.discrete))
        excess = torch.zeros_like(likeliest)
        excess[..., self.order] = self._costs(x[:, -1:], said) - self._costs(likeliest, said)
        change = (x[:, -1:] - likeliest).abs() + _TINY
        share = (change / (change @ together) * (excess @ together).clamp_min(0.0) + _TINY).squeeze(1)
        expected = self._record(numeric, self.discrete.probabilities(said.discrete))
        return Explanation(share / share.sum(1, keepdim=True), expected.squeeze(1))

    def _initialise(self, generator: torch.Generator) -> None:
        """The heads start from the linear part and the frequencies alone."""
        initialise(self, generator)
        weight, bias = self.head.parameters()
        with torch.no_grad():
            weight.zero_()
            bias[: self.innovation.outputs] = self.innovation.start()

    def _count(self, records: Tensor) -> None:
        """What is taken from single records (n, d)."""
        numeric, discrete = self._values(records)
        self.before.copy_(records.mean(0))
        self.start_factor.copy_(factor(numeric.double()))
        self.discrete.count(discrete)

    def _regress(self, x: Tensor, valid: Tensor) -> None:
        """The linear part, each column with the penalty by which held-back rows are missed least, and the deviation of
        what it leaves."""
        rows, later = (
            (self._lagged(part, last=True)[:, 0].double(), self._values(part[:, -1])[0].double()) for part in (x, valid)
        )
        found = ridge(*rows, _PENALTIES)
        forecast, best = found.errors(*later).min(0)
        weights, level = found.chosen(best)
        inputs, targets = rows
        self.skip.copy_(weights)
        self.level.copy_(level)
        self.deviation.copy_(pooled_deviation(targets - inputs @ weights - level, forecast).clamp_min(LEAST_DEVIATION))

    def _loss(self, x: Tensor, noise: Noise, fraction: float) -> Tensor:
        """Mean surprise a column of the positions whose lags are all there."""
        return self.surprises(x[::_THINNED])[:, self._lags :].mean() / self.layout.columns

    def _say(self, x: Tensor, last: bool) -> _Said:
        """Of each position of x (n, p, d), or of the last alone; of no record does it look at the record itself."""
        history = torch.cat([self.before.expand(len(x), 1, -1), x[:, :-1]], dim=1)
        hidden = self._encode(history.clamp(-_REACH, _REACH), last)
        numeric, discrete = torch.split(self.head(hidden), [self.innovation.outputs, len(self.discrete.prior)], -1)
        return _Said(self._lagged(x, last) @ self.skip + self.level, numeric, discrete)

    def _lagged(self, x: Tensor, last: bool) -> Tensor:
        """(n, p, d · lags): the records before each position of x (n, p, d), or before the last alone, (n, 1, ...)."""
        past = torch.cat([self.before.expand(len(x), self._lags, -1), x[:, :-1]], dim=1)
        return past[:, (x.shape[1] - 1) * last :].unfold(1, self._lags, 1).flatten(2)

    def _costs(self, records: Tensor, said: _Said) -> Tensor:
        """(n, p, d) in nats, its columns in `order`."""
        numeric, discrete = self._values(records)
        innovation = self.innovation.costs(said.numeric, (numeric - said.linear) / self.deviation)
        return torch.cat([innovation + self.deviation.log(), self.discrete.costs(said.discrete, discrete)], dim=-1)

    def _answer(self, x: Tensor) -> Answer:
        """Raw outputs for the newest records and the innovations that came, (n, ...) each."""
        said = self._say(x, last=True)
        return said.numeric[:, 0], ((self._values(x[:, -1:])[0] - said.linear) / self.deviation)[:, 0]

    def _values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Numeric and discrete columns of x (..., d)."""
        ordered = x[..., self.order]
        return ordered[..., : self._numeric], ordered[..., self._numeric :]

    def _record(self, numeric: Tensor, discrete: Tensor) -> Tensor:
        """`_values` back in their places."""
        return torch.cat([numeric, discrete], dim=-1)[..., self.order.argsort()]


def _few(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)[:_MEASURED].to(rows.device)]

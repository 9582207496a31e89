"""What models with a code have in common: a likelihood of the window given its code, for each kind of column."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from models.base import (
    ORDINARY,
    FitReport,
    GenerativeModel,
    Layout,
    Progress,
    require_compatible,
    seeded,
    silent,
)
from models.columns import discrete_columns
from models.discrete import Discrete
from models.fitting import check_rows, initialise, perceptron, rehearsed, scored, train
from models.gaussian import excess, principal
from models.ranks import Noise
from models.regression import ridge
from models.replacing import Replacing

LOG_VARIANCE = (-5.0, 3.0)
"""Bounds of the variances of whitened columns given their code, learned or measured: what follows exactly from a code
must not make rounding unlikely, and no column be given up."""

_MIN_ROWS = 32
_LEAST_VARIANCE = 1e-4  # mean variance of numeric columns is taken to be no less
_REACH = 10.0  # whitened values beyond it look the same to the encoder
_TYPICAL = 3.0  # deviations of codes, of about unit variance, within which explanations look for what is normal
_IMPUTATIONS = 4  # of what is replaced; one mends 81 %, four 93 % of records with three wrong fields
_REGRESSED = 10_000  # rows that the decoder's last layer is regressed on, at most
_REGRESSION_RIDGE = 10.0  # rows that say every weight is zero
_TINY = 1e-12


class Coding(Replacing):
    """Encodes the flattened window as z (n, latent), and knows p(z) and p(x | z).

    Numeric columns are Gaussian along their principal axes, with one learned variance an axis; binary columns are
    Bernoulli, one-hot blocks categorical (`models.discrete`). Whitening is what makes directions of little variance
    count as much as those of much: on streams it matters more than the size of the networks.
    """

    is_density: ClassVar[bool] = False
    by_gradient: ClassVar[bool] = True
    window: ClassVar[int] = 4
    imputations: ClassVar[int] = _IMPUTATIONS
    """How often explanations encode anew what they expect in place of what is replaced."""
    sizes: ClassVar[tuple[str, ...]] = ("latent", "hidden")

    discrete: Tensor
    """(discrete,): indices in D of the binary, then the one-hot columns, with D = window · columns."""
    whitening: Tensor
    """(D, numeric): whitened = x @ whitening + shift; rows of other columns are zero."""
    shift: Tensor
    """(numeric,)"""
    colouring: Tensor
    """(numeric, D): takes whitened − shift back."""
    log_volume: Tensor
    """(): what whitening takes off −log p(x)."""

    def __init__(self, layout: Layout, *, encoded: int, latent: int, hidden: list[int], **arguments: Any) -> None:
        """`encoded` is the number of outputs of the encoder."""
        super().__init__(layout, latent=latent, hidden=hidden, **arguments)
        columns, widths = discrete_columns(layout)
        width = layout.window * layout.columns
        numeric = width - len(columns)
        self.encoder = perceptron([width, *hidden, encoded])
        self.decoder = perceptron([latent, *reversed(hidden), width])
        self.log_variance = nn.Parameter(torch.zeros(numeric))
        self.heads = Discrete(widths)
        self.register_buffer("discrete", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.register_buffer("whitening", torch.zeros(width, numeric))
        self.register_buffer("shift", torch.zeros(numeric))
        self.register_buffer("colouring", torch.zeros(numeric, width))
        self.register_buffer("log_volume", torch.zeros(()))
        self.register_buffer("ordinary", torch.zeros(()))

    def fit(
        self,
        x: Tensor,
        valid: Tensor,
        *,
        seed: int,
        start: GenerativeModel | None = None,
        progress: Progress = silent,
    ) -> FitReport:
        """With `start`, its weights go on: first those of the layers next to the data, then all."""
        check_rows(self.layout, x, valid, needed=_MIN_ROWS)
        generator = seeded(seed)
        if start is None:
            self._initialise(generator)
            self._measure(x)
            outermost = []
        else:
            x = rehearsed(x, require_compatible(self, start), seed=seed)
            self.load_state_dict(start.state_dict())
            before = copy.deepcopy(self)
            self._measure(x)
            outermost = [*self._carry_encoder(before), *self._regress_decoder(x, generator)]
        epochs = self.arguments["epochs"]
        steps = train(
            self.train(), self._loss, x, valid, epochs=epochs, seed=seed, outermost=outermost, progress=progress
        )
        self._settle(x, seed)
        self.eval()
        self.ordinary = scored(self, x).quantile(ORDINARY)
        return FitReport(float(scored(self, valid).mean()), {"steps": steps, "latent": self.arguments["latent"]})

    def embed(self, x: Tensor) -> Tensor:
        return self._code(*self._parts(x))

    def sample(self, n: int, *, seed: int) -> Tensor:
        model, generator = copy.deepcopy(self).cpu(), seeded(seed)
        with torch.no_grad():
            centre, raw = model._decode(model._prior_codes(n, generator))
            noise = torch.randn(centre.shape, generator=generator)
            x = (centre + noise * (0.5 * model._bounded_log_variance()).exp() - model.shift) @ model.colouring
            x[:, model.discrete] = model.heads.draw(raw, generator)
        return x.view(n, self.layout.window, self.layout.columns)

    @abstractmethod
    def _code(self, numeric: Tensor, discrete: Tensor) -> Tensor:
        """(n, latent): the z that rows are encoded to."""

    @abstractmethod
    def _prior_codes(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, latent): draws from p(z), on the CPU."""

    @abstractmethod
    def _loss(self, x: Tensor, noise: Noise, fraction: float) -> Tensor:
        """What is minimised: a `models.fitting.Loss`, in nats a column."""

    def _drawn(self, numeric: Tensor, discrete: Tensor, noise: Noise) -> Tensor:
        """(n, latent): a z that the decoder meets in training."""
        return self._code(numeric, discrete)

    def _initialise(self, generator: torch.Generator) -> None:
        initialise(self, generator)

    def _settle(self, x: Tensor, seed: int) -> None:
        """What is known of codes only when training is done."""

    def _measure(self, x: Tensor) -> None:
        """What is taken from the rows without training."""
        rows = x.flatten(1).double()
        self._whiten(rows)
        self.heads.count(rows[:, self.discrete])

    def _carry_encoder(self, before: Self) -> list[nn.Parameter]:
        """The encoder's first layer, brought from what `before` whitened to what this one does: z of a row stays."""
        weight, bias = list(self.encoder.parameters())[:2]
        numeric, back = len(self.shift), self.colouring @ before.whitening
        with torch.no_grad():
            bias.add_(weight[:, :numeric] @ (before.shift - self.shift @ back))
            bias.add_(weight[:, numeric:] @ (self.heads.frequency - before.heads.frequency))
            weight[:, :numeric] = weight[:, :numeric] @ back.T
        return [weight, bias]

    def _regress_decoder(self, x: Tensor, generator: torch.Generator) -> list[nn.Parameter]:
        """The decoder's last layer and the log-variances, as they are best given z of the rows: of numeric columns that
        is ridge regression on what the layers before make of z. Without it, rows that correlate in another way are so
        unlikely at first that few steps do not mend it. Logits of discrete columns go on from the new frequencies."""
        weight, bias = list(self.decoder.parameters())[-2:]
        with torch.no_grad():
            numeric, discrete = self._parts(x[torch.randperm(len(x), generator=generator)[:_REGRESSED].to(x.device)])
            inner = self.decoder[:-1](self._drawn(numeric, discrete, Noise(generator))).double()
            found = ridge(inner, numeric.double(), [_REGRESSION_RIDGE])
            weight[: len(self.shift)], bias[: len(self.shift)] = found.weights[0].T, found.levels[0]
            variance = found.errors(inner, numeric.double())[0]
            self.log_variance.copy_(variance.clamp_min(_TINY).log().clamp(*LOG_VARIANCE))
        return [weight, bias, self.log_variance]

    def _whiten(self, rows: Tensor) -> None:
        """Principal axes of the numeric columns, each scaled by the root of its variance plus a ridge. Log-variances
        start as those of the whitened columns, which are right for a decoder that knows nothing of z."""
        numeric = torch.ones(rows.shape[1], dtype=torch.bool)
        numeric[self.discrete] = False
        axes = principal(rows[:, numeric], least=_LEAST_VARIANCE)
        whitening = axes.directions / axes.deviations
        self.whitening[numeric] = whitening.float()
        self.colouring[:, numeric] = (axes.directions * axes.deviations).T.float()
        self.shift.copy_(-axes.mean @ whitening)
        self.log_volume.copy_(axes.deviations.log().sum())
        with torch.no_grad():
            left = (axes.variances / axes.deviations.square()).clamp_min(_TINY)
            self.log_variance.copy_(left.log().clamp(*LOG_VARIANCE))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened numeric (n, numeric) and discrete columns (n, discrete)."""
        rows = x.flatten(1)
        return torch.addmm(self.shift, rows, self.whitening), rows[:, self.discrete]

    def _encoded(self, numeric: Tensor, discrete: Tensor) -> Tensor:
        """(n, encoded): what the encoder makes of rows."""
        known = torch.cat([numeric.clamp(-_REACH, _REACH), discrete - self.heads.frequency], dim=1)
        encoded: Tensor = self.encoder(known)
        return encoded

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Centres of the whitened numeric columns and what the heads of the discrete ones are given."""
        centre, raw = torch.split(self.decoder(z), [len(self.shift), len(self.discrete)], dim=-1)
        return centre, raw

    def _bounded_log_variance(self) -> Tensor:
        return self.log_variance.clamp(*LOG_VARIANCE)

    def _surprise(self, numeric: Tensor, discrete: Tensor, z: Tensor) -> Tensor:
        """−log p(x | z) in nats, (..., n) for z (..., n, latent)."""
        centre, raw = self._decode(z)
        log_variance = self._bounded_log_variance()
        squares = (numeric - centre).square() @ (-log_variance).exp()
        constant = 0.5 * (log_variance + math.log(2 * math.pi)).sum() + self.log_volume
        return 0.5 * squares + constant + self.heads.costs(raw, discrete).sum(-1)

    def _expected(self, x: Tensor, replaced: Tensor) -> Tensor:
        """By encoding anew what was expected, so that z forgets what was replaced (imputation as in Rezende et al.,
        2014)."""
        current = x
        for _ in range(self.imputations):
            expected = self._expected_at(current, replaced)
            current = x.clone()
            current[:, -1] = torch.where(replaced, expected, x[:, -1])
        return expected

    def _expected_at(self, x: Tensor, replaced: Tensor) -> Tensor:
        """(n, d): conditional expectations at the z that x is encoded to: of the replaced columns jointly given the
        others, of each other column given all the rest."""
        numeric, discrete = self._parts(x)
        centre, raw = self._decode(self._code(numeric, discrete).clamp(-_TYPICAL, _TYPICAL))
        own = self.whitening[-self.layout.columns :] * (-0.5 * self._bounded_log_variance()).exp()  # (d, numeric)
        gradient = ((numeric - centre) * (-0.5 * self._bounded_log_variance()).exp()) @ own.T
        rows = x.flatten(1).clone()
        rows[:, -self.layout.columns :] -= excess(gradient, own @ own.T, replaced)
        rows[:, self.discrete] = self.heads.probabilities(raw)
        return rows[:, -self.layout.columns :]

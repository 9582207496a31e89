"""Variational autoencoder (Kingma and Welling, 2014) with a likelihood for each kind of column."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from models.fitting import check_rows, initialise, perceptron, rehearsed, scored, train
from models.replacing import MAX_REPLACED, Replacing

_MIN_ROWS = 32
_WARM_UP = 0.3  # share of the training in which the weight of the KL term rises from 0 to 1
_NOISE = 4  # draws of the importance-weighted estimate, in antithetic pairs
_RIDGE = 0.01  # of the mean variance, added to the variances along principal axes
_LEAST_VARIANCE = 1e-4  # mean variance of numeric columns is taken to be no less
_REACH = 10.0  # whitened values beyond it look the same to the encoder
_UNSEEN = 50.0  # nats that a value costs that no training row had
_LOG_VARIANCE = (-5.0, 3.0)  # of whitened columns
_POSTERIOR_LOG_VARIANCE = (-10.0, 2.0)
_TYPICAL = 3.0  # deviations of the prior within which explanations look for what is normal
_REGRESSED = 10_000  # rows that the decoder's last layer is regressed on, at most
_REGRESSION_RIDGE = 10.0  # rows that say every weight is zero
_TINY = 1e-12


class VariationalAutoencoder(Replacing):
    """p(x) = ∫ p(x | z) p(z) dz over a latent z of standard normal prior, for the flattened window.

    p(x | z): numeric columns are Gaussian along their principal axes, with one learned variance an axis; binary
    columns are Bernoulli, one-hot blocks categorical. `score` is in nats: by `nll` the importance-weighted estimate of
    −log p(x) of Burda et al. (2016), an upper bound in the mean over its noise, which is fixed and the same for every
    record; by `reconstruction` −log p(x | z) at the posterior's mean.
    """

    kind: ClassVar[str] = "vae"
    is_density: ClassVar[bool] = False
    window: ClassVar[int] = 4
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
    frequency: Tensor
    """(discrete,): smoothed frequency of each binary or one-hot column."""
    prior: Tensor
    """(discrete,): what the decoder adds to; the log-odds, or in a one-hot block the logarithm, of the frequency."""
    noise: Tensor
    """(draws, 1, latent)"""

    def __init__(
        self,
        layout: Layout,
        *,
        latent: int,
        hidden: list[int],
        score: Literal["nll", "reconstruction"],
        epochs: int,
    ) -> None:
        super().__init__(layout, latent=latent, hidden=hidden, score=score, epochs=epochs)
        columns, self._widths = discrete_columns(layout)
        width, discrete = layout.window * layout.columns, len(columns)
        numeric = width - discrete
        self.encoder = perceptron([width, *hidden, 2 * latent])
        self.decoder = perceptron([latent, *reversed(hidden), width])
        self.log_variance = nn.Parameter(torch.zeros(numeric))
        self.register_buffer("discrete", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.register_buffer("whitening", torch.zeros(width, numeric))
        self.register_buffer("shift", torch.zeros(numeric))
        self.register_buffer("colouring", torch.zeros(numeric, width))
        self.register_buffer("log_volume", torch.zeros(()))
        self.register_buffer("frequency", torch.zeros(discrete))
        self.register_buffer("prior", torch.zeros(discrete))
        self.register_buffer("noise", torch.zeros(_NOISE, 1, latent))
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
        self.eval()
        self.ordinary = scored(self, x).quantile(ORDINARY)
        return FitReport(float(scored(self, valid).mean()), {"steps": steps})

    def score(self, x: Tensor) -> Tensor:
        numeric, discrete = self._parts(x)
        mean, log_variance = self._encode(numeric, discrete)
        if self.arguments["score"] == "reconstruction":
            return self._surprise(numeric, discrete, mean)
        z = mean + (0.5 * log_variance).exp() * self.noise  # (draws, n, latent)
        log_ratio = 0.5 * (self.noise.square() - z.square() + log_variance).sum(-1)  # log p(z) - log q(z | x)
        return math.log(len(z)) - (log_ratio - self._surprise(numeric, discrete, z)).logsumexp(0)

    def embed(self, x: Tensor) -> Tensor:
        return self._encode(*self._parts(x))[0]

    def sample(self, n: int, *, seed: int) -> Tensor:
        model, generator = copy.deepcopy(self).cpu(), seeded(seed)
        with torch.no_grad():
            centre, logits = model._decode(torch.randn(n, self.arguments["latent"], generator=generator))
            noise = torch.randn(centre.shape, generator=generator)
            x = (centre + noise * (0.5 * model._bounded_log_variance()).exp() - model.shift) @ model.colouring
            binary, *one_hot = torch.split(model._probabilities(logits), self._widths, -1)
            x[:, model.discrete] = torch.cat(
                [
                    torch.bernoulli(binary, generator=generator),
                    *(F.one_hot(p.multinomial(1, generator=generator).squeeze(1), p.shape[1]).float() for p in one_hot),
                ],
                dim=1,
            )
        return x.view(n, self.layout.window, self.layout.columns)

    def _initialise(self, generator: torch.Generator) -> None:
        initialise(self, generator)
        half = torch.randn(_NOISE // 2, 1, self.arguments["latent"], generator=generator)
        self.noise.copy_(torch.cat([half, -half]))

    def _measure(self, x: Tensor) -> None:
        """What is taken from the rows without training."""
        rows = x.flatten(1).double()
        self._whiten(rows)
        self._count(rows[:, self.discrete])

    def _carry_encoder(self, before: VariationalAutoencoder) -> list[nn.Parameter]:
        """The encoder's first layer, brought from what `before` whitened to what this one does: z of a row stays."""
        weight, bias = list(self.encoder.parameters())[:2]
        numeric, back = len(self.shift), self.colouring @ before.whitening
        with torch.no_grad():
            bias.add_(weight[:, :numeric] @ (before.shift - self.shift @ back))
            bias.add_(weight[:, numeric:] @ (self.frequency - before.frequency))
            weight[:, :numeric] = weight[:, :numeric] @ back.T
        return [weight, bias]

    def _regress_decoder(self, x: Tensor, generator: torch.Generator) -> list[nn.Parameter]:
        """The decoder's last layer and the log-variances, as they are best given z of the rows: of numeric columns that
        is ridge regression on what the layers before make of z. Without it, rows that correlate in another way are so
        unlikely at first that few steps do not mend it. Logits of discrete columns go on from the new frequencies."""
        weight, bias = list(self.decoder.parameters())[-2:]
        with torch.no_grad():
            numeric, discrete = self._parts(x[torch.randperm(len(x), generator=generator)[:_REGRESSED].to(x.device)])
            mean, log_variance = self._encode(numeric, discrete)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            inner = self.decoder[:-1](mean + (0.5 * log_variance).exp() * noise)
            known = F.pad(inner, (0, 1), value=1.0).double()
            penalty = _REGRESSION_RIDGE * torch.eye(known.shape[1], dtype=known.dtype, device=known.device)
            found = torch.linalg.solve(known.T @ known + penalty, known.T @ numeric.double())
            weight[: len(self.shift)], bias[: len(self.shift)] = found[:-1].T.float(), found[-1].float()
            variance = (numeric - known @ found).square().mean(0)
            self.log_variance.copy_(variance.clamp_min(_TINY).log().clamp(*_LOG_VARIANCE))
        return [weight, bias, self.log_variance]

    def _whiten(self, rows: Tensor) -> None:
        """Principal axes of the numeric columns, each scaled by the root of its variance plus a ridge. Log-variances
        start as those of the whitened columns, which are right for a decoder that knows nothing of z."""
        numeric = torch.ones(rows.shape[1], dtype=torch.bool)
        numeric[self.discrete] = False
        own = rows[:, numeric]
        mean = own.mean(0)
        variances, axes = torch.linalg.eigh((own - mean).T @ (own - mean) / len(own))
        deviations = (variances.clamp_min(0.0) + _RIDGE * variances.mean().clamp_min(_LEAST_VARIANCE)).sqrt()
        self.whitening[numeric] = (axes / deviations).float()
        self.colouring[:, numeric] = (axes * deviations).T.float()
        self.shift.copy_(-mean @ (axes / deviations))
        self.log_volume.copy_(deviations.log().sum())
        with torch.no_grad():
            self.log_variance.copy_((variances / deviations.square()).clamp_min(_TINY).log().clamp(*_LOG_VARIANCE))

    def _count(self, rows: Tensor) -> None:
        """Smoothed frequencies, and the logits the decoder adds to: a value that no row has costs `_UNSEEN` nats."""
        frequency = (rows.sum(0) + 0.5) / (len(rows) + 1)
        binary = self._widths[0]
        prior = torch.cat([frequency[:binary].logit(), frequency[binary:].log()])
        prior[rows.sum(0) == 0] = -_UNSEEN
        prior[:binary][rows[:, :binary].sum(0) == len(rows)] = _UNSEEN
        self.frequency.copy_(frequency)
        self.prior.copy_(prior)

    def _loss(self, x: Tensor, generator: torch.Generator, fraction: float) -> Tensor:
        """Negative evidence lower bound with one draw, per column."""
        numeric, discrete = self._parts(x)
        mean, log_variance = self._encode(numeric, discrete)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0).sum(-1)
        surprise = self._surprise(numeric, discrete, mean + (0.5 * log_variance).exp() * noise)
        return (surprise + min(1.0, fraction / _WARM_UP) * divergence).mean() / self.whitening.shape[0]

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened numeric (n, numeric) and discrete columns (n, discrete)."""
        rows = x.flatten(1)
        return torch.addmm(self.shift, rows, self.whitening), rows[:, self.discrete]

    def _encode(self, numeric: Tensor, discrete: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), (n, latent) each."""
        inputs = torch.cat([numeric.clamp(-_REACH, _REACH), discrete - self.frequency], dim=1)
        mean, log_variance = self.encoder(inputs).chunk(2, dim=1)
        return mean, log_variance.clamp(*_POSTERIOR_LOG_VARIANCE)

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Centres of the whitened numeric columns and logits of the discrete ones."""
        centre, logits = torch.split(self.decoder(z), [len(self.shift), len(self.prior)], dim=-1)
        return centre, logits + self.prior

    def _bounded_log_variance(self) -> Tensor:
        return self.log_variance.clamp(*_LOG_VARIANCE)

    def _surprise(self, numeric: Tensor, discrete: Tensor, z: Tensor) -> Tensor:
        """−log p(x | z) in nats, (..., n) for z (..., n, latent)."""
        centre, logits = self._decode(z)
        log_variance = self._bounded_log_variance()
        squares = (numeric - centre).square() @ (-log_variance).exp()
        constant = 0.5 * (log_variance + math.log(2 * math.pi)).sum() + self.log_volume
        return 0.5 * squares + constant + self._discrete_surprise(logits, discrete)

    def _discrete_surprise(self, logits: Tensor, discrete: Tensor) -> Tensor:
        scores, values = torch.split(logits, self._widths, -1), torch.split(discrete, self._widths, -1)
        total = (F.softplus(scores[0]) - values[0] * scores[0]).sum(-1)
        for score, value in zip(scores[1:], values[1:], strict=True):
            total = total - (value * score.log_softmax(-1)).sum(-1)
        return total

    def _probabilities(self, logits: Tensor) -> Tensor:
        binary, *one_hot = torch.split(logits, self._widths, -1)
        return torch.cat([binary.sigmoid(), *(block.softmax(-1) for block in one_hot)], dim=-1)

    def _rough_score(self, x: Tensor) -> Tensor:
        """By the z alone that the record is encoded to."""
        numeric, discrete = self._parts(x)
        mean, _ = self._encode(numeric, discrete)
        return self._surprise(numeric, discrete, mean) + 0.5 * mean.square().sum(-1)

    def _expected(self, x: Tensor, replaced: Tensor) -> Tensor:
        """(n, d): conditional expectations at the z that x is encoded to: of the replaced columns jointly given the
        others, of each other column given all the rest."""
        numeric, discrete = self._parts(x)
        centre, logits = self._decode(self._encode(numeric, discrete)[0].clamp(-_TYPICAL, _TYPICAL))
        own = self.whitening[-self.layout.columns :] * (-0.5 * self._bounded_log_variance()).exp()  # (d, numeric)
        hessian = own @ own.T
        gradient = ((numeric - centre) * (-0.5 * self._bounded_log_variance()).exp()) @ own.T
        numeric_replaced = replaced & (hessian.diagonal() > 0)
        chosen, column = numeric_replaced.to(x.dtype).topk(min(MAX_REPLACED, self.layout.columns))  # (n, r)
        system = hessian[column.unsqueeze(2), column.unsqueeze(1)] * chosen.unsqueeze(2) * chosen.unsqueeze(1)
        joint = torch.linalg.solve(system + (1.0 - chosen).diag_embed(), gradient.gather(1, column) * chosen)
        joint = torch.zeros_like(gradient).scatter(1, column, joint)
        single = (gradient - joint @ hessian) / hessian.diagonal()
        rows = x.flatten(1).clone()
        rows[:, -self.layout.columns :] -= torch.where(numeric_replaced, joint, single)
        rows[:, self.discrete] = self._probabilities(logits)
        return rows[:, -self.layout.columns :]

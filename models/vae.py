"""Variational autoencoder (Kingma and Welling, 2014) with a likelihood for each kind of column."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from models.base import Layout
from models.coding import Coding
from models.ranks import Noise

_WARM_UP = 0.3  # share of the training in which the weight of the KL term rises from 0 to 1
_NOISE = 4  # draws of the importance-weighted estimate, in antithetic pairs
_POSTERIOR_LOG_VARIANCE = (-10.0, 2.0)
_IMPUTATIONS = 12  # the mean of q comes slowly to where it stays: four mend 93 %, twelve 97 % with three wrong fields


class VariationalAutoencoder(Coding):
    """p(x) = ∫ p(x | z) p(z) dz over a latent z of standard normal prior, for the flattened window.

    `score` is in nats. By `nll` it is the importance-weighted estimate of −log p(x) of Burda et al. (2016, equation 8),
    an upper bound in the mean over its noise. By `elbo` it is the negative evidence lower bound KL(q(z | x) ‖ p(z)) −
    E log p(x | z), with the divergence exact and the expectation a mean over the same draws (Kingma and Welling, 2014,
    equation 10): likewise a bound, looser by how far q is from p(z | x). By `reconstruction` it is −log p(x | z) at
    the mean of q, no bound: whether z is likely is not asked. The noise is fixed and the same for every record.

    Fitted on a stretch in which columns move as one, it is as sure that they always do: a row in which they part costs
    hundreds of nats, and a few such rows carry the mean score of many.
    """

    kind: ClassVar[str] = "vae"
    imputations: ClassVar[int] = _IMPUTATIONS

    noise: Tensor
    """(draws, 1, latent)"""

    def __init__(
        self,
        layout: Layout,
        *,
        latent: int,
        hidden: list[int],
        score: Literal["nll", "elbo", "reconstruction"],
        epochs: int,
    ) -> None:
        super().__init__(layout, encoded=2 * latent, latent=latent, hidden=hidden, score=score, epochs=epochs)
        self.register_buffer("noise", torch.zeros(_NOISE, 1, latent))

    def score(self, x: Tensor) -> Tensor:
        numeric, discrete = self._parts(x)
        mean, log_variance = self._posterior(numeric, discrete)
        if self.arguments["score"] == "reconstruction":
            return self._surprise(numeric, discrete, mean)
        z = mean + (0.5 * log_variance).exp() * self.noise  # (draws, n, latent)
        # One after another: what the decoder makes of all of them at once does not fit a processor's cache.
        surprise = torch.stack([self._surprise(numeric, discrete, draw) for draw in z])
        if self.arguments["score"] == "elbo":
            return surprise.mean(0) + _divergence(mean, log_variance)
        log_ratio = 0.5 * (self.noise.square() - z.square() + log_variance).sum(-1)  # log p(z) - log q(z | x)
        return math.log(len(z)) - (log_ratio - surprise).logsumexp(0)

    def _initialise(self, generator: torch.Generator) -> None:
        super()._initialise(generator)
        half = torch.randn(_NOISE // 2, 1, self.arguments["latent"], generator=generator)
        self.noise.copy_(torch.cat([half, -half]))

    def _loss(self, x: Tensor, noise: Noise, fraction: float) -> Tensor:
        """Negative evidence lower bound with one draw, per column."""
        numeric, discrete = self._parts(x)
        mean, log_variance = self._posterior(numeric, discrete)
        surprise = self._surprise(numeric, discrete, _draw(mean, log_variance, noise))
        weight = min(1.0, fraction / _WARM_UP)
        return (surprise + weight * _divergence(mean, log_variance)).mean() / self.whitening.shape[0]

    def _rough_score(self, x: Tensor) -> Tensor:
        """−log p(x, z) up to a constant, at the z alone that the record is encoded to."""
        numeric, discrete = self._parts(x)
        mean = self._code(numeric, discrete)
        return self._surprise(numeric, discrete, mean) + 0.5 * mean.square().sum(-1)

    def _prior_codes(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.arguments["latent"], generator=generator)

    def _code(self, numeric: Tensor, discrete: Tensor) -> Tensor:
        return self._posterior(numeric, discrete)[0]

    def _drawn(self, numeric: Tensor, discrete: Tensor, noise: Noise) -> Tensor:
        return _draw(*self._posterior(numeric, discrete), noise)

    def _posterior(self, numeric: Tensor, discrete: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), (n, latent) each."""
        mean, log_variance = self._encoded(numeric, discrete).chunk(2, dim=1)
        return mean, log_variance.clamp(*_POSTERIOR_LOG_VARIANCE)


def _draw(mean: Tensor, log_variance: Tensor, noise: Noise) -> Tensor:
    return mean + (0.5 * log_variance).exp() * noise.normal(*mean.shape).to(mean.device)


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) ‖ p(z)), (n,)."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0).sum(-1)

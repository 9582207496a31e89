"""Bidirectional generative adversarial network (Donahue et al., 2017; Dumoulin et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models.base import FitReport, GenerativeModel, Layout, Progress, seeded, silent
from models.coding import LOG_VARIANCE, Coding
from models.fitting import initialise, perceptron
from models.ranks import Noise, averaged, rolled

_RECONSTRUCTION = 10.0  # of its nats a column against the critic's gap: of 1, 3, 10 and D best for most held-back rows
_SWAPPED = 0.1  # share of columns that reconstruction is trained to see through
_CODE_NOISE = 0.2  # deviations of the codes that G decodes in training: rows encoded as near as that are alike
_CRITIC_RATE = 2e-2  # twice the peak rate of the networks that it judges, so that one step for each of theirs is enough
_CRITIC_MOMENTS = (0.0, 0.9)  # of Adam; Gulrajani et al., algorithm 1: momentum lags behind a target that moves
_PENALTY = 10.0  # the λ of Gulrajani et al.
_REACH = 10.0  # whitened values beyond it look the same to the critic, whose steps they would else decide
_ENCODED_AT_ONCE = 1024  # rows


class AdversarialNetwork(Coding):
    """An encoder E and a generator G, the decoder, that a critic cannot tell apart by pairs of row and code:
    (x, E(x)) of rows x against (x̃, z) of codes z ~ N(0, I), where x̃ is drawn about G(z) by the noise of p(x | z).

    Minimised by E and G while the critic C maximises it, under a penalty on slopes of C other than 1 that makes it the
    Wasserstein distance of the pairs (Gulrajani et al., 2017, equation 3):

        E[C(x, E(x))] − E[C(x̃, z)] + 10 E[−log p(x | E(x') + ε)] / D

    The last term ties E(x) to x, which matching of pairs alone does only in the limit (the conditional entropy of Li et
    al., 2017): without it held-back rows lose several nats more. There x' is x with some columns of other rows, so that
    E sees through a column gone wrong (Vincent et al., 2008), and ε keeps like rows from unlike codes. Discrete columns
    of x̃ are probabilities.

    score = −log p(x | E(x)) + ½ Σ (E(G(E(x))) − E(x))² / v + ½ |E(x)|²: what is lost of the row, what is lost of its
    code (its error in the code alone is the score of GANomaly: Akçay et al., 2018), and how uncommon that is; v and the
    variances of p(x | z) are measured on the training rows. It is no likelihood and no bound on one; its first term
    grows without end, as networks see rows only so far out.

    `sample` draws about G(z) by that noise too: G alone fills no more dimensions than the code has.

    Where it fails: G drops rare modes, whose rows then score high; the game need not converge, so that the weights kept
    are those that served held-back rows best, and other seeds give other scores, by nats; a critic of few rows learns
    them by heart. Rows that correlate in another way than those of a start take more steps than tuning has. A
    variational autoencoder has the same parts, a bound, and no game. There are at most half as many dimensions of the
    code as columns of the window: with as many, every row is its own code.
    """

    kind: ClassVar[str] = "gan"
    window: ClassVar[int] = 2

    code_variance: Tensor
    """(latent,): v of the score."""
    code_mean: Tensor
    """(latent,)"""
    code_root: Tensor
    """(latent, latent): lower Cholesky factor of the covariance of codes."""

    def __init__(self, layout: Layout, *, latent: int, hidden: list[int], epochs: int) -> None:
        latent = min(latent, max(1, layout.window * layout.columns // 2))
        super().__init__(layout, encoded=latent, latent=latent, hidden=hidden, epochs=epochs)
        self.register_buffer("code_variance", torch.ones(latent))
        self.register_buffer("code_mean", torch.zeros(latent))
        self.register_buffer("code_root", torch.eye(latent))

    def fit(
        self,
        x: Tensor,
        valid: Tensor,
        *,
        seed: int,
        start: GenerativeModel | None = None,
        progress: Progress = silent,
    ) -> FitReport:
        """With `start`, its weights go on: first those of the layers next to the data, then all. The critic lives as
        long as the fit: one that was kept would judge by rows that are no more, and a new one learns in a few steps."""
        width = self.layout.window * self.layout.columns + self.arguments["latent"]
        self._critic = _Critic([width, *self.arguments["hidden"], 1], seed=seed, device=x.device)
        try:
            return super().fit(x, valid, seed=seed, start=start, progress=progress)
        finally:
            del self._critic

    def score(self, x: Tensor) -> Tensor:
        numeric, discrete = self._parts(x)
        z = self._code(numeric, discrete)
        lost = self._code(*self._generated(z)) - z
        return self._surprise(numeric, discrete, z) + 0.5 * (lost.square() / self.code_variance + z.square()).sum(-1)

    def _code(self, numeric: Tensor, discrete: Tensor) -> Tensor:
        return self._encoded(numeric, discrete)

    def _prior_codes(self, n: int, generator: torch.Generator) -> Tensor:
        """By the mean and covariance that codes of the training rows have: a game that ends early leaves them near
        those of the prior, and draws would be off by as much (Ghosh et al., 2020, section 4)."""
        return self.code_mean + torch.randn(n, len(self.code_mean), generator=generator) @ self.code_root.T

    def _generated(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G(z): centres of the whitened numeric columns and probabilities of the discrete ones."""
        centre, raw = self._decode(z)
        return centre, self.heads.probabilities(raw)

    def _drawn(self, numeric: Tensor, discrete: Tensor, noise: Noise) -> Tensor:
        z = self._code(numeric, discrete)
        return z + _CODE_NOISE * noise.normal(*z.shape).to(z)

    def _loss(self, x: Tensor, noise: Noise, fraction: float) -> Tensor:
        """The game, after a step of the critic. Held-back rows, for which there is no gradient, are judged without it:
        a game that collapses looks well by its own loss."""
        if not torch.is_grad_enabled():
            return self._judged(x)
        others = noise.uniform(*x.shape).to(x) < _SWAPPED
        disturbed = self._drawn(*self._parts(torch.where(others, rolled(x), x)), noise)
        numeric, discrete = self._parts(x)
        surprise = self._surprise(numeric, discrete, disturbed).mean() / len(self.whitening)
        real = _pairs(numeric, discrete, self._code(numeric, discrete))
        drawn = _pairs(*self._drawn_pairs(len(x), noise))
        self._critic.learn(real.detach(), drawn.detach(), noise)
        return self._critic.gap(real, drawn) + _RECONSTRUCTION * surprise

    def _judged(self, x: Tensor) -> Tensor:
        """Mean of −log p(x | E(x)) + ½ |E(x)|² a column, less its constant, at the variances that the rows themselves
        have: `_settle` sets them in the end, and the learned ones are behind."""
        numeric, discrete = self._parts(x)
        z = self._code(numeric, discrete)
        centre, raw = self._decode(z)
        spread = _log_variance(numeric - centre).sum()
        rest = self.heads.costs(raw, discrete).sum(-1) + 0.5 * z.square().sum(-1)
        return (0.5 * spread + rest.mean()) / len(self.whitening)

    def _drawn_pairs(self, n: int, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Numeric and discrete columns of n draws, and their codes. The noise belongs to the draw: rows fill all
        dimensions, and what G makes of few would never pass for them."""
        z = noise.normal(n, len(self.code_mean)).to(self.shift)
        centre, probabilities = self._generated(z)
        scatter = noise.normal(*centre.shape).to(centre)
        return centre + scatter * (0.5 * self._bounded_log_variance().detach()).exp(), probabilities, z

    def _settle(self, x: Tensor, seed: int) -> None:
        """Variances of what is lost of training rows and of their codes, for those learned were of disturbed rows; and
        the moments of the codes."""
        with torch.no_grad():
            errors = [self._errors(rows) for rows in torch.split(x, _ENCODED_AT_ONCE)]
            lost, lost_code, codes = (torch.cat(part) for part in zip(*errors, strict=True))
            self.log_variance.copy_(_log_variance(lost))
            self.code_variance.copy_(lost_code.square().mean(0).clamp_min(_CODE_NOISE**2))
            self.code_mean.copy_(codes.mean(0))
            slack = _CODE_NOISE**2 * torch.eye(codes.shape[1]).to(codes)
            self.code_root.copy_(torch.linalg.cholesky(codes.T.cov(correction=0).view_as(slack) + slack))

    def _errors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x − G(E(x)) of whitened numeric columns (n, numeric), E(x) − E(G(E(x))) (n, latent), and E(x)."""
        numeric, discrete = self._parts(x)
        z = self._code(numeric, discrete)
        centre, probabilities = self._generated(z)
        return numeric - centre, z - self._code(centre, probabilities), z


class _Critic:
    """C of the game: high for rows and their codes, low for draws and theirs, with slopes near 1 in between."""

    def __init__(self, widths: Sequence[int], *, seed: int, device: torch.device) -> None:
        self._network = perceptron(widths)
        initialise(self._network, seeded(seed))
        self._network.to(device)
        self._optimiser = torch.optim.Adam(self._network.parameters(), _CRITIC_RATE, _CRITIC_MOMENTS, fused=True)

    def gap(self, real: Tensor, drawn: Tensor) -> Tensor:
        """(): by how much the real pairs (n, D + latent) score higher than the drawn ones in the mean."""
        difference: Tensor = self._network(real) - self._network(drawn)
        return difference.mean()

    def learn(self, real: Tensor, drawn: Tensor, noise: Noise) -> None:
        """One step up the gap, under the penalty on slopes at points between the pairs."""
        share = noise.uniform(len(real), 1).to(real)
        between = torch.lerp(drawn, real, share).requires_grad_()
        (slope,) = torch.autograd.grad(self._network(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1.0).square().mean()
        self._optimiser.zero_grad()
        loss = _PENALTY * penalty - self.gap(real, drawn)
        torch.autograd.backward(loss)
        averaged(loss, list(self._network.parameters()))
        self._optimiser.step()


def _pairs(numeric: Tensor, discrete: Tensor, z: Tensor) -> Tensor:
    """(n, D + latent): what the critic looks at."""
    return torch.cat([numeric.clamp(-_REACH, _REACH), discrete, z], dim=1)


def _log_variance(errors: Tensor) -> Tensor:
    """(n, numeric) -> (numeric,): logarithm of their mean squares, within the bounds of a learned one."""
    return errors.square().mean(0).log().clamp(*LOG_VARIANCE)

"""Normalising flows (Papamakarios et al., 2021) on zuko's maps: an exact likelihood over columns of every kind."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.transforms import (  # type: ignore[import-untyped]  # ships no types
    AutoregressiveTransform,
    MonotonicAffineTransform,
    MonotonicRQSTransform,
)
from zuko.utils import unpack  # type: ignore[import-untyped]  # ships no types

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
from models.fitting import check_rows, initialise, rehearsed, scored, train
from models.gaussian import excess, principal
from models.masked import masked_perceptron
from models.ranks import Noise
from models.regression import ridge
from models.replacing import Replacing

Distribution.set_default_validate_args(__debug__)  # as torch has it: to import zuko turns the checks off for everyone

_MIN_ROWS = 32
_LEAST_VARIANCE = 1e-4  # mean variance of numeric columns is taken to be no less
_PSEUDO_ROWS = 1.0  # rows that say that discrete columns tell nothing of numeric ones
_REACH = 5.0  # whitened values beyond it look the same to the networks, and splines leave them as they are
_BINS = 8  # of a spline, as in Durkan et al. (2019)
_SLOPE = 0.03  # least slope of a map, its inverse the largest: .001 gains nothing on withheld rows
_DEVIATION = 0.3  # of weights a priori: at 1, 300 rows are overfitted by far; at .3, 20,000 are fitted as well

_MAPS: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "maf": (partial(MonotonicAffineTransform, slope=_SLOPE), [(), ()]),
    "nsf": (partial(MonotonicRQSTransform, bound=_REACH, slope=_SLOPE), [(_BINS,), (_BINS,), (_BINS - 1,)]),
}
"""What bends one column given those before it, and the shapes of its parameters."""


class NormalisingFlow(Replacing):
    """p(x) = p(discrete) · p(numeric | discrete) for the flattened window. `score` is −log p(x) in nats, exact.

    Numeric columns, less what is linear in the discrete ones, are whitened; invertible maps f then take them to z of
    standard normal density, so that −log p = ½|z|² + ½ k log 2π − log |det dz / dx|. Each map bends one column after
    another by parameters that a masked network makes of the columns before it and of the discrete ones: shift and scale
    with `maf` (Papamakarios et al., 2017), a monotonic rational-quadratic spline with `nsf` (Durkan et al., 2019);
    every second map goes through the columns backwards. p(discrete) is a chain of Bernoulli and categorical features,
    each given those before it (`models.discrete`; MADE: Germain et al., 2015).

    Training rows are blurred by noise of the ridge's variance (noise regularisation: Rothfuss et al., 2019): columns
    that hardly change would otherwise pull density into spikes. Weights are normal a priori, which leaves a Gaussian
    where rows are few.

    Fails where normal rows lie in clusters far apart: a map is continuous, and leaves bridges of density between them.
    Few whitened values reach beyond `_REACH`; from there `nsf` is Gaussian, and `maf` goes on as it was at the edge.
    `nsf` costs ten to thirty times what `maf` does.
    """

    kind: ClassVar[str] = "flow"
    is_density: ClassVar[bool] = True
    by_gradient: ClassVar[bool] = True
    window: ClassVar[int] = 2
    sizes: ClassVar[tuple[str, ...]] = ("transform", "transforms", "hidden")

    discrete: Tensor
    """(discrete,): indices in D of the binary, then the one-hot columns, with D = window · columns."""
    numeric: Tensor
    """(k,): indices in D of the numeric columns."""
    whitening: Tensor
    """(D, k): whitened = x @ whitening + shift."""
    shift: Tensor
    """(k,)"""
    colouring: Tensor
    """(k, k): takes what is whitened of numeric columns back."""
    log_volume: Tensor
    """(): log |det colouring|."""
    blur: Tensor
    """(): deviation of the noise on numeric columns in training."""

    def __init__(
        self,
        layout: Layout,
        *,
        transform: Literal["maf", "nsf"],
        transforms: int,
        hidden: list[int],
        epochs: int,
    ) -> None:
        super().__init__(layout, transform=transform, transforms=transforms, hidden=hidden, epochs=epochs)
        discrete, widths = discrete_columns(layout)
        width = layout.window * layout.columns
        numeric = [column for column in range(width) if column not in set(discrete)]
        self._map, self._shapes = _MAPS[transform]
        self._parameters_each = sum(map(math.prod, self._shapes))
        forwards, context = [*range(len(numeric))], [-1] * len(discrete)
        self.conditioners = nn.ModuleList(
            masked_perceptron([*order, *context], [n for n in order for _ in range(self._parameters_each)], hidden)
            for order in ([forwards, forwards[::-1]] * transforms)[:transforms]
        )
        self._sizes = [1] * widths[0] + widths[1:]
        feature = [n for n, size in enumerate(self._sizes) for _ in range(size)]
        self.chain = masked_perceptron(feature, feature, hidden)
        self.heads = Discrete(widths)
        self.register_buffer("discrete", torch.tensor(discrete, dtype=torch.long), persistent=False)
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.long), persistent=False)
        self.register_buffer("whitening", torch.zeros(width, len(numeric)))
        self.register_buffer("shift", torch.zeros(len(numeric)))
        self.register_buffer("colouring", torch.zeros(len(numeric), len(numeric)))
        self.register_buffer("log_volume", torch.zeros(()))
        self.register_buffer("blur", torch.zeros(()))
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
        """With `start`, its weights go on: first those of the map next to the data and of the chain, then all. Where
        rows are less likely by them than by the Gaussian that is measured, it knows nothing of use, and the fit is one
        from nothing."""
        check_rows(self.layout, x, valid, needed=_MIN_ROWS)
        before = None if start is None else require_compatible(self, start)
        if before is not None:
            x = rehearsed(x, before, seed=seed)
        self._initialise(seeded(seed))
        self._measure(x)
        outermost = [] if before is None else self._carry(before, x)
        loss, epochs = partial(self._loss, len(x)), self.arguments["epochs"]
        steps = train(self.train(), loss, x, valid, epochs=epochs, seed=seed, outermost=outermost, progress=progress)
        self.eval()
        self.ordinary = scored(self, x).quantile(ORDINARY)
        return FitReport(float(scored(self, valid).mean()), {"steps": steps})

    def score(self, x: Tensor) -> Tensor:
        return self._surprise(x.flatten(1))

    def embed(self, x: Tensor) -> Tensor:
        """(n, k): z, standard normal where rows are normal."""
        return self._base(x.flatten(1))[0]

    def sample(self, n: int, *, seed: int) -> Tensor:
        model, generator = copy.deepcopy(self).cpu().double(), seeded(seed)
        with torch.no_grad():
            rows = model._drawn_discrete(n, generator)
            z = torch.randn(n, len(self.shift), generator=generator, dtype=rows.dtype)
            rows[:, self.numeric.cpu()] = (model._unbent(z, rows) - model._whitened(rows)) @ model.colouring
        return rows.view(n, self.layout.window, self.layout.columns).float()

    def _drawn_discrete(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, D): one feature after another drawn given those before it; numeric columns are zero."""
        rows = self.whitening.new_zeros(n, len(self.whitening))
        for own in torch.split(torch.arange(len(self.discrete)), self._sizes):
            drawn = self.heads.draw(self.chain(self._told(rows)), generator)
            rows[:, self.discrete[own]] = drawn[:, own]
        return rows

    def _initialise(self, generator: torch.Generator) -> None:
        """Last layers begin at zero, and training thereby at the Gaussian and the frequencies that were measured."""
        initialise(self, generator)
        for network in (*self.conditioners, self.chain):
            nn.init.zeros_(network[-1].weight)

    def _measure(self, x: Tensor) -> None:
        """What is taken from the rows without training."""
        rows = x.flatten(1).double()
        self.heads.count(rows[:, self.discrete])
        self._whiten(rows)

    def _whiten(self, rows: Tensor) -> None:
        """Ridge regression on the discrete columns, then principal axes of what it leaves, each scaled by the root of
        its variance plus the ridge, which is the variance that it has in blurred rows."""
        given, own = rows[:, self.discrete], rows[:, self.numeric]
        slope = ridge(given, own, [_PSEUDO_ROWS]).weights[0]
        axes = principal(own - given @ slope, least=_LEAST_VARIANCE)
        whitening = axes.directions / axes.deviations
        self.whitening[self.numeric] = whitening.float()
        self.whitening[self.discrete] = (-slope @ whitening).float()
        self.colouring.copy_((axes.directions * axes.deviations).T)
        self.shift.copy_(-rows.mean(0) @ self.whitening.double())
        self.log_volume.copy_(axes.deviations.log().sum())
        self.blur.copy_(axes.ridge.sqrt())

    def _carry(self, before: NormalisingFlow, x: Tensor) -> list[nn.Parameter]:
        """Takes the networks over, and turns what is whitened to where it comes nearest to what `before` whitened, in
        the mean square over the rows (orthogonal Procrustes: Schönemann, 1966): rows that are distributed as before
        look to the networks as they did. Returns the weights to tune first; none, where it is better to begin anew."""
        anew, gaussian = copy.deepcopy(self.state_dict()), scored(self, x).mean()
        self.conditioners.load_state_dict(before.conditioners.state_dict())
        self.chain.load_state_dict(before.chain.state_dict())
        left, _, right = torch.linalg.svd(self.colouring.double() @ before.whitening[self.numeric].double())
        turn = (left @ right).float()
        self.whitening.copy_(self.whitening @ turn)
        self.shift.copy_(self.shift @ turn)
        self.colouring.copy_(turn.T @ self.colouring)
        if scored(self, x).mean() > gaussian:
            self.load_state_dict(anew)
            return []
        return [*self.conditioners[0].parameters(), *self.chain.parameters()]

    def _loss(self, trained_on: int, x: Tensor, noise: Noise, fraction: float) -> Tensor:
        """−log p(weights | rows) up to a constant, per row and column, of rows that are blurred."""
        rows = x.flatten(1).clone()
        rows[:, self.numeric] += self.blur * noise.normal(len(rows), len(self.numeric)).to(rows.device)
        squares = torch.stack([weight.square().sum() for weight in self.parameters() if weight.ndim == 2]).sum()
        return (self._surprise(rows).mean() + 0.5 * squares / _DEVIATION**2 / trained_on) / rows.shape[1]

    def _surprise(self, rows: Tensor) -> Tensor:
        """−log p (n,) of rows (n, D)."""
        z, log_slope = self._base(rows)
        constant = 0.5 * math.log(2 * math.pi) * len(self.shift) + self.log_volume
        return 0.5 * z.square().sum(1) - log_slope + constant + self._discrete_surprise(rows)

    def _whitened(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.shift, rows, self.whitening)

    def _told(self, rows: Tensor) -> Tensor:
        """(n, discrete): what the networks are told of the discrete columns; nothing of one that never changed."""
        frequency = self.heads.frequency
        return (rows[:, self.discrete] - frequency) * ((frequency > 0) & (frequency < 1))

    def _maps(self, rows: Tensor) -> list[Any]:
        """From the data inwards, given the discrete columns of the rows."""
        told = self._told(rows)
        return [
            AutoregressiveTransform(partial(self._bending, network, told), passes=len(self.shift))
            for network in self.conditioners
        ]

    def _bending(self, network: nn.Module, told: Tensor, inputs: Tensor) -> Any:
        """Of each column, by parameters made of those before it."""
        parameters = network(torch.cat([inputs.clamp(-_REACH, _REACH), told], dim=1))
        return self._map(*unpack(parameters.unflatten(1, (len(self.shift), self._parameters_each)), self._shapes))

    def _base(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """z (n, k), and log |dz / d whitened| (n,)."""
        z, log_slope = self._whitened(rows), torch.zeros_like(rows[:, 0])
        for bending in self._maps(rows):
            z, log_slopes = bending.call_and_ladj(z)
            log_slope = log_slope + log_slopes.sum(1)
        return z, log_slope

    def _unbent(self, z: Tensor, rows: Tensor) -> Tensor:
        """(n, k): what is whitened, of z, given the discrete columns of the rows."""
        for bending in reversed(self._maps(rows)):
            z = bending.inv(z)
        return z

    def _discrete_surprise(self, rows: Tensor) -> Tensor:
        """−log p(discrete) (n,)."""
        return self.heads.costs(self.chain(self._told(rows)), rows[:, self.discrete]).sum(-1)

    def _expected(self, x: Tensor, replaced: Tensor) -> Tensor:
        """Numeric columns by the Gaussian that whitening makes of the rows, discrete features by Bayes, exactly."""
        rows, columns = x.flatten(1), self.layout.columns
        own = self.whitening[-columns:].clone()
        expected = rows[:, -columns:].clone()
        for block, at in self.layout.slices():
            if block.kind != "numeric":
                own[at] = 0.0
                expected[:, at] = self._odds(rows, at, block.kind)
        return expected - excess(self._whitened(rows) @ own.T, own @ own.T, replaced)

    def _odds(self, rows: Tensor, at: slice, kind: str) -> Tensor:
        """(n, width): probabilities of the columns of a discrete feature of the record, given all else."""
        width = at.stop - at.start
        values = torch.eye(width) if kind == "categorical" else torch.tensor([[0.0], [1.0]])
        tried = rows.unsqueeze(1).repeat(1, len(values), 1)
        tried[..., -self.layout.columns :][..., at] = values.to(rows)
        odds = -self._surprise(tried.flatten(0, 1)).view(len(rows), len(values))
        return odds.softmax(1) @ values.to(rows)

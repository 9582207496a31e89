"""Gaussian mixture with shrunken covariances, fitted in float64 and scored as one matrix product in float32."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from models.base import (
    ORDINARY,
    Explanation,
    FitReport,
    GenerativeModel,
    Layout,
    Progress,
    require_compatible,
    seeded,
    silent,
)
from models.columns import bounded
from models.em import Mixture, Table, chosen_mixture, standardised, whitening
from models.fitting import check_rows, rehearsed, scored

_MIN_ROWS = 16
_WIDEST = 512  # columns of all full components together, where their number is free: a record costs k·D² operations
_BLOCK = 32  # columns whitened at a time
_MAX_ROWS = 8_000  # more rows hardly move the estimates, and cost time in proportion
_LEAST_SUPPORT = 2.0  # rows that a known component has to account for, to be gone on from
_MAX_REPLACED = 10  # columns that an explanation puts a record down to, at most
_TINY = 1e-12


class GaussianMixture(GenerativeModel):
    """Mixture of Gaussians over the flattened window. `score` is −log p(x) in nats.

    Each covariance is what is to be expected under a prior that all share (`models.em`), so that components of few rows
    do not shrink to them. The number of components is the one under which `valid` is likeliest: a whole later stretch,
    because records close in time are nearly copies of each other, and rows drawn from among those fitted on would
    reward learning them by heart. A level that never moved in training and moves later is as unlikely here as anything
    can be, and stays so until the next fit.

    Binary and one-hot columns are Gaussian too, with a variance that is nowhere below what smoothing adds to their
    frequency: a value never seen in training costs a finite number of nats, about as many as there were training rows.
    Of each one-hot block the most frequent category follows from the others and is left out: that column costs the same
    whether it is 0 or 1.
    """

    kind: ClassVar[str] = "gmm"
    is_density: ClassVar[bool] = True
    window: ClassVar[int] = 2
    sizes: ClassVar[tuple[str, ...]] = ("components", "covariance")

    weights: Tensor
    """(k,)"""
    means: Tensor
    """(k, D) with D = window · columns."""
    whitening: Tensor
    """full (D, k, D), tied (D, 1, D): (x − mean) @ whitening[:, k] has unit covariance. diag (k, D): 1 / deviation."""
    shift: Tensor
    """(k, D): minus the means, whitened."""
    log_norm: Tensor
    """(k,): log of weight and normalising constant."""
    reference: Tensor
    """(D,): true for the one-hot columns that are left out."""
    ordinary: Tensor
    """(): the training score at which nothing is left to explain."""

    def __init__(
        self,
        layout: Layout,
        *,
        components: int | None,
        max_components: int,
        covariance: Literal["full", "diag", "tied"],
    ) -> None:
        super().__init__(layout, components=components, max_components=max_components, covariance=covariance)
        k, width = components or max_components, layout.window * layout.columns
        self._diagonal = covariance == "diag"
        shapes = {"full": (width, k, width), "tied": (width, 1, width), "diag": (k, width)}
        self.register_buffer("weights", torch.zeros(k))
        self.register_buffer("means", torch.zeros(k, width))
        self.register_buffer("whitening", torch.zeros(shapes[covariance]))
        self.register_buffer("shift", torch.zeros(k, width))
        self.register_buffer("log_norm", torch.zeros(k))
        self.register_buffer("reference", torch.zeros(width, dtype=torch.bool))
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
        """Where `components` is None, takes as many as `start` has, else of 1, 2, 4, 8, ... the number under which
        `valid` is likeliest, and puts it into `arguments`: up to `max_components`, and full ones only as far as they
        have 512 columns between them, so that what a score costs grows with the columns and not with their square.
        With `start`, expectation-maximisation begins at its components."""
        check_rows(self.layout, x, valid, needed=max(_MIN_ROWS, 2 * (self.arguments["components"] or 1)))
        x = bounded(x)
        own = x[torch.randperm(len(x), generator=seeded(seed))[:_MAX_ROWS].to(x.device)]
        before = None if start is None else require_compatible(self, start)
        rows = own if before is None else rehearsed(own, before, seed=seed)
        table = standardised(rows.cpu().double(), self.layout)
        known = None if before is None else before.precise()._mixture(rows.cpu().double(), table, seed)
        later = valid[:: math.ceil(len(valid) / _MAX_ROWS)].cpu().double()
        sizes, shape = self._sizes(len(table.rows)), self.arguments["covariance"]
        mixture, iterations = chosen_mixture(table, table.standardise(later), known, sizes, shape, seed, progress)
        self._adopt(mixture, table)
        self.to(x.device).eval()
        self.arguments = {**self.arguments, "components": len(mixture.weights)}
        self.ordinary = scored(self, rows).quantile(ORDINARY)
        return FitReport(
            valid_score=float(scored(self, valid).mean()),
            details={"components": len(mixture.weights), "rows": len(own), "iterations": iterations},
        )

    def score(self, x: Tensor) -> Tensor:
        return -self._log_joint(self._distance(bounded(x).flatten(1))).logsumexp(-1)

    def sample(self, n: int, *, seed: int) -> Tensor:
        model, generator = copy.deepcopy(self).cpu().double(), seeded(seed)
        component = torch.multinomial(model.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        rows = model.means[component]
        for k in range(len(model.weights)):
            own = component == k
            rows[own] += model._coloured(noise[own], k)
        x = rows.view(n, self.layout.window, self.layout.columns)
        for position in range(self.layout.window):
            model._complete(x[:, position], position)
        return x.float()

    def _mixture(self, x: Tensor, table: Table, seed: int) -> Mixture:
        """In the units of the table of x, by a model in float64 on the CPU. A component that accounts for none of the
        rows would say nothing of them: it begins anew, as wide as the table, at a row far from the others."""
        weights, means = self.weights, (self.means - table.mean) / table.deviation
        left_out = table.reference & ~self.reference  # the same in all rows of the table, so in all components
        means[:, left_out] = 0.0
        if self._diagonal:
            covariances, unit = (self.whitening * table.deviation).square().reciprocal(), torch.ones_like(means[0])
            covariances[:, left_out] = 1.0
        else:
            colouring = torch.linalg.inv(self.whitening.transpose(0, 1) * table.deviation.unsqueeze(-1))
            covariances, unit = colouring.mT @ colouring, torch.ones_like(means[0]).diag()
            covariances[:, left_out | left_out.unsqueeze(1)] = 0.0
            covariances[:, left_out.diag()] = 1.0
        distance = self._distance(x.flatten(1))
        lost = self._log_joint(distance).softmax(-1).sum(0) < _LEAST_SUPPORT
        if lost.any():
            far = torch.multinomial(distance[:, ~lost].amin(1), int(lost.sum()), generator=seeded(seed))
            weights, means[lost] = torch.where(lost, 1.0 / len(lost), weights), table.rows[far]
            if len(covariances) == len(lost):  # each has its own
                covariances[lost] = unit
        return Mixture(weights / weights.sum(), means, covariances)

    def _sizes(self, rows: int) -> list[int]:
        """Numbers of components to try: the one given, else powers of two that rows and columns allow."""
        if self.arguments["components"]:
            return [self.arguments["components"]]
        most = min(self.arguments["max_components"], rows // 2)
        if self.arguments["covariance"] == "full":
            most = max(1, min(most, _WIDEST // self.means.shape[1]))
        return [2**power for power in range(most.bit_length())]

    def _adopt(self, mixture: Mixture, table: Table) -> None:
        """Takes the mixture over in the units of x."""
        weights, means = mixture.weights, table.mean + table.deviation * mixture.means
        roots, log_determinant = whitening(mixture.covariances)
        if self._diagonal:
            roots = roots / table.deviation
            shift = -means * roots
        else:
            roots = roots / table.deviation.unsqueeze(-1)
            shift, roots = -(means.unsqueeze(1) @ roots).squeeze(1), roots.permute(1, 0, 2)
        self.weights, self.means, self.shift = weights.float(), means.float(), shift.float()
        self.whitening, self.reference = roots.float().contiguous(), table.reference
        log_determinant = log_determinant - table.deviation.log().sum()
        self.log_norm = (weights.log() + log_determinant - 0.5 * means.shape[1] * math.log(2 * math.pi)).float()

    def _explained(self, x: Tensor) -> Explanation:
        """Replaces columns one after another by what a component expects there given all columns not replaced, always
        the one that lowers the score most, until the record is as likely as normal ones are. The component is the one
        that gets there with the fewest columns. A column's share is what it would cost to put it back alone: almost
        nothing for one that was replaced only because it did not go with corrupted ones."""
        x = bounded(x)
        whitened = self._whitened(x.flatten(1))
        gradient, precision = self._record_terms(whitened)
        search = _search(gradient, precision, rounds=min(_MAX_REPLACED, self.layout.columns))
        dropped = 0.5 * search.step.square().cumsum(-1)  # (n, k, rounds)
        least, component = (-self._log_joint(whitened.square().sum(-1)).unsqueeze(-1) - dropped).min(1)
        enough = least <= self.ordinary
        last = torch.where(enough.any(-1), enough.int().argmax(-1), least.shape[-1] - 1)
        each = torch.arange(len(x))
        component = component[each, last]
        chosen = _Search(*(part[each, component] for part in search))
        diagonal = precision.diagonal(dim1=-2, dim2=-1)[component]
        excess, replaced = _excess(chosen, last, gradient[each, component], diagonal)
        expected = self._lawful(x[:, -1] - excess)
        return Explanation(self._share(x, expected, replaced), expected)

    def _whitened(self, rows: Tensor) -> Tensor:
        """(n, D) -> (n, k, D): by each component, deviations from its mean with unit covariance."""
        if self._diagonal:
            return torch.addcmul(self.shift, rows.unsqueeze(1), self.whitening)
        if self.whitening.shape[1] == 1:  # tied, or a single component
            return (rows @ self.whitening[:, 0]).unsqueeze(1) + self.shift
        whitened = torch.addmm(self.shift.flatten(), rows, self.whitening.flatten(1))
        return whitened.view(-1, *self.shift.shape)

    def _distance(self, rows: Tensor) -> Tensor:
        """(n, D) -> (n, k): squared Mahalanobis distance from each component's mean. Whitening is triangular, which
        halves the work of wide rows: the first columns of the whitened need the first of the rows alone."""
        width = rows.shape[1]
        if width <= _BLOCK or self.whitening.dim() != 3 or self.whitening.shape[1] == 1:
            return self._whitened(rows).square_().sum(-1)
        distance = rows.new_zeros(len(rows), len(self.weights))
        for start in range(0, width, _BLOCK):
            own = slice(start, min(start + _BLOCK, width))
            part = torch.addmm(
                self.shift[:, own].flatten(), rows[:, : own.stop], self.whitening[: own.stop, :, own].flatten(1)
            )
            distance += part.square_().view(*distance.shape, -1).sum(-1)
        return distance

    def _log_joint(self, distance: Tensor) -> Tensor:
        """Squared distances (n, k) -> (n, k): log p(x, component)."""
        return self.log_norm - 0.5 * distance

    def _record_terms(self, whitened: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (n, k, d) and Hessian (k, d, d) of each component's score by the columns of the record itself."""
        d, k = self.layout.columns, len(self.weights)
        if self._diagonal:
            own = self.whitening[:, -d:]
            return whitened[..., -d:] * own, own.square().diag_embed()
        own = self.whitening[-d:].transpose(0, 1).expand(k, -1, -1)  # (k, d, D)
        return torch.einsum("nkj,kij->nki", whitened, own), own @ own.mT

    def _coloured(self, noise: Tensor, k: int) -> Tensor:
        """(n, D) of unit covariance -> (n, D) of the covariance of component k."""
        if self._diagonal:
            return noise / self.whitening[k]
        upper = self.whitening[:, min(k, self.whitening.shape[1] - 1)]
        coloured: Tensor = torch.linalg.solve_triangular(upper, noise, upper=True, left=False)
        return coloured

    def _share(self, x: Tensor, expected: Tensor, replaced: Tensor) -> Tensor:
        """(n, d): what it costs to put each of the replaced columns back."""
        row, column = replaced.nonzero().unbind(1)
        current = x.clone()
        current[:, -1] = torch.where(replaced, expected, x[:, -1])
        back = current[row]
        back[torch.arange(len(row)), -1, column] = x[row, -1, column]
        share = torch.full_like(expected, _TINY)
        share[row, column] += (self.score(back) - self.score(current)[row]).clamp_min(0.0)
        return share / share.sum(1, keepdim=True)

    def _lawful(self, record: Tensor) -> Tensor:
        """Frequencies of binary and one-hot columns between 0 and 1, in place."""
        self._complete(record, self.layout.window - 1)
        for block, columns in self.layout.slices():
            if block.kind != "numeric":
                record[:, columns].clamp_(0.0, 1.0)
        return record

    def _complete(self, record: Tensor, position: int) -> None:
        """Gives the left-out column of each one-hot block what the others leave of 1, in place."""
        left_out = self.reference.view(self.layout.window, -1)[position]
        for block, columns in self.layout.slices():
            if block.kind == "categorical":
                part, own = record[:, columns], left_out[columns]
                part[:, own] = 1.0 - part[:, ~own].sum(1, keepdim=True)


class _Search(NamedTuple):
    """Columns in the order in which they are replaced (n, k, rounds); the root of twice the drop in score that each
    brings (n, k, rounds); and the Cholesky factor of the Hessian (n, k, d, rounds), pivoted in that order. No k where
    one component a row was chosen."""

    order: Tensor
    step: Tensor
    factor: Tensor


def _search(gradient: Tensor, precision: Tensor, rounds: int) -> _Search:
    """Greedy by largest drop: replacing column j by its conditional expectation lowers the score by g² / (2h), where g
    is its gradient and h its diagonal in the Hessian, both after elimination of the columns replaced so far. That is
    Cholesky's factorisation, pivoted by the drop."""
    n, k, d = gradient.shape
    own, every = torch.arange(k), (torch.arange(n).unsqueeze(1), torch.arange(k))
    diagonal = precision.diagonal(dim1=-2, dim2=-1).expand(n, k, d)
    factor, taken = gradient.new_zeros(n, k, d, rounds), torch.zeros(n, k, d, dtype=torch.bool)
    order, step = torch.zeros(n, k, rounds, dtype=torch.long), gradient.new_zeros(n, k, rounds)
    for r in range(rounds):
        j = (gradient.square() / diagonal).masked_fill(taken, -1.0).argmax(-1)  # (n, k)
        pivot = diagonal[(*every, j)].sqrt()
        eliminated = (factor @ factor[(*every, j)].unsqueeze(-1)).squeeze(-1)
        column = (precision[own, j] - eliminated) / pivot.unsqueeze(-1)
        order[..., r], step[..., r], factor[..., r] = j, gradient[(*every, j)] / pivot, column
        gradient = gradient - column * step[..., r, None]
        diagonal = diagonal - column.square()
        taken[(*every, j)] = True
    return _Search(order, step, factor)


def _excess(chosen: _Search, last: Tensor, gradient: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """By how much each column exceeds its conditional expectation (n, d), after the rounds up to `last`; and which
    columns these replace (n, d): expected jointly given the others, each other one given all the rest so replaced."""
    order, step, factor = chosen
    done = torch.arange(step.shape[1]) <= last.unsqueeze(1)
    step = (step * done).unsqueeze(-1)
    corner = factor.gather(1, order.unsqueeze(-1).expand(-1, -1, step.shape[1]))
    joint = torch.linalg.solve_triangular(corner.mT, step, upper=True).squeeze(-1)
    single = (gradient - (factor @ step).squeeze(-1)) / diagonal
    replaced = torch.zeros(gradient.shape, dtype=torch.bool).scatter(1, order, done)
    return single.scatter_add(1, order, joint), replaced

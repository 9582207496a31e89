"""Kernel mixture: a density with a kernel at each of many training rows, scored as one matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

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
from models.columns import bounded, discrete_columns, units
from models.discrete import UNSEEN, drawn
from models.fitting import check_rows, rehearsed, scored
from models.replacing import MAX_REPLACED, Replacing

_MIN_ROWS = 16
_NEIGHBOUR = 5  # the first may be a double of a row, and far ones say nothing of its surroundings
_WIDENINGS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)  # h² that are tried, by the neighbours' distance;
# the last are for one or two columns, where neighbours are much nearer than the best bandwidth is wide
_MISMATCHES = (0.01, 0.05, 0.25, 0.9)  # λ that are tried; by the last, discrete columns hardly follow the others
_JUDGED = 600  # rows whose likelihood chooses, and tells what is ordinary
_OUTLYING = 0.02  # share of them that counts as the next likely one: a few outliers would widen all kernels
_LEAST_DISTANCE = 0.01  # squared, a column: doubles would draw the bandwidth to 0, where float32 has no digits left
_UNSEEN_DISTANCE = 3.0  # deviations that a value never seen costs beside `UNSEEN`: far more, where kernels are narrow
_LEAST_EXPONENT = -80.0  # of a centre, less the largest: beyond it float32 is denormal, and ten times as slow
_ROWS_AT_ONCE = 128  # with 4000 centres still in a processor's cache, which doubles the rate
_CANDIDATES = 8  # centres that may say what is expected: the nearest alone may be odd in what it says
_EXPLAINED_AT_ONCE = 8  # rows, with what each column costs at each centre: 20 MB at 80 columns


class KernelMixture(Replacing):
    """p(x) = 1/m Σᵢ Πⱼ K(xⱼ; cᵢⱼ) over m training rows c, for the flattened window. `score` is −log p(x) in nats.

    Numeric columns have Gaussian kernels of one bandwidth h (Parzen, 1962). A binary column or one-hot block with
    frequencies q has K(x; c) = (1 − λ)[x = c] + λ q(x), with one λ for all; Aitchison and Aitken (1976) have equal q.
    By q a mismatch costs more the rarer the value is, and one that no training row has costs more than any
    that was seen. Chosen are the h and λ under which centres are most likely by all others (Duin, 1976).

    Where columns are many and mostly noise, no row has near ones, and the best h blurs what structure there is. A level
    between or beyond those of the centres is as unlikely as the nearest of them is away, however regular the trend.
    """

    kind: ClassVar[str] = "kernel"
    is_density: ClassVar[bool] = True
    window: ClassVar[int] = 1
    sizes: ClassVar[tuple[str, ...]] = ()

    centres: Tensor
    """(m, D) with D = window · columns: training rows less `middle`."""
    middle: Tensor
    """(D,): mean of numeric columns, without which products would be too large for float32; 0 in the others."""
    frequency: Tensor
    """(D,): of ones in binary and one-hot columns."""
    distance: Tensor
    """(): the squared distance of neighbours, by column."""
    widening: Tensor
    """(): h² over that distance, one of those tried."""
    mismatch: Tensor
    """(): λ, one of those tried."""
    discrete: Tensor
    """(D,): which columns are binary or one-hot."""
    binary: Tensor
    """(D,)"""

    def __init__(self, layout: Layout, *, centres: int) -> None:
        super().__init__(layout, centres=centres)
        kinds = layout.window * [block.kind for block in layout.blocks for _ in range(block.width)]
        self.register_buffer("centres", torch.zeros(centres, len(kinds)))
        self.register_buffer("middle", torch.zeros(len(kinds)))
        self.register_buffer("frequency", torch.zeros(len(kinds)))
        for name in ("distance", "widening", "mismatch", "ordinary"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("discrete", torch.tensor([kind != "numeric" for kind in kinds]), persistent=False)
        self.register_buffer("binary", torch.tensor([kind == "binary" for kind in kinds]), persistent=False)

    def fit(
        self,
        x: Tensor,
        valid: Tensor,
        *,
        seed: int,
        start: GenerativeModel | None = None,
        progress: Progress = silent,
    ) -> FitReport:
        """Takes `centres` rows at random, or all where there are fewer, and puts their number into `arguments`. With
        `start`, draws from it join few rows, and only its bandwidths and those next to them are tried, by the distance
        of neighbours among these rows."""
        check_rows(self.layout, x, valid, needed=_MIN_ROWS)
        before = None if start is None else require_compatible(self, start)
        self._place(bounded(x if before is None else rehearsed(x, before, seed=seed)).flatten(1), seed)
        self.to(x.device).eval()
        tried = self._choose(before, progress)
        details: dict[str, float | int | str] = {
            "centres": len(self.centres),
            "bandwidth": float(self._bandwidth),
            "mismatch": float(self.mismatch),
            "iterations": tried,
        }
        return FitReport(float(scored(self, valid).mean()), details)

    def score(self, x: Tensor) -> Tensor:
        kernels, parts = self._kernels(), torch.split(bounded(x).flatten(1), _ROWS_AT_ONCE)
        return torch.cat([kernels.nats(rows, kernels.agreement(rows)) for rows in parts])

    def sample(self, n: int, *, seed: int) -> Tensor:
        generator, centres = seeded(seed), (self.centres + self.middle).cpu()
        centre = centres[torch.randint(len(centres), (n,), generator=generator)]
        noise = self._bandwidth.cpu() * torch.randn(centre.shape, generator=generator)
        x, chances = centre + noise, self._probabilities(centre.to(self.frequency)).cpu().clamp(0.0, 1.0)
        columns, widths = discrete_columns(self.layout)
        x[:, columns] = drawn(chances[:, columns], widths, generator)
        return x.view(n, self.layout.window, self.layout.columns)

    def _place(self, rows: Tensor, seed: int) -> None:
        """Takes what is no matter of choice from the rows (n, D)."""
        chosen = torch.randperm(len(rows), generator=seeded(seed))[: self.arguments["centres"]].to(rows.device)
        mean, discrete = rows.mean(0), self.discrete.to(rows.device)
        self.arguments = {**self.arguments, "centres": len(chosen)}
        self.middle, self.frequency = mean.masked_fill(discrete, 0.0), mean.masked_fill(~discrete, 0.0)
        self.centres = rows[chosen] - self.middle
        self.distance = self._distance_of_neighbours()

    def _choose(self, before: KernelMixture | None, progress: Progress) -> int:
        """Takes the bandwidth and mismatch under which centres are most likely by all others, and what is ordinary by
        that. Returns how many pairs were tried."""
        mismatches = _MISMATCHES if self.discrete.any() else _MISMATCHES[:1]
        pairs = torch.cartesian_prod(
            _near(_WIDENINGS, None if before is None else before.widening),
            _near(mismatches, None if before is None else before.mismatch),
        ).to(self.centres)
        nats = []
        for number, (widening, mismatch) in enumerate(pairs):
            progress(number / len(pairs), f"bandwidth {number + 1} of {len(pairs)}")
            self.widening, self.mismatch = widening, mismatch
            nats.append(self._left_out())
        by_pair = torch.stack(nats)
        best = by_pair.clamp_max(by_pair.quantile(1 - _OUTLYING, dim=1, keepdim=True)).mean(1).argmin()
        self.widening, self.mismatch = (part.clone() for part in pairs[best])
        self.ordinary = by_pair[best].quantile(ORDINARY)
        progress(1.0, "done")
        return len(pairs)

    def _distance_of_neighbours(self) -> Tensor:
        """(): the median squared distance of a centre to its `_NEIGHBOUR`th, by the numeric columns that vary."""
        own = self.centres[:, ~self.discrete].double()
        varying = max(1, int((own.amax(0) > own.amin(0)).sum()))
        nearest = torch.cdist(own[:_JUDGED], own).kthvalue(_NEIGHBOUR + 1).values  # the first is the row itself
        return (nearest.square().median() / varying).clamp_min(_LEAST_DISTANCE).to(self.centres)

    def _left_out(self) -> Tensor:
        """(judged,): the score of centres by all centres but themselves."""
        kernels, rows = self._kernels(), self.centres[:_JUDGED] + self.middle
        return kernels.nats(rows, kernels.agreement(rows).fill_diagonal_(-math.inf))

    @property
    def _bandwidth(self) -> Tensor:
        return (self.widening * self.distance).sqrt()

    def _kernels(self) -> _Kernels:
        precision = self._bandwidth.square().reciprocal().masked_fill(self.discrete, 0.0)
        miss_one, match_one = self._log_chances(self.frequency, self.discrete)
        miss_zero, match_zero = self._log_chances(1.0 - self.frequency, self.binary)
        return _Kernels(
            centres=self.centres,
            middle=self.middle,
            precision=precision,
            scale=precision + match_one - miss_one + match_zero - miss_zero,
            slope=miss_one - match_zero,
            level=(miss_zero - match_zero) * self.centres - 0.5 * precision * self.centres.square(),
            constant=match_zero.sum() - (~self.discrete).sum() * (2.0 * math.pi * self._bandwidth.square()).log() / 2.0,
        )

    def _log_chances(self, frequency: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """(D,) each: log K of a value of this frequency at a centre that has another and at one that has it; 0 in
        columns where it does not count."""
        unseen = -UNSEEN - 0.5 * (_UNSEEN_DISTANCE / self._bandwidth).square()
        miss = self.mismatch.log() + torch.where(frequency > 0, frequency.log(), unseen)
        match = (1.0 - self.mismatch + miss.exp()).log()
        return miss.masked_fill(~own, 0.0), match.masked_fill(~own, 0.0)

    def _probabilities(self, centre: Tensor) -> Tensor:
        """(n, D): of ones where the centre is this, or a mean of centres."""
        return (1.0 - self.mismatch) * centre + self.mismatch * self.frequency

    def _explained(self, x: Tensor) -> Explanation:
        """Replaces the fewest columns (one-hot blocks as a whole) that make the record as likely as normal ones are. A
        centre takes columns for independent, so that those which cost most there are the best to replace, for each
        number of them at the centre that comes nearest then; no search one by one is needed."""
        x, together = bounded(x), units(self.layout)
        replaced = torch.cat([self._fewest(rows, together) for rows in torch.split(x, _EXPLAINED_AT_ONCE)])
        current = self._with_expected(x, replaced)
        expected = torch.where(replaced, current[:, -1], self._expected(current, replaced))
        return Explanation(self._share(x, current, replaced, together), expected)

    def _fewest(self, x: Tensor, together: Tensor) -> Tensor:
        """(n, d): the columns that are replaced."""
        kernels, rows = self._kernels(), x.flatten(1)
        agreement = kernels.by_column(rows, self.layout.columns) @ together.T.to(x)
        cost, unit = (-agreement).topk(min(MAX_REPLACED, len(together)))  # (n, m, most)
        without = kernels.agreement(rows).unsqueeze(-1) + cost.cumsum(-1)
        order = unit[torch.arange(len(x)).unsqueeze(1), without.argmax(1)]  # (n, most, most): a row for each number
        counted = torch.ones(order.shape[1:], dtype=torch.bool).tril()
        sets = (together[order] & counted.unsqueeze(-1)).any(2)  # (n, most, d)
        trials = x.repeat_interleave(sets.shape[1], 0)
        nats = self.score(self._with_expected(trials, sets.flatten(0, 1))).view(sets.shape[:2])
        enough = nats <= self.ordinary
        return sets[torch.arange(len(x)), torch.where(enough.any(1), enough.int().argmax(1), nats.argmin(1))]

    def _expected(self, x: Tensor, replaced: Tensor) -> Tensor:
        """Replaced columns are set to those of the centre, of the nearest by the others, that makes the record most
        likely; from there all go to the mean of centres, weighted by their kernels: a step of mean shift (Fukunaga and
        Hostetler, 1975), which never makes a record less likely. The conditional mean, which is exact too, may lie
        between two modes, where nothing does."""
        kernels, rows, d = self._kernels(), x.flatten(1), self.layout.columns
        kept = torch.ones_like(rows)
        kept[:, -d:] = (~replaced).to(rows)
        nearest = kernels.agreement(rows, kept).topk(min(_CANDIDATES, len(self.centres))).indices
        tried = torch.where(kept.unsqueeze(1) > 0, rows.unsqueeze(1), self.centres[nearest] + self.middle)
        best = self.score(tried.flatten(0, 1)).view(nearest.shape).argmin(1)
        weights = kernels.agreement(tried[torch.arange(len(x)), best]).softmax(1)
        mean = weights @ self.centres + self.middle
        return torch.where(self.discrete, self._probabilities(mean), mean)[:, -d:]


class _Kernels(NamedTuple):
    """log K(x; c) of all columns and centres as one bilinear form in x and c, Gaussian or discrete: by column
    scale · x · c + slope · x + level − ½ precision x², where scale, slope and precision are (D,) and `level` (m, D) is
    each centre's own; and what is the same for all, `constant` ().
    """

    centres: Tensor
    middle: Tensor
    precision: Tensor
    scale: Tensor
    slope: Tensor
    level: Tensor
    constant: Tensor

    def agreement(self, rows: Tensor, kept: Tensor | None = None) -> Tensor:
        """(n, m): log kernels at rows (n, D), less what is the row's alone; of all columns, or of those kept (n, D)."""
        scaled, level = self.scale * (rows - self.middle), self.level.sum(1)
        if kept is not None:
            scaled, level = kept * scaled, kept @ self.level.T
        return torch.addmm(level, scaled, self.centres.T)

    def nats(self, rows: Tensor, agreement: Tensor) -> Tensor:
        """(n,): −log p of rows (n, D) from their agreement, which is used up."""
        own = rows - self.middle
        alone = own @ self.slope - 0.5 * own.square() @ self.precision
        most = agreement.amax(1, keepdim=True)
        likelihood = agreement.sub_(most).clamp_min_(_LEAST_EXPONENT).exp_().mean(1)
        return -self.constant - alone - most.squeeze(1) - likelihood.log()

    def by_column(self, rows: Tensor, last: int) -> Tensor:
        """(n, m, last): the log kernels in each of the last columns."""
        own = (rows - self.middle)[:, -last:]
        alone = self.slope[-last:] * own - 0.5 * self.precision[-last:] * own.square()
        return (
            alone.unsqueeze(1)
            + self.level[:, -last:]
            + (self.scale[-last:] * own).unsqueeze(1) * self.centres[:, -last:]
        )


def _near(tried: Sequence[float], known: Tensor | None) -> Tensor:
    """Those next to the known one and itself, or all."""
    if known is None:
        return torch.tensor(tried)
    at = int((torch.tensor(tried) - known.cpu()).abs().argmin())
    return torch.tensor(tried[max(0, at - 1) : at + 2])

"""Explanations of models that can say what they expect of some columns given the others."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from models.base import Explanation, GenerativeModel
from models.columns import units

MAX_REPLACED = 10
"""Columns that an explanation puts a record down to, at most."""
_TINY = 1e-12


class Replacing(GenerativeModel):
    """Replaces columns (one-hot blocks as a whole) one after another by what the model expects there given all columns
    not replaced, always the one that lowers the score most, until the record is as likely as normal ones are. A
    column's share is what it would cost to put it back alone: almost nothing for one that was replaced only because it
    did not go with corrupted ones.
    """

    ordinary: Tensor
    """(): the training score at which nothing is left to explain."""

    @abstractmethod
    def _expected(self, x: Tensor, replaced: Tensor) -> Tensor:
        """(n, d) of rows (n, window, d): what is expected of the replaced columns (n, d) of the record jointly, given
        the others, and of each other column given all the rest. One-hot blocks as probabilities."""

    def _rough_score(self, x: Tensor) -> Tensor:
        """(n,): what may stand for `score` where only the best of several replacements is looked for."""
        return self.score(x)

    def _explained(self, x: Tensor) -> Explanation:
        together = units(self.layout)
        current, score = x.clone(), self.score(x)
        replaced = torch.zeros(len(x), self.layout.columns, dtype=torch.bool)
        active = torch.arange(len(x))
        for _ in range(min(MAX_REPLACED, len(together))):
            tried = replaced[active] | together[self._best_unit(current[active], replaced[active], together)]
            trial = self._with_expected(current[active], tried)
            after = self.score(trial)
            better = after < score[active]
            active, tried, trial, after = active[better], tried[better], trial[better], after[better]
            current[active], score[active], replaced[active] = trial, after, tried
            active = active[after > self.ordinary]
            if not len(active):
                break
        expected = torch.where(replaced, current[:, -1], self._expected(current, replaced))
        return Explanation(self._share(x, current, replaced, together), expected)

    def _share(self, x: Tensor, current: Tensor, replaced: Tensor, units: Tensor) -> Tensor:
        """(n, d): what it costs to put each replaced unit back, spread over its columns by how much they change."""
        row, unit = (replaced.unsqueeze(1) & units).any(-1).nonzero().unbind(1)
        back = current[row]
        back[:, -1] = torch.where(units[unit], x[row, -1], back[:, -1])
        cost = self.score(self._with_expected(back, replaced[row] & ~units[unit])) - self.score(current)[row]
        change = ((x - current)[row, -1].abs() + _TINY) * units[unit]
        spread = change / change.sum(1, keepdim=True) * cost.clamp_min(0.0).unsqueeze(1)
        share = torch.full(replaced.shape, _TINY, dtype=x.dtype).index_add(0, row, spread)
        return share / share.sum(1, keepdim=True)

    def _best_unit(self, x: Tensor, replaced: Tensor, units: Tensor) -> Tensor:
        """(n,): the unit whose replacement makes the record most likely."""
        trials = x.unsqueeze(1).repeat(1, len(units), 1, 1)
        trials[:, :, -1] = torch.where(units, self._expected(x, replaced).unsqueeze(1), trials[:, :, -1])
        taken = (replaced.unsqueeze(1) & units).any(-1)
        return self._rough_score(trials.flatten(0, 1)).view(taken.shape).masked_fill(taken, math.inf).argmin(1)

    def _with_expected(self, x: Tensor, replaced: Tensor) -> Tensor:
        """x with the replaced columns of the record as they are expected."""
        x = x.clone()
        x[:, -1] = torch.where(replaced, self._expected(x, replaced), x[:, -1])
        return x

"""Binary columns and one-hot blocks: what their values cost, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNSEEN = 50.0
"""Nats that a value costs that no training row had: more than any usual record comes to, and still a number."""


class Discrete(nn.Module):
    """Bernoulli for each binary column, and a categorical distribution for each one-hot block after them.

    Raw outputs (..., k) of a network are added to the logits of the frequencies: with none a column is as frequent as
    it was, and a value that no training row had costs about `UNSEEN` nats, whatever a network makes of what it never
    met. A block none of whose columns is hot costs nothing.
    """

    frequency: Tensor
    """(k,): share of the training rows that have a one there."""
    prior: Tensor
    """(k,): log-odds, or in a one-hot block the logarithm, of that share, smoothed by half a row."""

    def __init__(self, widths: Sequence[int]) -> None:
        """`widths` are the number of binary columns, then the width of each block, as `discrete_columns` gives them."""
        super().__init__()
        self.widths = list(widths)
        self.register_buffer("frequency", torch.zeros(sum(widths)))
        self.register_buffer("prior", torch.zeros(sum(widths)))

    def count(self, values: Tensor) -> None:
        """Takes frequencies from rows (n, k) of zeros and ones."""
        rows, binary, seen = len(values), self.widths[0], values.sum(0).double()
        smoothed = (seen + 0.5) / (rows + 1)
        prior = torch.cat([smoothed[:binary].logit(), smoothed[binary:].log()])
        prior[seen == 0] = -UNSEEN
        prior[:binary][seen[:binary] == rows] = UNSEEN
        self.frequency.copy_(seen / rows)
        self.prior.copy_(prior)

    def costs(self, raw: Tensor, values: Tensor) -> Tensor:
        """(..., k) in nats; in a one-hot block of the hot column alone."""
        (odds, *blocks), (flags, *hot) = self._split(raw + self.prior), self._split(values)
        one_hot = [-own * logits.log_softmax(-1) for own, logits in zip(hot, blocks, strict=True)]
        return torch.cat([F.softplus(odds) - flags * odds, *one_hot], dim=-1)

    def probabilities(self, raw: Tensor) -> Tensor:
        """(..., k): of a one in each column."""
        odds, *blocks = self._split(raw + self.prior)
        return torch.cat([odds.sigmoid(), *(logits.softmax(-1) for logits in blocks)], dim=-1)

    def likeliest(self, raw: Tensor) -> Tensor:
        """(..., k): zeros and ones."""
        odds, *blocks = self._split(raw + self.prior)
        return torch.cat([(odds > 0).to(raw), *(_hot(logits.argmax(-1), logits) for logits in blocks)], dim=-1)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """(..., k): zeros and ones."""
        return drawn(self.probabilities(raw), self.widths, generator)

    def _split(self, columns: Tensor) -> tuple[Tensor, ...]:
        return torch.split(columns, self.widths, -1)


def drawn(probabilities: Tensor, widths: Sequence[int], generator: torch.Generator) -> Tensor:
    """(..., k) -> (..., k): zeros and ones, by the probability of a one in each of `widths[0]` binary columns and in
    the blocks after them, of which each gets a single one."""
    flags, *blocks = torch.split(probabilities, list(widths), -1)
    return torch.cat([flags.bernoulli(generator=generator), *(_hot(chosen(p, generator), p) for p in blocks)], dim=-1)


def chosen(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """(..., k) -> (...): one of the k for each."""
    return probabilities.flatten(0, -2).multinomial(1, generator=generator).view(probabilities.shape[:-1])


def _hot(chosen: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(chosen, like.shape[-1]).to(like)

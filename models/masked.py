"""Perceptrons whose outputs see some of the inputs (MADE: Germain et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedLinear(nn.Linear):
    """A linear layer whose weights count only where `mask` (outputs, inputs) is true."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def reset_parameters(self) -> None:
        """Leaves weights unset, and thereby the global random state alone."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.mask, self.bias)


def masked_perceptron(inputs: Sequence[int], outputs: Sequence[int], hidden: Sequence[int]) -> nn.Sequential:
    """Outputs of some degree (o,) see inputs (i,) of lower degrees alone.
    Degrees of hidden units are spread evenly from −1, of inputs that all may see, so that none goes short of units."""
    last = max(outputs, default=0) - 1.0
    degrees = [torch.tensor(inputs), *(torch.linspace(-1.0, last, width).round() for width in hidden)]
    layers: list[nn.Module] = []
    for below, above in pairwise(degrees):
        layers += [MaskedLinear(below <= above.unsqueeze(1)), nn.SiLU()]
    return nn.Sequential(*layers, MaskedLinear(degrees[-1] < torch.tensor(outputs).unsqueeze(1)))

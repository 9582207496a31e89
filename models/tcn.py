"""Temporal convolution: a causal model whose network is a stack of dilated convolutions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Layout
from models.causal import CausalModel
from models.causal_heads import Output
from models.fitting import perceptron

_TAPS = 3  # inputs of a convolution
_DILATIONS = (1, 2, 4)
_FIELD = 1 + (_TAPS - 1) * sum(_DILATIONS)  # 15 records


class TemporalConvolution(CausalModel):
    """Causal convolutions of three taps with dilations 1, 2 and 4 (Bai, Kolter and Koltun, 2018): each position sees
    the 15 records before it, and no more however long the window is.

    Cheap to score: of all positions only those are computed that feed the last one, 7, 3 and 1 of them by layer.
    """

    kind: ClassVar[str] = "tcn"
    sizes: ClassVar[tuple[str, ...]] = ("channels", "output")

    def __init__(self, layout: Layout, *, channels: int, output: Output, epochs: int) -> None:
        super().__init__(layout, hidden=channels, channels=channels, output=output, epochs=epochs)
        self.entrance = perceptron([_TAPS * layout.columns, channels])
        self.convolutions = nn.ModuleList(perceptron([_TAPS * channels, channels]) for _ in _DILATIONS[1:])

    def _encode(self, history: Tensor, last: bool) -> Tensor:
        """Before the first record it is repeated. With `last`, every layer skips each second position, so that the
        dilation of the next is 1 again."""
        n, p, _ = history.shape
        hidden = torch.cat([history[:, :1].expand(n, _FIELD - 1, -1), history], dim=1)[:, p - 1 if last else 0 :]
        for dilation, layer in zip(_DILATIONS, [self.entrance, *self.convolutions], strict=True):
            apart, stride = (1, 2) if last else (dilation, 1)
            reach = hidden.shape[1] - (_TAPS - 1) * apart
            taps = [hidden[:, tap * apart : tap * apart + reach : stride] for tap in range(_TAPS)]
            fresh = F.silu(layer(torch.cat(taps, dim=-1)))
            hidden = fresh if layer is self.entrance else taps[-1] + fresh
        return hidden

    def _innermost(self) -> nn.Module:
        return self.convolutions

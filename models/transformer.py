"""Transformer: a causal model whose network attends to all records of the window."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Layout
from models.causal import CausalModel
from models.causal_heads import Output
from models.fitting import perceptron

_WIDENING = 4  # of the perceptrons between attentions, as in the paper
_POSITION_DEVIATION = 0.02  # small beside the records, so that attention starts even


class CausalTransformer(CausalModel):
    """Layers of masked self-attention and perceptrons (Vaswani et al., 2017), each normalised before and added to what
    came in (Xiong et al., 2020, which trains without a slow start), with a learned vector for each position.

    Of the last layer only the last position is computed for a score. It needs more rows than convolutions do.
    """

    kind: ClassVar[str] = "transformer"
    sizes: ClassVar[tuple[str, ...]] = ("width", "heads", "layers", "output")

    def __init__(self, layout: Layout, *, width: int, heads: int, layers: int, output: Output, epochs: int) -> None:
        """Raises `ValueError` where the width cannot be shared evenly by the heads."""
        if width % heads:
            raise ValueError(f"Width {width} is not a multiple of {heads} heads. Expected one.")
        super().__init__(layout, hidden=width, width=width, heads=heads, layers=layers, output=output, epochs=epochs)
        self.entrance = perceptron([layout.columns, width])
        self.positions = nn.Parameter(torch.zeros(layout.window, width))
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def _encode(self, history: Tensor, last: bool) -> Tensor:
        hidden = self.entrance(history) + self.positions[: history.shape[1]]
        *inner, outer = self.layers
        for layer in inner:
            hidden = layer(hidden, last=False)
        encoded: Tensor = self.norm(outer(hidden, last))
        return encoded

    def _initialise(self, generator: torch.Generator) -> None:
        super()._initialise(generator)
        nn.init.normal_(self.positions, std=_POSITION_DEVIATION, generator=generator)

    def _innermost(self) -> nn.Module:
        return self.layers


class _Layer(nn.Module):
    """(n, p, width) -> (n, p, width), or of the last position alone (n, 1, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.attended, self.thought = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection = perceptron([width, 3 * width])
        self.joined = perceptron([width, width])
        self.perceptron = perceptron([width, _WIDENING * width, width])

    def forward(self, hidden: Tensor, last: bool) -> Tensor:
        asked, key, value = (
            part.unflatten(2, (self._heads, -1)).transpose(1, 2)  # (n, heads, p, width / heads)
            for part in self.projection(self.attended(hidden)).chunk(3, dim=-1)
        )
        if last:
            hidden, asked = hidden[:, -1:], asked[:, :, -1:]
        found = F.scaled_dot_product_attention(asked, key, value, is_causal=not last)
        hidden = hidden + self.joined(found.transpose(1, 2).flatten(2))
        thought: Tensor = self.perceptron(self.thought(hidden))
        return hidden + thought

"""What a causal model says of the numeric columns of the next record.

A head turns raw outputs of a network into costs, −log p in nats of each column given the records before. That of binary
and one-hot columns is `models.discrete`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from models.discrete import chosen
from models.regression import pooled_deviation

Output = Literal["gaussian", "mixture"]
Answer = tuple[Tensor, Tensor]
"""Raw outputs (n, outputs) and the innovations that came (n, k)."""

LEAST_DEVIATION = 0.01
"""Of a numeric column, which comes scaled to about 1: a residual of a hundredth is rounding, not news."""

_COMPONENTS = 3  # of a mixture: enough for two modes and a wide tail
_LOG_SPREAD = (-3.0, 2.0)  # of a mixture's components, about the linear model's deviation: none is a spike or a blanket
_LOG_ROOT = 0.5 * math.log(2 * math.pi)


class Gaussian(nn.Module):
    """N(z | m, σ²) for the innovation z of each of k columns: m from the network, one σ a column for all records.

    A σ that the network sets for each record forgives what comes after a disturbance, and finds fewer events.
    """

    log_spread: Tensor
    """(k,): log σ."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.outputs = columns
        self.register_buffer("log_spread", torch.zeros(columns))

    def start(self) -> Tensor:
        """(outputs,): raw outputs with which training starts."""
        return torch.zeros(self.outputs)

    def settle(self, training: Answer, held_back: Answer, least: Tensor) -> None:
        """Measures σ after a training; `least` (k,) is the smallest allowed."""
        misses, later = (z - raw for raw, z in (training, held_back))
        self.log_spread.copy_(torch.maximum(pooled_deviation(misses, later.square().mean(0)), least).log())

    def costs(self, raw: Tensor, z: Tensor) -> Tensor:
        """(..., k)"""
        return 0.5 * ((z - raw) * (-self.log_spread).exp()).square() + self.log_spread + _LOG_ROOT

    def likeliest(self, raw: Tensor) -> Tensor:
        """(..., k): where the density is highest."""
        return raw

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """(..., k)"""
        return raw + self.log_spread.exp() * torch.randn(raw.shape, generator=generator)


class Mixture(nn.Module):
    """Σ wᵢ N(z | mᵢ, σᵢ²) for the innovation z of each of k columns, with w, m and σ from the network (mixture density
    network: Bishop, 1994). For columns that jump between levels; its σᵢ widen after a disturbance, which hides what
    goes on long."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.outputs = 3 * _COMPONENTS * columns

    def start(self) -> Tensor:
        """(outputs,): raw outputs with which training starts; components differ, or they would stay the same."""
        apart = torch.linspace(-1.0, 1.0, _COMPONENTS)
        return torch.cat([torch.zeros(_COMPONENTS), 0.5 * apart, apart]).repeat(self.columns)

    def settle(self, training: Answer, held_back: Answer, least: Tensor) -> None:
        """Nothing is measured: the network says it all."""

    def costs(self, raw: Tensor, z: Tensor) -> Tensor:
        """(..., k)"""
        log_weight, mean, log_spread = self._components(raw)
        squares = ((z.unsqueeze(-1) - mean) * (-log_spread).exp()).square()
        return _LOG_ROOT - (log_weight - log_spread - 0.5 * squares).logsumexp(-1)

    def likeliest(self, raw: Tensor) -> Tensor:
        """(..., k): the component's mean where the density is highest."""
        mean = self._components(raw)[1]
        costs = torch.stack([self.costs(raw, centre) for centre in mean.unbind(-1)], dim=-1)
        return mean.gather(-1, costs.argmin(-1, keepdim=True)).squeeze(-1)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """(..., k)"""
        log_weight, mean, log_spread = self._components(raw)
        component = chosen(log_weight.exp(), generator).unsqueeze(-1)
        own, spread = mean.gather(-1, component).squeeze(-1), log_spread.gather(-1, component).squeeze(-1).exp()
        return own + spread * torch.randn(own.shape, generator=generator)

    def _components(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of weights, means and logarithms of deviations, (..., k, components) each."""
        logits, mean, log_spread = raw.view(*raw.shape[:-1], self.columns, 3 * _COMPONENTS).chunk(3, dim=-1)
        return logits.log_softmax(-1), mean, log_spread.clamp(*_LOG_SPREAD)


HEADS: Mapping[str, type[Gaussian] | type[Mixture]] = {"gaussian": Gaussian, "mixture": Mixture}

"""Which columns of a layout go together."""

from __future__ import annotations

import torch
from torch import Tensor

from models.base import Layout

FAR = 20.0
"""Spreads from the middle beyond which a value is as far as any to models of what goes together: a single wild column
would hide all others, and few calibration rows tell how wild is usual."""


def bounded(x: Tensor) -> Tensor:
    """x with no value beyond `FAR`."""
    return x.clamp(-FAR, FAR)


def discrete_columns(layout: Layout) -> tuple[list[int], list[int]]:
    """Flattened indices of the binary, then the one-hot columns; the number of binary ones, then each block's width."""
    binary: list[int] = []
    one_hot: list[range] = []
    for position in range(layout.window):
        for block, columns in layout.slices():
            own = range(position * layout.columns + columns.start, position * layout.columns + columns.stop)
            if block.kind == "binary":
                binary += own
            elif block.kind == "categorical":
                one_hot.append(own)
    return binary + [index for block in one_hot for index in block], [len(binary), *map(len, one_hot)]


def units(layout: Layout) -> Tensor:
    """(units, d): the columns of a record that are replaced together."""
    found: list[Tensor] = []
    every = torch.eye(layout.columns, dtype=torch.bool)
    for block, columns in layout.slices():
        own = every[columns]
        found.append(own.any(0, keepdim=True) if block.kind == "categorical" else own)
    return torch.cat(found)

"""Fitted models on their device: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.base import GenerativeModel

Rows = TypeVar("Rows", Tensor, NDArray[np.float32])
Device = Literal["auto", "cpu", "cuda", "mps"]

_LEAST_ROWS = 16
_MOST_ROWS = {"cpu": 1024}  # in a bucket: what models make of them still fits a processor's cache
_MOST_ROWS_ELSEWHERE = 32_768  # enough to fill a GPU
_MOST_VALUES = 1 << 19  # in a bucket, which bounds the memory that long windows take


def resolve_device(name: Device) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there. Raises `ValueError` for one that was named and is not."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in present.items() if there))
    if not present[name]:
        there = ", ".join(device for device, is_there in present.items() if is_there)
        raise ValueError(f"Device '{name}' was asked for, and torch {torch.__version__} finds none. Present: {there}.")
    return torch.device(name)


class Scorer:
    """Several fitted models that score the same rows. Moves the models it is given to its device; not thread-safe."""

    def __init__(self, models: Mapping[str, GenerativeModel], device: Device) -> None:
        self.device = resolve_device(device)
        self._models = {name: model.to(self.device).eval() for name, model in models.items()}
        self._precise = {name: model.precise() for name, model in self._models.items()}

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, window, d) -> (models, n), in the order of the models.

        Rows are scored in buckets of a few fixed sizes, filled up with zeros, so that shapes repeat. They cross to the
        device once, and their scores come back once.
        """
        most = _MOST_ROWS.get(self.device.type, _MOST_ROWS_ELSEWHERE)
        buckets = _buckets(len(x), x.shape[1] * x.shape[2], most)
        with torch.inference_mode():
            rows = self._staged(x, sum(buckets)).to(self.device, non_blocking=True)
            parts = torch.split(rows, buckets)
            scores = [torch.cat([model.score(_own(model, part)) for part in parts]) for model in self._models.values()]
            return torch.stack(scores)[:, : len(x)].cpu().numpy()

    def explain(self, name: str, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Share and expected value, (n, d) each, of every column of the records x[:, -1] by one of the models."""
        with torch.inference_mode():
            share, expected = self._precise[name].explain(torch.tensor(_own(self._precise[name], x)))
            return share.numpy(), expected.numpy()

    def _staged(self, x: NDArray[np.float32], rows: int) -> Tensor:
        """x and zero rows after it, on the host; pinned where that lets a copy to the device run on its own."""
        staged = torch.zeros(rows, *x.shape[1:], pin_memory=self.device.type == "cuda")
        staged.numpy()[: len(x)] = x
        return staged


def _own(model: GenerativeModel, x: Rows) -> Rows:
    """The part of windows (n, window, d) that the model looks at, which may be shorter than what others need."""
    return x[:, x.shape[1] - model.layout.window :]


def _buckets(n: int, width: int, most: int) -> list[int]:
    """Sizes, `most` at the most, that hold n rows of so many values: the largest as often as it is filled, then a power
    of two."""
    largest = min(most, max(_LEAST_ROWS, _power_of_two(_MOST_VALUES // width + 1) // 2))
    full, rest = divmod(n, largest)
    return [largest] * full + [max(_LEAST_ROWS, _power_of_two(rest))] * (rest > 0 or full == 0)


def _power_of_two(least: int) -> int:
    """The first that is at least so large."""
    return 1 << max(0, least - 1).bit_length()

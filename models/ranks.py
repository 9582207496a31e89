"""What a training loop needs to know of the other processes that go through it: which rows of a batch are its own,
noise for these, and the mean over all. Alone, a process has the whole batch, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


class RankLost(RuntimeError):
    """Another process of the group cannot be reached any more."""


class Part(NamedTuple):
    """One of so many stretches of equal length that a batch is shared out in."""

    number: int = 0
    parts: int = 1

    @classmethod
    def own(cls) -> Part:
        """That of this process: the whole, where it is alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def of(self, batch: Tensor) -> Tensor:
        """The rows of this part of a whole batch."""
        return batch.chunk(self.parts)[self.number]


class Noise(NamedTuple):
    """Random numbers for the rows of a part: those that they get where the whole batch is in one place, so that a
    result does not depend on how many share it. They are drawn on the CPU, which costs little beside a gradient."""

    generator: torch.Generator
    part: Part = Part()

    def normal(self, rows: int, *shape: int) -> Tensor:
        """(rows, ...): standard normal."""
        return self._own(torch.randn, rows, shape)

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """(rows, ...): between 0 and 1."""
        return self._own(torch.rand, rows, shape)

    def _own(self, draw: Callable[..., Tensor], rows: int, shape: tuple[int, ...]) -> Tensor:
        return self.part.of(draw(rows * self.part.parts, *shape, generator=self.generator))


def align(model: nn.Module) -> None:
    """Everything learned or measured as rank 0 has it: of the same rows, another make of processor makes axes of other
    signs, and gradients with respect to these would be averaged with gradients that mean something else."""
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            with reaching_others():
                dist.broadcast(tensor, 0)


def averaged(value: Tensor, moved: Sequence[Tensor]) -> Tensor:
    """The loss () as the mean over all ranks, whose parts of the batch are equal, and the gradients of these parameters
    likewise. A number that is not finite on one rank is not finite on any.

    One vector is sent for all. `DistributedDataParallel` would hook into a `forward` that losses do not go through,
    and wait for gradients of weights that a tuning leaves as they are.
    """
    if not dist.is_initialized():
        return value
    gradients = [weight.grad for weight in moved if weight.grad is not None]
    vector = parameters_to_vector([value.detach().view(1), *gradients])
    _total(vector).div_(dist.get_world_size())
    vector_to_parameters(vector[1:], gradients)
    return vector[0]


def rolled(x: Tensor) -> Tensor:
    """Of each row (n, ...) the one before it in the whole batch; of the first the last."""
    part = Part.own()
    if part.parts == 1:
        return x.roll(1, 0)
    last = x.new_zeros(part.parts, *x.shape[1:])
    last[part.number] = x[-1]
    return torch.cat([_total(last)[part.number - 1].unsqueeze(0), x[:-1]])


@contextmanager
def reaching_others() -> Iterator[None]:
    """Raises `RankLost` where another rank does not answer."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RankLost(f"Rank {dist.get_rank()} of {dist.get_world_size()} lost another one: {reason}") from error


def _total(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    with reaching_others():
        dist.all_reduce(tensor)
    return tensor

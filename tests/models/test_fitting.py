"""The training loop, on a line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.base import seeded, silent
from models.fitting import initialise, train


def line(n: int) -> Tensor:
    """(n, 2): x and 3x + 1."""
    x = torch.randn(n, 1, generator=seeded(1))
    return torch.cat([x, 3 * x + 1], 1)


def model() -> nn.Linear:
    linear = nn.Linear(1, 1)
    initialise(linear, seeded(1))
    return linear


def squares(linear: nn.Linear, rows: Tensor) -> Tensor:
    error: Tensor = linear(rows[:, :1]) - rows[:, 1:]
    return error.square().mean()


def test_training_finds_the_minimum() -> None:
    linear = model()
    train(linear, lambda rows, *_: squares(linear, rows), line(2560), line(100), epochs=99, seed=0, progress=silent)
    assert float(squares(linear, line(100)).detach()) < 0.1


def test_no_more_epochs_are_trained_than_asked_for() -> None:
    linear = model()
    assert (
        train(linear, lambda rows, *_: squares(linear, rows), line(600), line(9), epochs=2, seed=0, progress=silent)
        == 6
    )


def test_when_held_back_rows_stop_gaining_the_best_weights_come_back() -> None:
    linear = model()
    held_back = line(100) * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, float(linear.bias.detach())])
    before = linear.weight.detach().clone()
    looks: list[float] = []

    def loss(rows: Tensor, noise: torch.Generator, share: float) -> Tensor:
        if not torch.is_grad_enabled():
            looks.append(float((linear.weight - before).abs()))
        return squares(linear, rows)

    steps = train(linear, loss, line(2560), held_back, epochs=99, seed=0, progress=silent)
    assert steps < 990
    assert float((linear.weight.detach() - before).abs()) == min(looks)
    assert looks[-1] > min(looks)


def test_a_loss_that_is_no_number_is_refused() -> None:
    linear = model()
    with pytest.raises(ValueError, match="diverged at step 1 of 99: the loss is nan"):
        train(
            linear,
            lambda rows, *_: squares(linear, rows) * torch.nan,
            line(99),
            line(9),
            epochs=99,
            seed=0,
            progress=silent,
        )


def test_a_held_back_loss_that_is_no_number_is_refused() -> None:
    linear = model()
    with pytest.raises(ValueError, match="diverged at step 1 of 1"):
        train(
            linear,
            lambda rows, *_: squares(linear, rows) * (1.0 if torch.is_grad_enabled() else torch.inf),
            line(99),
            line(9),
            epochs=1,
            seed=0,
            progress=silent,
        )

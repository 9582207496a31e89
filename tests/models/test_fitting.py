"""The training loop, on a line, and rows that are rehearsed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from models.base import Block, Layout, seeded, silent
from models.fitting import initialise, rehearsed, train
from models.gmm import GaussianMixture
from models.ranks import Noise


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

    def loss(rows: Tensor, noise: Noise, share: float) -> Tensor:
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


def tuned(layers: nn.Sequential, outermost: list[nn.Parameter], rows: Tensor) -> list[list[Tensor]]:
    """The parameters before each of 20 steps, and after the last."""
    states: list[list[Tensor]] = []

    def loss(batch: Tensor, noise: Noise, share: float) -> Tensor:
        if torch.is_grad_enabled():
            states.append([parameter.detach().clone() for parameter in layers.parameters()])
            assert share == 1.0
        error: Tensor = layers(batch[:, :1]) - batch[:, 1:]
        return error.square().mean()

    train(layers, loss, rows, rows, epochs=40, seed=0, outermost=outermost, progress=silent)
    return [*states, [parameter.detach().clone() for parameter in layers.parameters()]]


def test_tuning_takes_half_the_steps_and_moves_inner_layers_after_a_fifth_of_them() -> None:
    layers = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1))
    initialise(layers, seeded(1))
    inner, outer = list(layers[0].parameters()), list(layers[2].parameters())
    states = tuned(layers, outer, line(200))
    assert len(states) == 21
    for step, (earlier, later) in enumerate(pairwise(states[:-1]), 1):
        same = [torch.equal(*pair) for pair in zip(earlier, later, strict=True)]
        assert same == [step <= 4] * len(inner) + [False] * len(outer)


def test_tuning_brings_the_weights_it_began_with_back_where_none_are_better() -> None:
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(3.0)
        linear.bias.fill_(1.0)
    noisy = line(200) + torch.randn(200, 2, generator=seeded(2)) * torch.tensor([0.0, 5.0])
    train(
        linear,
        lambda rows, *_: squares(linear, rows),
        noisy,
        line(100),
        epochs=99,
        seed=0,
        outermost=list(linear.parameters()),
        progress=silent,
    )
    assert (float(linear.weight.detach()), float(linear.bias.detach())) == (3.0, 1.0)


@pytest.fixture(scope="module")
def normal() -> GaussianMixture:
    model = GaussianMixture(Layout((Block("load", "numeric"),)), components=1, max_components=1, covariance="full")
    rows = torch.randn(2000, 1, 1, generator=seeded(1))
    model.fit(rows, rows, seed=0)
    return model


def test_few_rows_are_filled_up_with_draws_of_what_they_resemble(normal: GaussianMixture) -> None:
    rows = torch.randn(60, 1, 1, generator=seeded(2))
    filled = rehearsed(rows, normal, seed=0)
    assert torch.equal(filled, torch.cat([rows, normal.sample(940, seed=0)]))


def test_few_rows_unlike_what_was_known_stay_alone(normal: GaussianMixture) -> None:
    rows = 3.0 + torch.randn(60, 1, 1, generator=seeded(2))
    assert torch.equal(rehearsed(rows, normal, seed=0), rows)


def test_rows_enough_stay_alone(normal: GaussianMixture) -> None:
    rows = torch.randn(1000, 1, 1, generator=seeded(2))
    assert torch.equal(rehearsed(rows, normal, seed=0), rows)

"""What is particular to the linear autoregression."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.ar import LinearAutoregression
from models.base import Block, Layout, seeded

WINDOW = 5


def windows(records: Tensor, window: int = WINDOW) -> Tensor:
    """(n - window + 1, window, d) out of records (n, d) in order of time."""
    return records.unfold(0, window, 1).transpose(1, 2).contiguous()


def walk(n: int, seed: int) -> Tensor:
    """(n, 2): x_t = 0.8 x_{t-1} + 0.3 ε, and y_t = x_{t-1} + 0.1 ε."""
    noise = torch.randn(n, 2, generator=seeded(seed))
    records = torch.zeros(n, 2)
    for t in range(1, n):
        records[t, 0] = 0.8 * records[t - 1, 0] + 0.3 * noise[t, 0]
        records[t, 1] = records[t - 1, 0] + 0.1 * noise[t, 1]
    return records


def fitted(records: Tensor, *blocks: Block) -> LinearAutoregression:
    x = windows(records)
    cut = int(0.9 * len(x))
    model = LinearAutoregression(Layout(blocks, window=WINDOW))
    model.fit(x[:cut], x[cut:], seed=0)
    return model


def test_a_process_that_is_linear_is_found() -> None:
    model, x = fitted(walk(4000, 1), Block("load", "numeric", 2)), windows(walk(500, 2))
    torch.testing.assert_close(model.sigma, torch.tensor([0.3, 0.1]), rtol=0.06, atol=0)
    expected = torch.stack([0.8 * x[:, -2, 0], x[:, -2, 0]], dim=1)
    torch.testing.assert_close(model.explain(x).expected, expected, rtol=0, atol=0.06)
    truth = 0.5 * ((x[:, -1] - expected) / torch.tensor([0.3, 0.1])).square().sum(1) + math.log(0.3 * 0.1 * 2 * math.pi)
    assert (model.score(x) - truth).abs().mean() < 0.2


def test_of_noise_nothing_is_forecast() -> None:
    records = torch.randn(400, 8, generator=seeded(1))
    model = fitted(records, Block("load", "numeric", 8))
    assert model.coefficients.abs().mean() < 0.01


def test_a_number_of_two_values_costs_what_its_jumps_are_worth() -> None:
    generator, state, states = seeded(1), 0, []
    for _ in range(3000):
        state ^= int(torch.rand((), generator=generator) < 0.05)
        states.append(float(state))
    valve = torch.tensor(states)
    model = fitted(torch.stack([valve, torch.randn(3000, generator=generator)], 1), Block("valve", "numeric", 2))
    assert model.switching.tolist() == [True, False]
    x = torch.zeros(3, WINDOW, 2)
    x[1, -1, 0], x[2, -1, 0] = 1.0, 0.5
    stays, jumps, neither = model.score(x).tolist()
    assert jumps - stays == pytest.approx(math.log(0.95 / 0.05), abs=0.3)
    assert neither - stays > 25


def test_where_a_switch_is_at_neither_value_for_good_that_is_told_once() -> None:
    model = fitted(torch.tensor([0.0, 1.0]).repeat(300).unsqueeze(1), Block("valve", "numeric"))
    x = torch.full((1, WINDOW, 1), 0.5)
    assert model.score(x) < 3
    x[:, :-1] = 0.0
    assert model.score(x) > 25


@pytest.mark.parametrize(("columns", "window"), [(1, 5), (38, 5), (128, 5), (200, 3), (600, 2)])
def test_of_many_columns_fewer_records_are_looked_at(columns: int, window: int) -> None:
    assert LinearAutoregression.natural_window(columns) == window

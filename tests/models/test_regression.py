from __future__ import annotations

import pytest
import torch

from models.base import seeded
from models.regression import pooled_deviation, ridge

INPUTS = torch.randn(200, 3, generator=seeded(1), dtype=torch.float64) + 5.0
SLOPES = torch.tensor([[2.0, 0.0], [0.0, -1.0], [0.5, 0.0]], dtype=torch.float64)
NOISE = torch.randn(200, 2, generator=seeded(2), dtype=torch.float64)
TARGETS = INPUTS @ SLOPES + 7.0 + 0.1 * NOISE


def test_each_penalty_gives_what_the_normal_equations_give() -> None:
    found, centred = ridge(INPUTS, TARGETS, [0.1, 50.0]), INPUTS - INPUTS.mean(0)
    for penalty, weights, level in zip([0.1, 50.0], found.weights, found.levels, strict=True):
        system = centred.T @ centred + penalty * torch.eye(3)
        torch.testing.assert_close(weights, torch.linalg.solve(system, centred.T @ (TARGETS - TARGETS.mean(0))))
        torch.testing.assert_close(INPUTS.mean(0) @ weights + level, TARGETS.mean(0))


def test_a_large_penalty_leaves_what_the_weights_are_drawn_towards() -> None:
    towards = torch.full((3, 2), 0.3, dtype=torch.float64)
    torch.testing.assert_close(ridge(INPUTS, TARGETS, [1e12]).weights[0], torch.zeros_like(towards))
    torch.testing.assert_close(ridge(INPUTS, TARGETS, [1e12], towards).weights[0], towards)
    beyond = ridge(INPUTS, TARGETS - INPUTS @ towards, [50.0]).weights[0]
    torch.testing.assert_close(ridge(INPUTS, TARGETS, [50.0], towards).weights[0], towards + beyond)


def test_columns_that_are_the_same_share_the_weight() -> None:
    doubled = INPUTS[:, [0, 0]]
    weights = ridge(doubled, TARGETS[:, :1], [1e-3]).weights[0]
    torch.testing.assert_close(weights[0], weights[1])


def test_of_no_input_the_level_is_the_mean() -> None:
    found = ridge(INPUTS[:, :0], TARGETS, [1.0])
    assert found.weights.shape == (1, 0, 2)
    torch.testing.assert_close(found.levels[0], TARGETS.mean(0))


def test_errors_are_mean_squares_of_what_is_missed() -> None:
    found = ridge(INPUTS, TARGETS, [1e-6, 1e12])
    exact, none = found.errors(INPUTS, TARGETS)
    torch.testing.assert_close(exact, 0.01 * NOISE.var(0), rtol=0.05, atol=0)
    torch.testing.assert_close(none, TARGETS.var(0, correction=0))


def test_each_target_has_a_penalty_of_its_own() -> None:
    found = ridge(INPUTS, TARGETS, [1.0, 100.0])
    weights, level = found.chosen(torch.tensor([1, 0]))
    torch.testing.assert_close(weights, torch.stack([found.weights[1, :, 0], found.weights[0, :, 1]], dim=1))
    torch.testing.assert_close(level, torch.stack([found.levels[1, 0], found.levels[0, 1]]))


def test_one_deviation_is_pooled_from_both_kinds_of_rows() -> None:
    training, later = torch.tensor([[1.0], [3.0]]), torch.tensor([[7.0], [-1.0]])
    assert float(pooled_deviation(training, later.square().mean(0))) == pytest.approx(13.0**0.5)  # variances 1 and 25

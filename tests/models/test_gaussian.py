from __future__ import annotations

import pytest
import torch

from models.base import seeded
from models.gaussian import excess, factor, principal
from models.replacing import MAX_REPLACED

MIXING = torch.randn(4, 4, generator=seeded(1), dtype=torch.float64)
ROWS = torch.randn(3000, 4, generator=seeded(2), dtype=torch.float64) @ MIXING + 3.0


def test_along_principal_axes_columns_are_apart_and_have_the_variances_told() -> None:
    axes = principal(ROWS, least=1e-4)
    turned = (ROWS - axes.mean) @ axes.directions
    torch.testing.assert_close(turned.T.cov(correction=0), axes.variances.diag(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(axes.deviations.square(), axes.variances + axes.ridge)
    torch.testing.assert_close(axes.ridge, 0.01 * axes.variances.mean())


@pytest.mark.parametrize("width", [0, 3])
def test_where_nothing_varies_the_ridge_is_the_least(width: int) -> None:
    axes = principal(torch.ones(10, width), least=0.5)
    assert float(axes.ridge) == pytest.approx(0.005)
    torch.testing.assert_close(axes.deviations, torch.full((width,), 0.005**0.5))


def test_the_factor_gives_draws_the_covariance_of_the_rows() -> None:
    root, covariance = factor(ROWS), ROWS.T.cov(correction=0)
    assert torch.equal(root, root.tril())
    torch.testing.assert_close(root @ root.T, covariance + 1e-3 * covariance.diagonal().diag())


def test_columns_that_are_the_same_or_never_change_have_a_factor() -> None:
    assert factor(torch.cat([ROWS[:, [0, 0]], torch.ones(3000, 1)], dim=1)).isfinite().all()


def test_of_a_gaussian_it_is_what_columns_have_beyond_their_conditional_means() -> None:
    precision = torch.linalg.inv(MIXING.T @ MIXING)
    x = ROWS[:1] - 3.0
    replaced = torch.tensor([[True, False, True, False]])
    own, others = [0, 2], [1, 3]
    beyond = excess(x @ precision, precision, replaced)
    covariance = MIXING.T @ MIXING
    mean = x[:, others] @ torch.linalg.solve(covariance[others][:, others], covariance[others][:, own])
    torch.testing.assert_close(x[:, own] - beyond[:, own], mean)
    mended = torch.where(replaced, x - beyond, x)
    for column in others:
        rest = [it for it in range(4) if it != column]
        slope = torch.linalg.solve(covariance[rest][:, rest], covariance[rest][:, column])
        torch.testing.assert_close(x[:, column] - beyond[:, column], mended[:, rest] @ slope)


def test_columns_that_are_not_gaussian_have_none() -> None:
    precision = torch.diag(torch.tensor([2.0, 0.0]))
    beyond = excess(torch.tensor([[4.0, 1.0]]), precision, torch.tensor([[False, True]]))
    assert beyond.tolist() == [[2.0, 0.0]]


def test_more_columns_than_may_be_replaced_are_finite() -> None:
    width = MAX_REPLACED + 2
    beyond = excess(torch.ones(1, width), torch.eye(width), torch.ones(1, width, dtype=torch.bool))
    assert beyond.sum() == MAX_REPLACED

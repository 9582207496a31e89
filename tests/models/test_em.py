"""The table that a mixture is fitted on."""

from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage  # type: ignore[import-untyped]  # scikit-learn ships no types
from torch import Tensor

from models.base import Block, Layout, seeded
from models.em import (
    Mixture,
    Shape,
    Table,
    by_k_means,
    expectation_maximisation,
    log_joint,
    maximised,
    prior,
    standardised,
)

every_shape = pytest.mark.parametrize("shape", ["full", "diag", "tied"])


def numeric(rows: Tensor) -> Table:
    return standardised(rows.double().unsqueeze(1), Layout((Block("load", "numeric", rows.shape[1]),)))


def normal_rows(n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=seeded(1))


def matrix(covariance: Tensor) -> Tensor:
    return covariance if covariance.dim() == 2 else covariance.diag()


def test_draws_of_a_mixture_that_leave_a_flag_below_zero_are_no_harm() -> None:
    x = torch.full((60, 1, 1), -0.1, dtype=torch.float64)
    table = standardised(x, Layout((Block("failed", "binary"),)))
    assert table.rows.isfinite().all()
    assert float(table.mean) == 0.5 / 61


@every_shape
def test_with_far_more_rows_than_columns_a_covariance_is_that_of_its_rows(shape: Shape) -> None:
    table = numeric(normal_rows(20_000, 3) @ torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [0.0, 0.0, 1.0]]))
    found = maximised(table.rows, torch.ones(20_000, 1).double(), prior(table, shape), shape)
    own = table.rows.T.cov()
    expected = own.diagonal().diag() if shape == "diag" else own
    torch.testing.assert_close(matrix(found.covariances[0]), expected, rtol=0, atol=0.02)


def test_a_component_of_one_row_is_as_wide_as_what_the_components_have_in_common() -> None:
    table = numeric(normal_rows(2000, 4))
    shares = torch.zeros(2000, 2).double()
    shares[:, 0], shares[0] = 1.0, torch.tensor([0.0, 1.0])
    found = maximised(table.rows, shares, prior(table, "full"), "full")
    widths = torch.linalg.eigvalsh(found.covariances[1])
    assert 0.5 < widths.min() < widths.max() < 1.2


def test_the_covariance_is_the_mode_under_the_inverse_wishart_prior() -> None:
    table = numeric(normal_rows(300, 3))
    known, shares = prior(table, "full"), torch.rand(300, 2, generator=seeded(2)).double().softmax(1)
    found = maximised(table.rows, shares, known, "full")
    away = table.rows.unsqueeze(1) - found.means
    scatter = torch.einsum("nk,nki,nkj->kij", shares, away, away)
    common = scatter.sum(0) / 300
    common = (1 - known.shrinkage) * common + known.shrinkage * common.trace() / 3 * torch.eye(3)
    expected = (scatter + 2.0 * common) / (shares.sum(0).view(2, 1, 1) + 2.0) + known.floor
    torch.testing.assert_close(found.covariances, expected)


@pytest.mark.parametrize("shape", ["full", "tied"])
def test_fewer_rows_than_columns_leave_no_direction_without_variance(shape: Shape) -> None:
    table = numeric(normal_rows(20, 40))
    found = maximised(table.rows, torch.ones(20, 1).double(), prior(table, shape), shape)
    assert torch.linalg.eigvalsh(found.covariances).min() > 0.05


def test_columns_that_copy_each_other_are_no_harm() -> None:
    table = numeric(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).repeat(50, 1))
    found = maximised(table.rows, torch.ones(100, 1).double(), prior(table, "full"), "full")
    assert torch.linalg.eigvalsh(found.covariances).min() > 1e-6
    assert log_joint(table.rows, found).isfinite().all()


@pytest.mark.parametrize("n", [40, 400])
def test_the_intensity_of_shrinkage_is_that_of_ledoit_and_wolf(n: int) -> None:
    table = numeric(normal_rows(n, 5) @ torch.full((5, 5), 0.5).add(torch.eye(5)))
    assert prior(table, "full").shrinkage == pytest.approx(ledoit_wolf_shrinkage(table.rows.numpy()))


@every_shape
def test_components_that_are_points_keep_a_share_of_the_tables_variance(shape: Shape) -> None:
    table = numeric(torch.eye(3).repeat(100, 1))
    found = maximised(table.rows, by_k_means(table.rows, 3, seed=0), prior(table, shape), shape)
    whole = matrix(table.rows.T.cov() if shape != "diag" else table.rows.var(0))
    for covariance in found.covariances:
        torch.testing.assert_close(matrix(covariance), 0.01 * whole, rtol=0, atol=1e-3)


@every_shape
def test_an_iteration_makes_rows_no_less_likely_and_the_last_ones_hardly_more(shape: Shape) -> None:
    table = numeric(normal_rows(900, 2) + 6.0 * torch.eye(3, 2)[torch.arange(900) % 3])
    known = prior(table, shape)
    start = maximised(table.rows, (table.rows @ torch.eye(2, 3).double()).softmax(1), known, shape)
    found, taken = expectation_maximisation(table.rows, start, known, shape)

    def likelihood(mixture: Mixture) -> float:
        return float(log_joint(table.rows, mixture).logsumexp(1).mean())

    assert 1 < taken <= 20
    assert likelihood(found) > likelihood(start) + 0.1


def test_clusters_without_rows_of_their_own_stay_empty() -> None:
    rows = torch.tensor([[0.0], [1.0]]).double().repeat(20, 1)
    assert by_k_means(rows, 4, seed=0).sum(0).sort().values.tolist() == [0.0, 0.0, 20.0, 20.0]

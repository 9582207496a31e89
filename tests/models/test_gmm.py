"""What is particular to the Gaussian mixture; the rest stands in `tests/contracts/test_models.py`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from models.base import Block, Layout, seeded
from models.em import standardised
from models.gmm import GaussianMixture

Covariance = Literal["full", "diag", "tied"]
PLANE = Layout((Block("position", "numeric", 2),))


def mixture(layout: Layout, components: int | None = None, covariance: Covariance = "full") -> GaussianMixture:
    return GaussianMixture(layout, components=components, max_components=8, covariance=covariance)


def clusters(n: int) -> Tensor:
    """(n, 1, 2): four far apart, on uneven scales."""
    generator = seeded(1)
    centre = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    rows = centre[torch.arange(n) % 4] + torch.randn(n, 2, generator=generator)
    return (rows * torch.tensor([0.3, 1.5])).unsqueeze(1)


def test_the_number_of_clusters_is_found_and_arguments_remember_it() -> None:
    model, (rows, later) = mixture(PLANE), torch.split(clusters(1000), [800, 200])
    report = model.fit(rows, later, seed=0)
    assert report.details["components"] == 4
    assert model.arguments["components"] == 4
    torch.testing.assert_close(model.weights, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_no_more_components_are_tried_than_allowed() -> None:
    model = GaussianMixture(PLANE, components=None, max_components=3, covariance="full")
    assert model.fit(clusters(800), clusters(80), seed=0).details["components"] == 2


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_the_score_is_the_mixtures_negative_log_density(covariance: Covariance) -> None:
    model, rows = mixture(PLANE, 4, covariance), clusters(800)
    model.fit(rows, rows, seed=0)
    density = torch.zeros(50, dtype=torch.float64)
    for k in range(4):
        unit = model._coloured(torch.eye(2), k).double()
        normal = multivariate_normal(model.means[k].double().numpy(), (unit.T @ unit).numpy())
        density += float(model.weights[k]) * torch.from_numpy(np.asarray(normal.pdf(rows[:50, 0].numpy())))
    torch.testing.assert_close(model.score(rows[:50]).double(), -density.log(), rtol=1e-4, atol=1e-4)


def test_what_was_expected_is_the_conditional_expectation() -> None:
    generator = seeded(1)
    cause = torch.randn(4000, 1, generator=generator)
    rows = torch.cat([cause, 0.8 * cause + 0.6 * torch.randn(4000, 1, generator=generator)], 1).unsqueeze(1)
    model = mixture(PLANE, 1)
    model.fit(rows, rows, seed=0)
    share, expected = model.explain(torch.tensor([[[1.0, -6.0]]]))
    assert float(share[0, 1]) > 0.9
    assert float(expected[0, 1]) == pytest.approx(0.8, abs=0.05)


def test_an_unseen_flag_costs_about_as_many_nats_as_there_were_rows() -> None:
    model = mixture(Layout((Block("load", "numeric"), Block("failed", "binary"))), 1)
    rows = torch.cat([torch.randn(500, 1, 1, generator=seeded(1)), torch.zeros(500, 1, 1)], -1)
    model.fit(rows, rows, seed=0)
    flagged = torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]])
    normal, unseen = model.score(flagged).tolist()
    assert 400 < unseen - normal < 600


def test_the_most_frequent_category_costs_the_same_whether_set_or_not() -> None:
    layout = Layout((Block("zone", "categorical", 3),))
    zone = torch.multinomial(torch.tensor([0.2, 0.7, 0.1]), 500, replacement=True, generator=seeded(1))
    rows = torch.nn.functional.one_hot(zone, 3).float().unsqueeze(1)
    model = mixture(layout, 1)
    model.fit(rows, rows, seed=0)
    frequent, none = model.score(torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])).tolist()
    assert model.reference.tolist() == [False, True, False]
    assert frequent == pytest.approx(none)
    assert model.explain(rows[:9]).expected.sum(1) == pytest.approx(1.0)


def test_the_number_of_components_is_that_under_which_later_rows_are_likeliest() -> None:
    rows = clusters(800)
    later = (torch.randn(200, 1, 2, generator=seeded(2)) * rows.std(0)) + rows.mean(0)  # between the clusters
    assert mixture(PLANE).fit(rows, later, seed=0).details["components"] == 1


def test_a_few_later_rows_that_are_anomalies_do_not_choose() -> None:
    rows, later = torch.split(clusters(1000), [800, 200])
    later[:2] = 400.0 * torch.randn(2, 1, 2, generator=seeded(2)).sign()
    assert mixture(PLANE).fit(rows, later, seed=0).details["components"] == 4


@pytest.mark.parametrize(("width", "covariance", "most"), [(100, "full", 4), (300, "full", 1), (100, "tied", 8)])
def test_wide_records_are_given_fewer_full_components(width: int, covariance: Covariance, most: int) -> None:
    model = mixture(Layout((Block("load", "numeric", width),)), covariance=covariance)
    assert model._sizes(rows=1000)[-1] == most


def test_more_rows_than_are_needed_do_not_change_what_is_reported() -> None:
    model, rows = mixture(PLANE, 1), clusters(12_000)
    assert model.fit(rows, rows[:50], seed=0).details["rows"] == 8_000


@pytest.mark.parametrize("width", [32, 33, 70])
def test_a_wide_record_scores_as_its_whitened_columns_say(width: int) -> None:
    layout = Layout((Block("load", "numeric", width),), window=1)
    x = torch.randn(600, 1, width, generator=seeded(2)) @ torch.randn(width, width, generator=seeded(3)) / width**0.5
    model = GaussianMixture(layout, components=2, max_components=2, covariance="full")
    model.fit(x[:500], x[500:], seed=0)
    whitened = model._whitened(x.flatten(1)).square().sum(-1)
    torch.testing.assert_close(model.score(x), -model._log_joint(whitened).logsumexp(-1), rtol=1e-4, atol=1e-3)


def test_from_a_start_as_many_components_are_fitted_as_it_has() -> None:
    start = mixture(PLANE, 2)
    start.fit(clusters(800), clusters(80), seed=0)
    model = mixture(PLANE)
    assert model.fit(clusters(800), clusters(80), seed=0, start=start).details["components"] == 2
    assert model.arguments["components"] == 2


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_on_the_same_rows_each_component_stays_where_it_was(covariance: Covariance) -> None:
    start, model, rows = mixture(PLANE, 4, covariance), mixture(PLANE, 4, covariance), clusters(1200)
    start.fit(rows, rows, seed=0)
    report = model.fit(rows, rows, seed=1, start=start)  # k-means of another seed would number them otherwise
    assert report.details["iterations"] == 2
    torch.testing.assert_close(model.means, start.means, rtol=0, atol=0.001)
    torch.testing.assert_close(model.score(rows), start.score(rows), rtol=0, atol=0.02)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_a_component_that_no_row_supports_begins_anew_where_rows_are(covariance: Covariance) -> None:
    start, model = mixture(PLANE, 4, covariance), mixture(PLANE, 4, covariance)
    start.fit(clusters(800), clusters(80), seed=0)
    moved = clusters(1600)
    moved[::4] += torch.tensor([6.0, 16.0])  # the first of four clusters, to beyond all others
    model.fit(moved[:1200], moved[1200:], seed=0, start=start)
    nearest = torch.cdist(moved[::4].mean(0), model.means)
    assert float(nearest.min()) < 0.5
    torch.testing.assert_close(model.weights, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_a_start_finds_its_components_again_where_another_category_is_left_out() -> None:
    layout = Layout((Block("zone", "categorical", 2), Block("heat", "numeric")))
    generator = seeded(1)

    def rows(share: float) -> Tensor:
        second = torch.rand(1200, 1, generator=generator) < share
        heat = torch.where(second, 4.0, 0.0) + torch.randn(1200, 1, generator=generator)
        return torch.cat([1.0 - second.float(), second.float(), heat], 1).unsqueeze(1)

    start, model = mixture(layout, 2), mixture(layout, 2)
    start.fit(rows(0.3), rows(0.3), seed=0)
    model.fit(rows(0.7), rows(0.7), seed=0, start=start)
    assert start.reference.tolist() == [True, False, False]
    assert model.reference.tolist() == [False, True, False]
    x = rows(0.7).double()
    known = start.precise()._mixture(x, standardised(x, layout), seed=0)
    assert known.means[:, 1].tolist() == [0.0, 0.0]  # a column that is left out says nothing
    assert known.covariances[:, 1].tolist() == [[0.0, 1.0, 0.0]] * 2
    torch.testing.assert_close(model.means[:, 2], start.means[:, 2], rtol=0, atol=0.2)
    assert sorted(model.weights.tolist()) == pytest.approx([0.3, 0.7], abs=0.05)


@pytest.mark.parametrize(
    ("components", "covariance", "message"),
    [(3, "full", "components 2. Expected 3"), (None, "tied", "covariance full. Expected tied")],
)
def test_a_start_of_another_size_is_refused(components: int | None, covariance: Covariance, message: str) -> None:
    start = mixture(PLANE, 2)
    start.fit(clusters(80), clusters(80), seed=0)
    with pytest.raises(ValueError, match=message):
        mixture(PLANE, components, covariance).fit(clusters(80), clusters(80), seed=0, start=start)

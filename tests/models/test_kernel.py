"""What is particular to the kernel mixture; the rest stands in `tests/contracts/test_models.py`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.base import Block, Layout, seeded
from models.kernel import _MISMATCHES, _WIDENINGS, KernelMixture

LINE = Layout((Block("level", "numeric"),))
PLANE = Layout((Block("position", "numeric", 2),))
MIXED = Layout((Block("failed", "binary"), Block("level", "numeric"), Block("zone", "categorical", 3)))


def fitted(layout: Layout, rows: Tensor, centres: int = 4000) -> KernelMixture:
    model = KernelMixture(layout, centres=centres)
    model.fit(rows, rows[:50], seed=0)
    return model


def spread(n: int, seed: int) -> Tensor:
    """(n, 1, 2): dense on one side, thin on the other."""
    return torch.randn(n, 1, 2, generator=seeded(seed)).exp()


def two_levels(n: int) -> Tensor:
    """(n, 1, 1): at −5 and at 5."""
    return 5.0 * (torch.arange(n) % 2 * 2 - 1).view(n, 1, 1) + torch.randn(n, 1, 1, generator=seeded(1))


def mixed_rows(n: int) -> Tensor:
    """(n, 1, 5): the level says the zone, mostly; the third zone never occurs."""
    generator = seeded(1)
    zone = (torch.rand(n, generator=generator) < 0.3).long()
    failed = (torch.rand(n, generator=generator) < 0.1 + 0.5 * zone).float()
    level = 2.0 * zone + torch.randn(n, generator=generator)
    one_hot = torch.nn.functional.one_hot(zone, 3).float()
    return torch.cat([failed[:, None], level[:, None], one_hot], 1).unsqueeze(1)


def test_the_score_is_the_mean_of_products_of_kernels() -> None:
    rows, x = mixed_rows(300), mixed_rows(400)[300:].double()[:, 0]
    model = fitted(MIXED, rows)
    centres, h, mismatch = rows.double()[:, 0], float(model._bandwidth), float(model.mismatch)
    frequency = centres.mean(0)
    gaussian = (-0.5 * ((x[:, None, 1] - centres[:, 1]) / h).square()).exp() / (h * math.sqrt(2 * math.pi))
    chance = torch.where(x[:, 0] > 0, frequency[0], 1 - frequency[0])
    flag = (1 - mismatch) * (x[:, None, 0] == centres[:, 0]) + mismatch * chance[:, None]
    zone = (1 - mismatch) * (x[:, 2:] @ centres[:, 2:].T) + mismatch * (x[:, 2:] @ frequency[2:])[:, None]
    density = (gaussian * flag * zone).mean(1)
    torch.testing.assert_close(model.score(x.float().unsqueeze(1)).double(), -density.log(), rtol=1e-4, atol=1e-4)


def test_over_all_flags_and_zones_the_density_is_that_of_the_level() -> None:
    rows = mixed_rows(300)
    model, alone = fitted(MIXED, rows), KernelMixture(LINE, centres=4000)
    alone.fit(rows[..., 1:2], rows[:50, :, 1:2], seed=0)
    alone.distance, alone.widening = model.distance, model.widening
    every = torch.cat([torch.tensor([[f, 0.5, *zone]]) for f in (0.0, 1.0) for zone in torch.eye(3).tolist()])
    total = model.score(every.unsqueeze(1)).neg().exp().sum()
    torch.testing.assert_close(total.log(), -alone.score(torch.tensor([[[0.5]]]))[0])


def test_of_the_bandwidths_the_one_is_chosen_that_makes_other_rows_but_for_outliers_most_likely() -> None:
    model, others = fitted(PLANE, spread(1000, 1)), spread(4000, 2)
    chosen, nats = float(model.widening), []
    for widening in _WIDENINGS:
        model.widening = torch.tensor(widening)
        score = model.score(others)
        nats.append(float(score.clamp_max(score.quantile(0.98)).mean()))
    assert nats[[pytest.approx(chosen) == one for one in _WIDENINGS].index(True)] < min(nats) + 0.05
    assert min(nats[0], nats[-1]) > min(nats) + 0.05


@pytest.mark.parametrize(("linked", "mismatch"), [(True, _MISMATCHES[0]), (False, _MISMATCHES[-1])])
def test_discrete_columns_are_as_strict_as_they_follow_from_the_others(linked: bool, mismatch: float) -> None:
    layout = Layout((Block("level", "numeric"), Block("failed", "binary")))
    rows = two_levels(600)
    failed = (rows > 0).float() if linked else (torch.rand(rows.shape, generator=seeded(3)) < 0.5).float()
    assert float(fitted(layout, torch.cat([rows, failed], -1)).mismatch) == pytest.approx(mismatch)


def test_no_more_centres_are_taken_than_asked_for_and_arguments_remember_how_many() -> None:
    assert fitted(PLANE, spread(500, 1), centres=200).arguments == {"centres": 200}
    assert fitted(PLANE, spread(150, 1), centres=200).arguments == {"centres": 150}


def test_what_was_expected_lies_where_rows_are_and_not_between_them() -> None:
    expected = fitted(LINE, two_levels(1000)).explain(torch.tensor([[[0.3]], [[9.0]]])).expected
    assert ((expected.abs() - 5.0).abs() < 1.5).all()


def test_what_was_expected_goes_with_the_columns_that_stay() -> None:
    generator = seeded(1)
    cause = torch.randn(2000, 1, generator=generator)
    rows = torch.cat([cause, 0.95 * cause + 0.3 * torch.randn(2000, 1, generator=generator)], 1).unsqueeze(1)
    share, expected = fitted(PLANE, rows).explain(torch.tensor([[[1.0, -6.0]]]))
    assert float(share[0, 1]) > 0.9
    assert float(expected[0, 1]) == pytest.approx(0.95, abs=0.6)


def test_the_fewest_columns_are_replaced() -> None:
    layout = Layout((Block("load", "numeric", 6),))
    cause = torch.randn(2000, 1, generator=seeded(1))
    rows = (cause + 0.2 * torch.randn(2000, 6, generator=seeded(2))).unsqueeze(1)
    x = rows[:20].clone()
    x[:, 0, :2] -= 4.0  # greedily, one would not be worth replacing without the other
    share = fitted(layout, rows).explain(x).share
    assert (share[:, :2].sum(1) > 0.95).all()
    assert (share[:, :2] > 0.2).all()


def test_rows_far_from_zero_score_as_they_do_near_it() -> None:
    rows, others = spread(500, 1).clamp_max(4.0), spread(300, 2).clamp_max(4.0)
    near, far = fitted(PLANE, rows), fitted(PLANE, rows + 15.0)
    torch.testing.assert_close(far.score(others + 15.0), near.score(others), rtol=1e-3, atol=1e-3)


def test_a_value_never_seen_is_beyond_rows_that_narrow_kernels_hardly_reach() -> None:
    rows = mixed_rows(2000)
    rows[..., 1] *= 0.1
    model, unseen, outlying = fitted(MIXED, rows), rows[:50].clone(), rows[:50].clone()
    unseen[..., 2:] = torch.tensor([0.0, 0.0, 1.0])
    outlying[..., 1] += 2.0
    assert model.score(unseen).min() > model.score(outlying).max() + 10


def test_from_a_start_only_the_bandwidths_next_to_its_own_are_tried() -> None:
    start, model = fitted(MIXED, mixed_rows(1200)), KernelMixture(MIXED, centres=300)
    start.widening, start.mismatch = torch.tensor(_WIDENINGS[0]), torch.tensor(_MISMATCHES[1])
    report = model.fit(mixed_rows(1200), mixed_rows(50), seed=0, start=start)
    assert report.details["iterations"] == 2 * 3
    assert report.details["centres"] == 300
    assert float(model.widening) == pytest.approx(_WIDENINGS[1])

"""What is particular to normalising flows; the rest stands in `tests/contracts/test_models.py`."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from models.base import Block, Layout, seeded
from models.flow import NormalisingFlow

MIXED = Layout((Block("position", "numeric", 3), Block("failed", "binary"), Block("zone", "categorical", 3)))
every_transform = pytest.mark.parametrize("transform", ["maf", "nsf"])


def rows(n: int, seed: int) -> Tensor:
    """(n, 1, 7): a bent surface that the zone moves; a failure comes with the last zone."""
    generator = seeded(seed)
    zone = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True, generator=generator)
    failed = ((zone == 2) & (torch.rand(n, generator=generator) < 0.5)).float()
    x = torch.randn(n, 3, generator=generator)
    x[:, 1] = x[:, 0].square() - 1.0 + 0.2 * x[:, 1] + zone
    return torch.cat([x, failed[:, None], torch.nn.functional.one_hot(zone, 3).float()], dim=1).unsqueeze(1)


def flow(transform: Literal["maf", "nsf"], layout: Layout = MIXED, epochs: int = 20) -> NormalisingFlow:
    return NormalisingFlow(layout, transform=transform, transforms=3, hidden=[32], epochs=epochs)


@pytest.fixture(scope="module")
def fitted() -> dict[str, NormalisingFlow]:
    models = {"maf": flow("maf", epochs=60), "nsf": flow("nsf")}
    for model in models.values():
        model.fit(rows(2000, 1), rows(300, 2), seed=0)
    return {name: model.precise() for name, model in models.items()}


def test_importing_it_leaves_argument_checks_on() -> None:
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


@every_transform
def test_from_z_the_way_leads_back_to_x(fitted: dict[str, NormalisingFlow], transform: str) -> None:
    model, x = fitted[transform], rows(200, 3).double().flatten(1)
    with torch.no_grad():
        z, _ = model._base(x)
        torch.testing.assert_close(model._unbent(z, x), model._whitened(x), rtol=1e-6, atol=1e-6)
    assert (z - model._whitened(x)).abs().max() > 0.5


@every_transform
def test_the_density_is_that_of_z_times_the_jacobian(fitted: dict[str, NormalisingFlow], transform: str) -> None:
    model, x = fitted[transform], rows(5, 3).double()
    for row in x:
        jacobian = torch.func.jacrev(model.embed)(row.unsqueeze(0)).flatten(0, 2)[:, 0, :3]
        with torch.no_grad():
            z = model.embed(row.unsqueeze(0))
            density = 0.5 * z.square().sum() + 1.5 * math.log(2 * math.pi) - jacobian.slogdet().logabsdet
            numeric = model.score(row.unsqueeze(0)) - model._discrete_surprise(row)
        torch.testing.assert_close(numeric, density.view(1), rtol=1e-6, atol=1e-6)


@every_transform
def test_in_z_no_bend_is_left(fitted: dict[str, NormalisingFlow], transform: str) -> None:
    def bend(values: Tensor) -> float:
        """Largest correlation of one column with the square of another."""
        return float(torch.cat([values, values.square()], dim=1).T.corrcoef()[:3, 3:].fill_diagonal_(0.0).abs().max())

    model, x = fitted[transform], rows(2000, 3).double()
    with torch.no_grad():
        assert bend(model._whitened(x.flatten(1))) > 0.5
        assert bend(model.embed(x)) < 0.3


def test_probabilities_of_all_discrete_values_add_up_to_one(fitted: dict[str, NormalisingFlow]) -> None:
    values = torch.cat([torch.eye(2).repeat_interleave(3, 0)[:, 1:], torch.eye(3).repeat(2, 1)], dim=1).double()
    with torch.no_grad():
        cost = fitted["maf"]._discrete_surprise(torch.cat([torch.zeros(6, 3).double(), values], dim=1))
    assert float(cost.neg().exp().sum()) == pytest.approx(1.0)
    assert float(cost[3]) > float(cost[5]) + 2.0  # a failure in the first zone never occurs, in the last it does


def test_training_beats_the_gaussian_it_starts_from(fitted: dict[str, NormalisingFlow]) -> None:
    gaussian, x = flow("maf"), rows(2000, 3)
    gaussian._initialise(seeded(0))
    gaussian._measure(rows(2000, 1))
    with torch.no_grad():
        for model in fitted.values():
            assert model.score(x.double()).mean() < gaussian.score(x).mean() - 0.5


def test_few_rows_leave_it_near_that_gaussian() -> None:
    layout, x = Layout((Block("load", "numeric", 8),)), torch.randn(1060, 1, 8, generator=seeded(1))
    model = flow("maf", layout, epochs=200)
    model.fit(x[:50], x[50:60], seed=0)
    gaussian = flow("maf", layout)
    gaussian._initialise(seeded(0))
    gaussian._measure(x[:50])
    with torch.no_grad():
        assert model.score(x[60:]).mean() < gaussian.score(x[60:]).mean() + 0.5


@pytest.mark.parametrize(
    "layout",
    [Layout((Block("load", "numeric"),)), Layout((Block("on", "binary"), Block("zone", "categorical", 3)), window=2)],
    ids=["one number", "no number"],
)
@every_transform
def test_layouts_at_the_edge_are_fitted(layout: Layout, transform: Literal["maf", "nsf"]) -> None:
    x = torch.zeros(80, layout.window, layout.columns)
    x[:40, :, 0] = 1.0
    if layout.columns > 1:
        x[:, :, 1] = 1.0
    model = flow(transform, layout, epochs=5)
    model.fit(x[10:], x[:10], seed=0)
    assert model.score(x).isfinite().all()
    assert model.explain(x[:3]).expected.isfinite().all()
    assert model.sample(5, seed=1).shape == (5, layout.window, layout.columns)


def test_tuning_moves_the_map_next_to_the_data_first(fitted: dict[str, NormalisingFlow]) -> None:
    start, model = flow("maf"), flow("maf")
    start.load_state_dict(fitted["maf"].state_dict())
    at: list[dict[str, Tensor]] = []

    def told(fraction: float, message: str) -> None:
        at.append({name: tensor.clone() for name, tensor in model.named_parameters()})

    model.fit(rows(6000, 11), rows(300, 12), seed=0, start=start, progress=told)
    for name, parameter in start.named_parameters():
        inner = name.startswith(("conditioners.1", "conditioners.2"))
        assert torch.equal(at[0][name], parameter) == inner


def test_rows_distributed_as_before_look_as_before(fitted: dict[str, NormalisingFlow]) -> None:
    start, model, x = fitted["nsf"], flow("nsf"), rows(2000, 21)
    model._initialise(seeded(0))
    model._measure(x)
    model._carry(start, x)
    torch.testing.assert_close(model.whitening.double(), start.whitening, rtol=0, atol=0.25)


def test_where_a_start_knows_nothing_of_use_the_fit_is_one_from_nothing(fitted: dict[str, NormalisingFlow]) -> None:
    start, warm, cold, x = flow("maf"), flow("maf"), flow("maf"), rows(1000, 31)
    start.load_state_dict(fitted["maf"].state_dict())
    x[..., 1] *= -1.0
    x[..., 4:] = x[..., 4:].roll(1, dims=-1)
    assert warm.fit(x, x[:99], seed=0, start=start) == cold.fit(x, x[:99], seed=0)

"""What is particular to the autoencoder; what it shares with the variational one is tested there and in
`tests/contracts/test_models.py`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.base import Block, Layout, seeded

BAR = Layout((Block("position", "numeric", 4),))
CLUSTERED = Layout((Block("state", "categorical", 3), Block("load", "numeric")))


def bar(n: int) -> Tensor:
    """(n, 1, 4): two hidden causes and a little noise."""
    causes = torch.randn(n, 1, 2, generator=seeded(1))
    mixing = torch.tensor([[1.0, 0.5, 0.0, -0.5], [0.0, 0.5, 1.0, 0.5]])
    return causes @ mixing + 0.1 * torch.randn(n, 1, 4, generator=seeded(2))


def clustered(n: int) -> Tensor:
    """(n, 1, 4): the state sets the load."""
    state = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), n, replacement=True, generator=seeded(1))
    load = 2.0 * (state.float() - 0.4) + 0.1 * torch.randn(n, generator=seeded(2))
    return torch.cat([torch.nn.functional.one_hot(state, 3).float(), load.unsqueeze(1)], 1).unsqueeze(1)


def reconstruction(model: Autoencoder, x: Tensor) -> Tensor:
    return model._surprise(*model._parts(x), model.embed(x))


@pytest.fixture(scope="module")
def on_a_bar() -> Autoencoder:
    model = Autoencoder(BAR, latent=2, hidden=[32], epochs=60)
    model.fit(bar(2000), bar(2400)[2000:], seed=0)
    return model


@pytest.mark.parametrize(
    ("columns", "window", "asked", "latent"), [(4, 1, 8, 2), (4, 4, 8, 8), (4, 4, 9, 8), (1, 1, 8, 1), (6, 1, 2, 2)]
)
def test_the_code_has_at_most_half_as_many_dimensions_as_the_window_has_columns(
    columns: int, window: int, asked: int, latent: int
) -> None:
    layout = Layout((Block("position", "numeric", columns),), window)
    model = Autoencoder(layout, latent=asked, hidden=[8], epochs=1)
    x = torch.randn(40, window, columns, generator=seeded(1))
    report = model.fit(x, x, seed=0)
    assert model.arguments["latent"] == report.details["latent"] == latent
    assert model.embed(x).shape == (40, latent)


def test_codes_have_mean_zero_and_unit_covariance_up_to_the_ridge(on_a_bar: Autoencoder) -> None:
    with torch.inference_mode():
        codes = on_a_bar.embed(bar(2000))
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(codes.T.cov(), torch.eye(2), rtol=0, atol=0.03)


def test_bringing_codes_to_unit_covariance_leaves_what_is_decoded_as_it_was(on_a_bar: Autoencoder) -> None:
    model, rows = copy.deepcopy(on_a_bar), bar(300)
    with torch.no_grad():
        [*model.encoder.parameters()][-1].add_(5.0)
        before, codes = reconstruction(model, rows), model.embed(rows)
        model._settle(rows, 0)
        assert not torch.allclose(model.embed(rows), codes, atol=1.0)
        torch.testing.assert_close(reconstruction(model, rows), before, rtol=1e-3, atol=1e-3)


def test_the_score_is_what_the_row_costs_given_its_code_and_what_the_code_costs(on_a_bar: Autoencoder) -> None:
    rows = bar(50)
    with torch.inference_mode():
        code = on_a_bar.embed(rows)
        cost = on_a_bar.density.score(code.unsqueeze(1))
        torch.testing.assert_close(on_a_bar.score(rows), reconstruction(on_a_bar, rows) + cost)


def test_a_row_decoded_from_an_uncommon_code_is_reconstructed_well_and_unlikely(on_a_bar: Autoencoder) -> None:
    rows = bar(500)
    with torch.inference_mode():
        centre, _ = on_a_bar._decode(torch.tensor([[4.5, 0.0], [0.0, -4.5]]))
        out = ((centre - on_a_bar.shift) @ on_a_bar.colouring).unsqueeze(1)
        assert (reconstruction(on_a_bar, out) < reconstruction(on_a_bar, rows).quantile(0.95)).all()
        assert (on_a_bar.score(out) > on_a_bar.score(rows).quantile(0.95)).all()


def test_samples_of_clusters_lie_in_the_clusters() -> None:
    model = Autoencoder(CLUSTERED, latent=2, hidden=[32], epochs=100)
    model.fit(clustered(2000), clustered(2400)[2000:], seed=0)
    drawn = model.sample(4000, seed=1)[:, 0]
    torch.testing.assert_close(drawn[:, :3].mean(0), torch.tensor([0.7, 0.2, 0.1]), rtol=0, atol=0.04)
    off = (drawn[:, 3] - 2.0 * (drawn[:, :3].argmax(1).float() - 0.4)).abs()
    assert off.quantile(0.9) < 0.5

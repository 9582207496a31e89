"""What is particular to the adversarial network; the rest stands in `tests/contracts/test_models.py`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import gan
from models.base import Block, Layout, seeded
from models.gan import AdversarialNetwork
from models.ranks import Noise

PLANE = Layout((Block("position", "numeric", 2),))
FLAGGED = Layout((Block("load", "numeric"), Block("failed", "binary"), Block("on", "binary")))


def network(layout: Layout, latent: int = 2) -> AdversarialNetwork:
    return AdversarialNetwork(layout, latent=latent, hidden=[32], epochs=60)


def curve(n: int) -> Tensor:
    """(n, 1, 2) along a parabola: far from any single Gaussian."""
    x = torch.randn(n, 1, 1, generator=seeded(1))
    return torch.cat([x, x.square() - 1.0], -1) + 0.2 * torch.randn(n, 1, 2, generator=seeded(2))


def off_the_curve(x: Tensor) -> float:
    return float((x[:, -1, 1] - x[:, -1, 0].square() + 1.0).abs().median())


@pytest.fixture(scope="module")
def on_a_curve() -> AdversarialNetwork:
    model = network(PLANE)
    model.fit(curve(2000), curve(2400)[2000:], seed=0)
    return model


def test_under_the_penalty_the_critic_measures_how_far_pairs_are_apart() -> None:
    real = torch.randn(256, 3, generator=seeded(1))
    drawn = real + torch.tensor([3.0, 0.0, -4.0])
    critic, noise = gan._Critic([3, 16, 1], seed=0, device=torch.device("cpu")), Noise(seeded(2))
    for _ in range(150):
        critic.learn(real, drawn, noise)
    steepest = 1.0 + 5.0 / (2.0 * gan._PENALTY)  # where 5 slope − λ (slope − 1)² is largest
    assert float(critic.gap(real, drawn).detach()) == pytest.approx(5.0 * steepest, rel=0.1)


def test_draws_lie_where_rows_do(on_a_curve: AdversarialNetwork) -> None:
    rows = curve(2000).flatten(1)
    gaussian = torch.randn(2000, 2, generator=seeded(3)) @ torch.linalg.cholesky(rows.T.cov()).T + rows.mean(0)
    drawn = on_a_curve.sample(2000, seed=1)
    assert off_the_curve(drawn) < 0.6 * off_the_curve(gaussian.unsqueeze(1))


def test_codes_are_as_the_prior_has_them(on_a_curve: AdversarialNetwork) -> None:
    with torch.inference_mode():
        codes = on_a_curve.embed(curve(2000))
    assert codes.mean(0).abs().max() < 0.3
    assert 0.7 < float(codes.std(0)) < 1.3


def test_what_lies_within_the_bend_is_unlikely(on_a_curve: AdversarialNetwork) -> None:
    with torch.inference_mode():
        assert on_a_curve.score(torch.tensor([[[0.0, 1.0]]])) > on_a_curve.score(curve(500)).median() + 1.0


def test_variances_are_those_of_what_training_rows_lose(on_a_curve: AdversarialNetwork) -> None:
    with torch.inference_mode():
        lost, lost_code, _ = on_a_curve._errors(curve(2000))
    torch.testing.assert_close(lost.square().mean(0), on_a_curve.log_variance.detach().exp(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(lost_code.square().mean(0).clamp_min(gan._CODE_NOISE**2), on_a_curve.code_variance)


def test_draws_have_the_codes_of_training_rows(on_a_curve: AdversarialNetwork) -> None:
    model = network(PLANE)
    model.load_state_dict(on_a_curve.state_dict())
    with torch.no_grad():
        weight, bias = list(model.encoder.parameters())[-2:]
        weight.mul_(2.0)
        bias.add_(3.0)
        model._settle(curve(2000), seed=0)
        codes, drawn = model.embed(curve(2000)), model._prior_codes(20_000, seeded(1))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.std(0), (codes.var(0) + gan._CODE_NOISE**2).sqrt(), rtol=0, atol=0.05)


def test_a_code_that_does_not_come_back_costs(on_a_curve: AdversarialNetwork) -> None:
    wider = network(PLANE)
    wider.load_state_dict(on_a_curve.state_dict())
    wider.code_variance *= 100.0
    with torch.inference_mode():
        assert (wider.score(curve(500)) < on_a_curve.score(curve(500))).all()


def test_the_critic_learns_from_training_rows_alone() -> None:
    model = network(PLANE)
    model._measure(curve(200))
    model._initialise(seeded(0))
    model._critic = gan._Critic([3, 32, 1], seed=0, device=torch.device("cpu"))
    before = [weight.clone() for weight in model._critic._network.parameters()]
    with torch.no_grad():
        model._loss(curve(200), Noise(seeded(1)), 1.0)
    assert all(map(torch.equal, model._critic._network.parameters(), before))
    model._loss(curve(200), Noise(seeded(1)), 1.0)
    assert not any(map(torch.equal, list(model._critic._network.parameters())[::2], before[::2]))


def test_the_critic_is_no_part_of_the_model(on_a_curve: AdversarialNetwork) -> None:
    refused = network(PLANE)
    with pytest.raises(ValueError, match="Too few training rows: 3"):
        refused.fit(curve(3), curve(9), seed=0)
    assert not hasattr(refused, "_critic")
    assert not hasattr(on_a_curve, "_critic")
    assert set(on_a_curve.state_dict()) == set(network(PLANE).state_dict())


def test_a_game_that_diverges_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan, "_CRITIC_RATE", 1e30)
    with pytest.raises(ValueError, match=r"Training diverged at step \d+ of"):
        network(PLANE).fit(curve(500), curve(100), seed=0)


def test_what_is_judged_is_worse_where_rows_are_lost(on_a_curve: AdversarialNetwork) -> None:
    model = network(PLANE)
    model.load_state_dict(on_a_curve.state_dict())
    with torch.no_grad():
        next(model.decoder.parameters()).mul_(3.0)
        assert model._judged(curve(500)) > on_a_curve._judged(curve(500)) + 0.1


def test_what_is_judged_is_worse_where_codes_are_uncommon(on_a_curve: AdversarialNetwork) -> None:
    model = network(PLANE)
    model.load_state_dict(on_a_curve.state_dict())
    with torch.no_grad():
        for parameter in list(model.encoder.parameters())[-2:]:
            parameter.mul_(3.0)
        next(model.decoder.parameters()).div_(3.0)  # what is reconstructed stays
        worse = 4.0 * on_a_curve.embed(curve(500)).square().sum(-1).mean() / 2  # (9 - 1) / 2 |z|^2 over D = 2 columns
        torch.testing.assert_close(model._judged(curve(500)), on_a_curve._judged(curve(500)) + worse)


def test_a_code_has_at_most_half_as_many_dimensions_as_the_window_has_columns() -> None:
    assert network(Layout(PLANE.blocks, window=3), latent=8).arguments["latent"] == 3
    assert network(Layout((Block("load", "numeric"),)), latent=8).arguments["latent"] == 1
    assert network(Layout(PLANE.blocks, window=3), latent=2).arguments["latent"] == 2


@pytest.mark.parametrize("record", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], ids=["never set", "always set"])
def test_a_flag_in_a_state_never_seen_costs_dear_and_is_named(record: list[float]) -> None:
    load = torch.randn(600, 1, 1, generator=seeded(1))
    x = torch.cat([load, torch.zeros(600, 1, 1), torch.ones(600, 1, 1)], -1)
    model = network(FLAGGED)
    model.fit(x[:500], x[500:], seed=0)
    unseen = torch.tensor([[record]])
    with torch.inference_mode():
        assert float(model.score(unseen)) > float(model.score(x).max()) + 30.0
    assert float(model.explain(unseen).share[0, 1 if record[1] else 2]) > 0.9

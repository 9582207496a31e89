"""What is particular to the variational autoencoder; the rest stands in `tests/contracts/test_models.py`."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from models.base import Block, Layout, seeded
from models.vae import VariationalAutoencoder

PLANE = Layout((Block("position", "numeric", 2),))
FLAGGED = Layout((Block("load", "numeric"), Block("failed", "binary"), Block("on", "binary")))


def autoencoder(layout: Layout, score: Literal["nll", "elbo", "reconstruction"] = "nll") -> VariationalAutoencoder:
    return VariationalAutoencoder(layout, latent=2, hidden=[32], score=score, epochs=120)


def curve(n: int) -> Tensor:
    """(n, 1, 2) along a parabola: far from any single Gaussian."""
    x = torch.randn(n, 1, 1, generator=seeded(1))
    return torch.cat([x, x.square() - 1.0], -1) + 0.2 * torch.randn(n, 1, 2, generator=seeded(2))


@pytest.fixture(scope="module")
def on_a_curve() -> VariationalAutoencoder:
    model = autoencoder(PLANE)
    model.fit(curve(2000), curve(2400)[2000:], seed=0)
    return model


def flagged(n: int) -> Tensor:
    """(n, 1, 3): a load, a flag that is never set, a flag that always is."""
    load = torch.randn(n, 1, 1, generator=seeded(1))
    return torch.cat([load, torch.zeros(n, 1, 1), torch.ones(n, 1, 1)], -1)


def test_whitened_numeric_columns_have_unit_variance_up_to_the_ridge(on_a_curve: VariationalAutoencoder) -> None:
    whitened, _ = on_a_curve._parts(curve(2000))
    torch.testing.assert_close(whitened.T.cov(), torch.eye(2), rtol=0, atol=0.1)
    back = (whitened - on_a_curve.shift) @ on_a_curve.colouring
    torch.testing.assert_close(back, curve(2000).flatten(1), rtol=1e-4, atol=1e-4)


def test_with_many_draws_the_bound_integrates_to_one(on_a_curve: VariationalAutoencoder) -> None:
    model = autoencoder(PLANE)
    model.load_state_dict(on_a_curve.state_dict())
    model.noise = torch.randn(512, 1, 2, generator=seeded(3))
    axis = torch.arange(-8.0, 12.0, 0.2)
    with torch.inference_mode():
        density = torch.cat(
            [(-model.score(part)).exp() for part in torch.split(torch.cartesian_prod(axis, axis)[:, None], 256)]
        )
    assert float(density.sum() * 0.2**2) == pytest.approx(1.0, abs=0.1)


def test_few_draws_bound_it_from_above_in_the_mean(on_a_curve: VariationalAutoencoder) -> None:
    model = autoencoder(PLANE)
    model.load_state_dict(on_a_curve.state_dict())

    def bound(draws: int, seed: int) -> float:
        model.noise = torch.randn(draws, 1, 2, generator=seeded(seed))
        with torch.inference_mode():
            return float(model.score(curve(500)).mean())

    assert sum(bound(4, seed) for seed in range(32)) / 32 > bound(512, 99)


def test_what_lies_within_the_bend_is_unlikely(on_a_curve: VariationalAutoencoder) -> None:
    with torch.inference_mode():
        assert on_a_curve.score(torch.tensor([[[0.0, 1.0]]])) > on_a_curve.score(curve(500)).median() + 1.0


@pytest.mark.parametrize("record", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], ids=["never set", "always set"])
def test_a_flag_in_a_state_never_seen_costs_fifty_nats_and_is_named(record: list[float]) -> None:
    model = autoencoder(FLAGGED)
    model.fit(flagged(500), flagged(100), seed=0)
    normal, unseen = model.score(torch.tensor([[[0.0, 0.0, 1.0]], [record]])).tolist()
    assert 45 < unseen - normal < 60
    share, expected = model.explain(torch.tensor([record]).unsqueeze(1))
    changed = 1 if record[1] else 2
    assert float(share[0, changed]) > 0.9
    assert float(expected[0, changed]) == pytest.approx(float(changed == 2), abs=0.01)


def test_the_evidence_lower_bound_is_looser_in_the_mean(on_a_curve: VariationalAutoencoder) -> None:
    elbo = autoencoder(PLANE, "elbo")
    elbo.load_state_dict(on_a_curve.state_dict())
    with torch.inference_mode():
        assert elbo.score(curve(2000)).mean() > on_a_curve.score(curve(2000)).mean()


def test_the_evidence_lower_bound_is_the_mean_over_draws_of_the_joint_less_that_of_the_posterior(
    on_a_curve: VariationalAutoencoder,
) -> None:
    elbo, x = autoencoder(PLANE, "elbo"), curve(20)
    elbo.load_state_dict(on_a_curve.state_dict())
    elbo.noise = torch.randn(4096, 1, 2, generator=seeded(3))
    with torch.inference_mode():
        numeric, discrete = elbo._parts(x)
        mean, log_variance = elbo._posterior(numeric, discrete)
        z = mean + (0.5 * log_variance).exp() * elbo.noise
        ratio = 0.5 * (z.square() - elbo.noise.square() - log_variance).sum(-1)  # log q(z | x) - log p(z)
        torch.testing.assert_close(
            elbo.score(x), (elbo._surprise(numeric, discrete, z) + ratio).mean(0), rtol=0, atol=0.1
        )


def test_reconstruction_leaves_out_what_the_prior_says() -> None:
    bound, reconstruction = autoencoder(PLANE), autoencoder(PLANE, "reconstruction")
    for model in (bound, reconstruction):
        model.fit(curve(500), curve(100), seed=0)
    with torch.inference_mode():
        assert reconstruction.score(curve(500)).mean() < bound.score(curve(500)).mean()


def test_training_beats_the_gaussian_it_starts_from(on_a_curve: VariationalAutoencoder) -> None:
    rows = curve(2000).flatten(1)
    gaussian = 0.5 * (rows.T.cov().logdet() + 2 + 2 * math.log(2 * math.pi))  # mean nats of its own sample
    with torch.inference_mode():
        assert on_a_curve.score(curve(2000)).mean() < gaussian - 0.1


def turned(n: int) -> Tensor:
    """(n, 1, 2): the curve on its side, elsewhere and larger."""
    return 1.7 * curve(n).flip(-1) + torch.tensor([2.0, -1.0])


def test_tuning_moves_the_layers_next_to_the_data_first(on_a_curve: VariationalAutoencoder) -> None:
    model = autoencoder(PLANE)
    at: list[dict[str, Tensor]] = []

    def told(fraction: float, message: str) -> None:
        at.append({name: tensor.clone() for name, tensor in model.named_parameters()})

    model.fit(turned(2000), turned(2400)[2000:], seed=0, start=on_a_curve, progress=told)
    known = dict(on_a_curve.named_parameters())
    inner = ["encoder.2.weight", "encoder.2.bias", "decoder.0.weight", "decoder.0.bias"]
    for name, parameter in known.items():
        assert torch.equal(at[0][name], parameter) == (name in inner)
        assert not torch.equal(at[-1][name], parameter)


def test_columns_whitened_anew_are_encoded_as_before(on_a_curve: VariationalAutoencoder) -> None:
    model = autoencoder(PLANE)
    model.load_state_dict(on_a_curve.state_dict())
    model._measure(turned(2000))
    model._carry_encoder(on_a_curve)
    for now, before in zip(
        model._posterior(*model._parts(curve(99))), on_a_curve._posterior(*on_a_curve._parts(curve(99))), strict=True
    ):
        torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-3)


def test_flags_of_another_frequency_are_encoded_as_before() -> None:
    start, model, rows = autoencoder(FLAGGED), autoencoder(FLAGGED), flagged(400)
    start.fit(rows, rows[:50], seed=0)
    model.load_state_dict(start.state_dict())
    rows[::2, :, 1] = 1.0
    model._measure(rows)
    model._carry_encoder(start)
    with torch.inference_mode():
        now, before = (it._posterior(*it._parts(rows))[0] for it in (model, start))
    torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-4)


def test_the_regressed_decoder_errs_by_nothing_in_the_mean_and_by_its_variance(
    on_a_curve: VariationalAutoencoder,
) -> None:
    model = autoencoder(PLANE)
    model.load_state_dict(on_a_curve.state_dict())
    model._measure(turned(2000))
    model._regress_decoder(turned(2000), seeded(1))
    with torch.inference_mode():
        numeric, discrete = model._parts(turned(2000))
        mean, log_variance = model._posterior(numeric, discrete)
        z = mean + (0.5 * log_variance).exp() * torch.randn(64, *mean.shape, generator=seeded(2))
        error = (numeric - model._decode(z)[0]) * (-0.5 * model._bounded_log_variance()).exp()
    torch.testing.assert_close(error.mean((0, 1)), torch.zeros(2), rtol=0, atol=0.1)
    torch.testing.assert_close(error.square().mean((0, 1)), torch.ones(2), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("argument", "message"), [("latent", "latent 2. Expected 3"), ("hidden", r"hidden \[32\]. Expected \[16\]")]
)
def test_a_start_of_another_size_is_refused(on_a_curve: VariationalAutoencoder, argument: str, message: str) -> None:
    sizes = {**on_a_curve.arguments, argument: {"latent": 3, "hidden": [16]}[argument]}
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder(PLANE, **sizes).fit(curve(99), curve(9), seed=0, start=on_a_curve)


def test_a_start_may_have_been_scored_otherwise(on_a_curve: VariationalAutoencoder) -> None:
    model = autoencoder(PLANE, "reconstruction")
    model.fit(curve(2000), curve(100), seed=0, start=on_a_curve)
    with torch.inference_mode():
        assert model.score(curve(500)).mean() < on_a_curve.score(curve(500)).mean()

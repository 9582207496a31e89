from __future__ import annotations

import math

import numpy as np
import pytest

from detector.calibration import Calibration, ScoreScale, rows_needed, threshold
from detector.errors import NotEnoughRows


def normal_scores(n: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).chisquare(5, n)


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.003])
def test_unseen_normal_scores_cross_the_level_at_the_promised_rate(rate: float) -> None:
    realised = [
        (ScoreScale.fit(normal_scores(2_000, seed)).nats(normal_scores(5_000, 1_000 + seed)) >= threshold(rate)).mean()
        for seed in range(40)
    ]
    assert np.mean(realised) == pytest.approx(rate, rel=0.12)


def test_inside_the_resolution_p_is_the_conformal_rank() -> None:
    scale = ScoreScale.fit(np.arange(1.0, 1_000.0))
    assert np.exp(-scale.nats(np.array([900.0]))) == pytest.approx(101 / 1_000)
    assert np.exp(-scale.nats(np.array([-5.0]))) == pytest.approx(1.0)


def test_beyond_the_largest_calibration_score_nats_keep_growing() -> None:
    scale = ScoreScale.fit(normal_scores(500, 0))
    nats = scale.nats(np.array([20.0, 40.0, 80.0, 1e6, 1e12]))
    assert (np.diff(nats) > 0).all()
    assert np.isfinite(nats).all()


def test_nats_never_fall_when_the_score_rises() -> None:
    nats = ScoreScale.fit(normal_scores(300, 1)).nats(np.linspace(-10, 60, 20_000))
    assert (np.diff(nats) >= 0).all()


def test_the_tail_finds_the_order_of_magnitude_of_probabilities_it_never_saw() -> None:
    scale = ScoreScale.fit(np.random.default_rng(2).exponential(size=2_000))
    assert scale.nats(np.array([math.log(20_000)]))[0] == pytest.approx(math.log(20_000), rel=0.25)


def test_constant_scores_still_give_a_scale() -> None:
    nats = ScoreScale.fit(np.full(100, 3.0)).nats(np.array([2.0, 3.0, 4.0]))
    assert np.isfinite(nats).all()
    assert nats[2] > nats[1] == nats[0]


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotEnoughRows, match="9 finite calibration scores"):
        ScoreScale.fit(np.append(np.arange(9.0), np.nan))


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0, -0.9])
def test_two_models_keep_one_budget_whatever_their_dependence(correlation: float) -> None:
    def draw(n: int, seed: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        noise = np.random.default_rng(seed).normal(size=(2, n))
        other = correlation * noise[0] + math.sqrt(1 - correlation**2) * noise[1]
        return {"gmm": np.exp(noise[0]), "vae": 10 * other}

    realised = []
    for seed in range(30):
        calibration = Calibration.fit(draw(2_000, seed))
        _, nats = calibration.nats(np.stack(list(draw(5_000, 500 + seed).values())))
        realised.append((nats >= threshold(0.01)).mean())
    assert np.mean(realised) == pytest.approx(0.01, rel=0.2)


def test_a_record_that_surprises_only_one_of_two_models_still_crosses() -> None:
    rng = np.random.default_rng(0)
    calibration = Calibration.fit({"gmm": rng.normal(size=2_000), "vae": rng.normal(size=2_000)})
    _, nats = calibration.nats(np.array([[40.0], [0.0]]))
    assert nats[0] >= threshold(0.01)


@pytest.mark.parametrize(("rate", "rows"), [(0.01, 99), (0.001, 999), (0.5, 1), (0.003, 333)])
def test_the_rows_needed_are_the_least_that_resolve_the_rate(rate: float, rows: int) -> None:
    assert rows_needed(rate) == rows
    assert 1 / (rows + 1) <= rate < 1 / rows


def test_arrays_carry_everything() -> None:
    scores = {"gmm": normal_scores(400, 3), "vae": normal_scores(400, 4)}
    calibration = Calibration.fit(scores)
    again = Calibration.from_arrays(calibration.to_arrays(), ["gmm", "vae"])
    probe = np.stack([normal_scores(50, 5), normal_scores(50, 6)])
    np.testing.assert_array_equal(again.nats(probe)[1], calibration.nats(probe)[1])

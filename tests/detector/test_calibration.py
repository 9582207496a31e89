from __future__ import annotations

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.averages import Usual, averaged
from detector.calibration import Calibration, ScoreScale, rows_needed
from detector.errors import NotEnoughRows

Floats = NDArray[np.float64]


def normal_scores(n: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).chisquare(5, n)


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.003])
def test_unseen_normal_scores_cross_the_level_at_the_promised_rate(rate: float) -> None:
    realised = [
        (ScoreScale.fit(normal_scores(2_000, seed)).nats(normal_scores(5_000, 1_000 + seed)) >= -math.log(rate)).mean()
        for seed in range(40)
    ]
    assert np.mean(realised) == pytest.approx(rate, rel=0.12)


def test_inside_the_resolution_p_is_the_conformal_rank() -> None:
    scale = ScoreScale.fit(np.arange(1.0, 1_000.0))
    assert np.exp(-scale.nats(np.array([900.0]))) == pytest.approx(101 / 1_000)
    assert np.exp(-scale.nats(np.array([-5.0]))) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["continuous", "tied", "heavy", "far from zero"])
def test_inside_the_resolution_every_p_value_is_a_count(kind: str) -> None:
    scores = {
        "continuous": normal_scores(900, 0),
        "tied": np.round(normal_scores(900, 0)),
        "heavy": np.random.default_rng(0).pareto(0.3, 900),
        "far from zero": 1e9 + 1e-3 * normal_scores(900, 0),
    }[kind]
    inside = np.concatenate([scores, np.nextafter(scores, -np.inf), np.linspace(scores.min() - 1, scores.max(), 999)])
    counts = (scores >= inside[:, None]).sum(axis=1)
    np.testing.assert_allclose(np.exp(-ScoreScale.fit(scores).nats(inside)), (counts + 1) / 901, rtol=1e-12)


def test_beyond_the_largest_calibration_score_nats_keep_growing() -> None:
    scale = ScoreScale.fit(normal_scores(500, 0))
    nats = scale.nats(np.array([20.0, 40.0, 80.0, 1e6, 1e12]))
    assert (np.diff(nats) > 0).all()
    assert np.isfinite(nats).all()


def test_a_score_that_is_no_number_has_no_nats() -> None:
    nats = ScoreScale.fit(normal_scores(500, 0)).nats(np.array([np.nan, np.inf, -np.inf, 1.0]))
    assert np.isfinite(nats).tolist() == [False, False, True, True]


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
        nats = calibration.nats(np.stack(list(draw(5_000, 500 + seed).values())))
        realised.append((nats >= -math.log(0.01)).mean())
    assert np.mean(realised) == pytest.approx(0.01, rel=0.2)


def test_a_record_that_surprises_only_one_of_two_models_still_crosses() -> None:
    rng = np.random.default_rng(0)
    calibration = Calibration.fit({"gmm": rng.normal(size=2_000), "vae": rng.normal(size=2_000)})
    nats = calibration.nats(np.array([[40.0], [0.0]]))
    assert nats[0] >= -math.log(0.01)


@pytest.mark.parametrize("rate", [0.5, 0.05, 0.01, 0.001, 1e-5])
def test_the_score_of_a_rate_is_so_unlikely_and_calibration_scores_below_it_are_less(rate: float) -> None:
    calibrated = normal_scores(1_999, 0)
    scale = ScoreScale.fit(calibrated)
    score = scale.score_at(rate)
    assert scale.rate_beyond(score) == pytest.approx(rate, rel=0.02)
    assert scale.rate_beyond(score) <= rate * (1 + 1e-9)
    assert scale.rate_beyond(calibrated[calibrated < score].max()) > rate


def test_the_interval_of_a_rate_holds_the_true_share_about_nine_times_in_ten() -> None:
    held = 0
    for seed in range(60):
        calibration = Calibration.fit({"gmm": normal_scores(1_000, seed)})
        low, high = calibration.interval(0.01, seed=seed)
        level = calibration.scales["gmm"].score_at(0.01)
        held += low <= (normal_scores(100_000, 99) >= level).mean() <= high
        assert low < high
    assert held >= 0.75 * 60


def test_the_interval_is_wider_where_rows_are_fewer() -> None:
    def ratio(rows: int) -> float:
        low, high = Calibration.fit({"gmm": normal_scores(rows, 0)}).interval(0.001)
        return high / low

    assert ratio(200) > 3 * ratio(20_000)


@pytest.mark.parametrize(("rate", "rows"), [(0.01, 99), (0.001, 999), (0.5, 1), (0.003, 333)])
def test_the_rows_needed_are_the_least_that_resolve_the_rate(rate: float, rows: int) -> None:
    assert rows_needed(rate) == rows
    assert 1 / (rows + 1) <= rate < 1 / rows


def test_arrays_carry_everything() -> None:
    scores = {"gmm": normal_scores(400, 3), "vae": normal_scores(400, 4)}
    calibration = Calibration.fit(scores)
    again = Calibration.from_arrays(calibration.to_arrays(), ["gmm", "vae"])
    probe = np.stack([normal_scores(50, 5), normal_scores(50, 6)])
    np.testing.assert_array_equal(again.nats(probe), calibration.nats(probe))


def in_time(seed: int, models: int = 1) -> tuple[Calibration, Floats]:
    """A calibration with averages on 8,000 scores of each model, and as many (models, n) that it has not seen, of
    entities in turn whose records depend on nothing."""
    scores = np.stack([normal_scores(16_000, 1_000 * seed + model) for model in range(models)])
    before = scores[:, :8_000]
    calibration = Calibration.fit(
        {f"model {number}": row for number, row in enumerate(before)},
        averaged(before, machines(8_000), Usual.of(before)),
    )
    return calibration, scores[:, 8_000:]


def machines(n: int) -> NDArray[np.object_]:
    return np.array([f"m{number % 5}" for number in range(n)], object)


def said_in_time(calibration: Calibration, scores: Floats) -> Floats:
    """−ln p (n,) of scores (m, n), one record after another."""
    averages = averaged(scores, machines(scores.shape[1]), calibration.usual)
    return calibration.in_time(scores, calibration.by_model(scores), averages)[0]


def test_arrays_carry_the_averages_too() -> None:
    calibration, scores = in_time(5, models=2)
    again = Calibration.from_arrays(calibration.to_arrays(), [*calibration.scales])
    assert again.to_arrays().keys() == calibration.to_arrays().keys()
    np.testing.assert_array_equal(said_in_time(again, scores), said_in_time(calibration, scores))
    np.testing.assert_array_equal(again.nats(scores), calibration.nats(scores))


@pytest.mark.parametrize("what", ["usual.mean", "usual.most"])
@pytest.mark.parametrize(
    "wrong", [np.zeros(1), np.zeros((2, 1)), np.zeros(2, np.float32)], ids=["fewer", "dimensions", "type"]
)
def test_arrays_with_which_averages_cannot_begin_are_refused(what: str, wrong: Floats) -> None:
    calibration, _ = in_time(5, models=2)
    found = re.escape(f"Array '{what}' is {wrong.dtype} of shape {wrong.shape}. Expected float64 of shape (2,).")
    with pytest.raises(ValueError, match=found):
        Calibration.from_arrays({**calibration.to_arrays(), what: wrong}, [*calibration.scales])


def test_ranking_counts_the_record_itself_half_as_much_as_alarms_do() -> None:
    calibration, _ = in_time(2)
    (averages,) = calibration.slow.values()
    usual, unlikely = ([scale.score_at(rate) for scale in averages] for rate in (0.5, 0.1))
    own, past = np.array([[6.0, 2.0]]), np.array([usual, unlikely]).T[None]  # a record by itself, and one of a run
    nats, ranking = calibration.in_time(np.zeros((1, 2)), own, past)
    assert nats[0] > nats[1]
    assert ranking[0] < ranking[1]
    graded = np.stack([scale.graded(row) for scale, row in zip(averages, past[0], strict=True)])
    np.testing.assert_allclose(ranking, (0.5 * own[0] + [1.0, 0.5, 0.25] @ graded) / 2.25)


def test_where_records_have_no_order_they_are_ranked_by_what_models_say_of_each() -> None:
    calibration = Calibration.fit({"gmm": normal_scores(400, 3), "vae": normal_scores(400, 4)})
    scores = np.stack([normal_scores(50, 5), normal_scores(50, 6)])
    by_model = calibration.by_model(scores)
    nats, ranking = calibration.in_time(scores, by_model, np.zeros((2, 3, 50)))
    np.testing.assert_array_equal(ranking, by_model.mean(axis=0))
    np.testing.assert_array_equal(nats, calibration.nats(scores))


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
def test_with_averages_unseen_normal_records_cross_the_level_at_the_promised_rate(rate: float, models: int) -> None:
    realised = [(said_in_time(*in_time(seed, models)) >= -math.log(rate)).mean() for seed in range(20)]
    assert np.mean(realised) == pytest.approx(rate, rel=0.2)


def test_with_averages_p_values_stay_counts_out_of_the_calibration_rows() -> None:
    calibration, scores = in_time(0)
    nats = said_in_time(calibration, scores)
    assert calibration.combined is not None
    inside = nats <= calibration.combined.nats(calibration.combined.sorted_scores[-1:])
    counts = np.exp(-nats[inside]) * (calibration.rows + 1)
    np.testing.assert_allclose(counts, np.round(counts), rtol=1e-9)


def test_graded_nats_are_those_of_the_counts_below_the_tail_and_rise_with_every_score_beyond() -> None:
    scale = ScoreScale.fit(normal_scores(500, 0))
    below = np.linspace(scale.sorted_scores[0] - 1, scale.tail_start, 500)
    np.testing.assert_array_equal(scale.graded(below), scale.nats(below))
    beyond = np.linspace(scale.tail_start, 3 * scale.sorted_scores[-1], 5_000)
    assert (np.diff(scale.graded(beyond)) > 0).all()
    assert (np.diff(scale.nats(beyond)) == 0).any()


def test_graded_nats_are_near_those_of_the_counts_in_the_tail() -> None:
    scale = ScoreScale.fit(normal_scores(5_000, 0))
    tail = scale.sorted_scores[-500:-25]
    np.testing.assert_allclose(scale.graded(tail), scale.nats(tail), atol=0.35)


def test_what_is_a_little_unlikely_ten_times_in_a_row_is_far_less_likely_than_once() -> None:
    calibration, _ = in_time(1)
    (scale,) = calibration.scales.values()
    usual, unlikely = scale.score_at(0.5), scale.score_at(0.05)
    once, often = np.full((1, 200), usual), np.full((1, 200), usual)
    once[0, 150], often[0, 105:155:5] = unlikely, unlikely  # m0 each time
    first, last = (said_in_time(calibration, scores)[150] for scores in (once, often))
    assert calibration.nats(once)[150] == calibration.nats(often)[150] == pytest.approx(-math.log(0.05), rel=0.01)
    assert first < -math.log(0.02)
    assert last > first + math.log(50)

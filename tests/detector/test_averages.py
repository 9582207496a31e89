from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.averages import BOUND, HALF_LIVES, Averages, Usual, averaged
from detector.entities import EntityTable

N = 400
USUAL = Usual(np.array([1.0, -3.0]), np.array([11.0, 7.0]))
Floats = NDArray[np.float64]
Names = NDArray[np.object_]


def stream(seed: int, entities: int = 5) -> tuple[Floats, Names]:
    """Scores (2, N), some beyond what enters an average and some not finite, of entities in random turn."""
    chance = np.random.default_rng(seed)
    scores = USUAL.mean[:, None] + 5.0 * chance.standard_t(3, (2, N))
    for value in (np.nan, np.inf, -np.inf):
        scores[chance.integers(0, 2, 6), chance.integers(0, N, 6)] = value
    return scores, np.array([f"m{number}" for number in chance.integers(0, entities, N)], object)


def looped(scores: Floats, entity: Names) -> Floats:
    """What the averages are, a record, a model and a half-life at a time."""
    found, memory = np.empty((2, len(HALF_LIVES), scores.shape[1])), dict[tuple[str, int, int], float]()
    for i, name in enumerate(entity):
        for k in range(2):
            for h, half_life in enumerate(HALF_LIVES):
                before = memory.get((name, k, h), float(USUAL.mean[k]))
                if math.isfinite(scores[k, i]):
                    kept = 0.5 ** (1 / half_life)
                    before = kept * before + (1 - kept) * min(float(scores[k, i]), float(USUAL.most[k]))
                memory[name, k, h] = found[k, h, i] = before
    return found


class Partitioned:
    """The averages of one partition and the table of its entities."""

    def __init__(self, max_entities: int = 100) -> None:
        self.entities, self.averages = EntityTable(max_entities), Averages(USUAL)

    def take(self, scores: Floats, entity: Names) -> Floats:
        return self.averages.update(scores, self.entities.locate(entity))


@pytest.mark.parametrize("seed", range(3))
def test_averages_are_those_of_a_plain_loop(seed: int) -> None:
    scores, entity = stream(seed)
    np.testing.assert_allclose(Partitioned().take(scores, entity), looped(scores, entity), rtol=1e-12)
    np.testing.assert_allclose(averaged(scores, entity, USUAL), looped(scores, entity), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 123])
def test_averages_do_not_depend_on_where_batches_end(size: int) -> None:
    scores, entity = stream(3)
    crowded, parts = Partitioned(max_entities=3), Partitioned(max_entities=3)  # slots change hands, within batches too
    whole = crowded.take(scores, entity)
    cut = [parts.take(scores[:, at : at + size], entity[at : at + size]) for at in range(0, N, size)]
    np.testing.assert_array_equal(np.concatenate(cut, axis=-1), whole)
    assert crowded.entities.evicted > 10


def test_averages_of_an_entity_do_not_depend_on_others() -> None:
    scores, entity = stream(4)
    own = entity == "m2"
    np.testing.assert_array_equal(
        Partitioned().take(scores, entity)[..., own], Partitioned().take(scores[:, own], entity[own])
    )


def test_an_entity_that_was_forgotten_begins_anew() -> None:
    memory = Partitioned(max_entities=1)
    names = np.array(["m0", "m0", "m1", "m0"], object)
    found = memory.take(np.array([[9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]), names)
    np.testing.assert_array_equal(found[..., 3], found[..., 0])
    assert (found[0, :, 1] > found[0, :, 0]).all()


def test_a_snapshot_goes_on_exactly_with_the_slots_it_holds() -> None:
    (scores, entity), half = stream(5), N // 2
    memory, again = Partitioned(), Partitioned()
    memory.take(scores[:, :half], entity[:half])
    slots = np.delete(np.arange(len(memory.entities)), 1)
    again.entities.restore(memory.entities.to_state(slots))
    state = memory.averages.to_state(slots)
    again.averages.restore(state)
    was = state.copy()
    kept = np.isin(entity[half:], [memory.entities.owner(slot) for slot in slots.tolist()])
    found = again.take(scores[:, half:][:, kept], entity[half:][kept])
    np.testing.assert_array_equal(found, memory.take(scores[:, half:], entity[half:])[..., kept])
    assert 0 < kept.sum() < half
    np.testing.assert_array_equal(state, was)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (np.zeros((4, 1, 3)), r"float64 of shape \(4, 1, 3\). Expected float64 of shape \(4, 2, 3\)"),
        (np.zeros((4, 2, 2)), r"float64 of shape \(4, 2, 2\). Expected float64 of shape \(4, 2, 3\)"),
        (np.zeros(6), r"float64 of shape \(6,\). Expected float64 of shape \(6, 2, 3\)"),
        (np.zeros((4, 2, 3), np.float32), r"float32 of shape \(4, 2, 3\). Expected float64"),
    ],
    ids=["models", "half-lives", "dimensions", "type"],
)
def test_a_snapshot_of_other_averages_is_refused(state: Floats, told: str) -> None:
    with pytest.raises(ValueError, match=f"Array 'averages' is {told}"):
        Averages(USUAL).restore(state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_passed_over(value: float) -> None:
    scores, entity = np.array([[4.0, value, 6.0], [1.0, 1.0, 1.0]]), np.full(3, "m0", object)
    found = Partitioned().take(scores, entity)
    np.testing.assert_array_equal(found[0, :, 1], found[0, :, 0])
    np.testing.assert_array_equal(found[..., 2][0], Partitioned().take(scores[:, ::2], entity[::2])[0, :, 1])


def test_one_score_however_large_moves_an_average_no_farther_than_the_bound_allows() -> None:
    entity = np.full(1, "m0", object)
    huge, bounded = (Partitioned().take(np.full((2, 1), most), entity)[..., 0] for most in (1e30, 11.0))
    np.testing.assert_array_equal(huge[0], bounded[0])
    expected = 1.0 + 10.0 * (1 - 0.5 ** (1 / np.array(HALF_LIVES)))
    np.testing.assert_allclose(huge[0], expected)


def test_after_any_incident_averages_are_near_the_usual_within_the_half_lives_that_follow_from_the_bound() -> None:
    calibrated = np.random.default_rng(0).exponential(size=(1, 10_000))
    usual, high = Usual.of(calibrated), np.quantile(calibrated, 0.99)
    mean = float(usual.mean[0])
    for place, half_life in enumerate(HALF_LIVES):
        after = math.ceil(half_life * math.log2(BOUND))
        scores = np.concatenate([np.full(2_000, 1e9), np.full(after, mean)])[None]
        found = averaged(scores, np.full(scores.shape[1], "m0", object), usual)[0, place]
        assert found[1_999] == pytest.approx(usual.most[0])
        assert mean < found[-1] <= high
        assert found[-1 - after // 2] > high


def test_what_is_usual_comes_from_calibration_scores_of_each_model() -> None:
    scores = np.stack([np.arange(1_001.0), np.full(1_001, 3.0)])
    usual = Usual.of(scores)
    np.testing.assert_allclose(usual.mean, [500.0, 3.0])
    np.testing.assert_allclose(usual.most, [500.0 + BOUND * 490.0, 3.0])


def test_another_version_begins_anew_at_its_own_usual() -> None:
    (scores, entity), memory = stream(6), Partitioned()
    memory.take(scores, entity)
    other = Usual(np.array([100.0, 50.0, 0.0]), np.array([200.0, 90.0, 10.0]))
    memory.averages.adopt(other)
    three = np.vstack([scores + 100.0, scores[:1]])
    np.testing.assert_array_equal(memory.take(three, entity), averaged(three, entity, other))

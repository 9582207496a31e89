from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.errors import NotEnoughRows
from detector.fidelity import Fidelity, fidelity, frechet_distance

CENTRES = np.array([[-4.0, 0.0, 0.0], [0.0, 3.0, 1.0], [4.0, 0.0, -1.0]])


def mixture(n: int, seed: int) -> NDArray[np.float32]:
    """(n, 3) of three clusters apart from one another."""
    chance = np.random.default_rng(seed)
    rows: NDArray[np.float32] = (CENTRES[chance.integers(3, size=n)] + chance.normal(0, 0.5, (n, 3))).astype(np.float32)
    return rows


def judged(generated: NDArray[np.float32]) -> Fidelity:
    return fidelity(generated, mixture(1_000, 1), mixture(3_000, 2), seed=0)


def test_samples_of_the_same_distribution_are_good_and_come_to_what_real_rows_do() -> None:
    found = judged(mixture(1_000, 3))
    assert found.warnings() == []
    assert found.generated.density == pytest.approx(1.0, abs=0.1)
    assert found.generated.coverage == pytest.approx(1 - 2**-5, abs=0.03)
    assert found.generated.precision == pytest.approx(found.expected.precision, abs=0.05)
    assert found.generated.recall == pytest.approx(found.expected.recall, abs=0.05)
    assert found.generated.near_copies == pytest.approx(0.01, abs=0.015)
    assert found.generated.modes_lost == 0.0
    assert found.rows == 1_000


def test_training_rows_given_back_are_near_copies_and_else_look_good() -> None:
    found = judged(mixture(3_000, 2)[::2])
    assert found.generated.near_copies == 1.0
    assert found.expected.near_copies < 0.03
    assert found.warnings() == ["100.0% are near-copies of training rows: the model may know records by heart"]


def test_training_rows_given_back_with_a_little_noise_are_near_copies_too() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, (3_000, 3)).astype(np.float32)
    assert judged(mixture(3_000, 2) + noise).generated.near_copies > 0.9


def test_rows_that_are_often_the_same_are_no_more_copies_than_real_ones() -> None:
    held_back, training, generated = (np.round(mixture(1_000, seed)) for seed in (1, 2, 3))
    found = fidelity(generated, held_back, training, seed=0)
    assert found.generated.near_copies == pytest.approx(found.expected.near_copies, abs=0.05)
    assert found.warnings() == []


def test_always_the_same_row_is_a_collapse() -> None:
    found = judged(np.tile(mixture(1, 1), (1_000, 1)))
    assert found.generated.modes_lost > 0.9
    assert found.generated.recall < 0.05
    assert any("clusters of real rows are lost" in warning for warning in found.warnings())


def test_a_cluster_left_out_is_lost() -> None:
    rows = mixture(3_000, 3)
    found = judged(rows[rows[:, 0] < 2.0])
    assert found.generated.modes_lost == pytest.approx(1 / 3, abs=0.12)
    assert found.generated.precision > 0.9
    assert found.generated.coverage < 0.75


def test_rows_apart_from_all_real_ones_have_neither_precision_nor_density() -> None:
    found = judged(mixture(1_000, 3) + 20.0)
    assert (found.generated.precision, found.generated.density, found.generated.coverage) == (0.0, 0.0, 0.0)
    assert found.frechet_ratio > 1_000
    assert any(warning.startswith("Mean and spread are off") for warning in found.warnings())


def test_a_spread_that_is_too_wide_is_told() -> None:
    rows = mixture(1_000, 3)
    assert any("dense" in warning for warning in judged(4.0 * rows).warnings())


def test_the_frechet_distance_of_gaussians_is_what_the_formula_gives() -> None:
    chance = np.random.default_rng(0)
    x, y = (chance.normal(size=(200_000, 2)).astype(np.float32) for _ in range(2))
    assert frechet_distance(x, y) == pytest.approx(0.0, abs=1e-3)
    assert frechet_distance(x, y + np.float32(3.0)) == pytest.approx(18.0, rel=0.01)
    assert frechet_distance(x, y * np.array([1.0, 4.0], np.float32)) == pytest.approx(9.0, rel=0.02)  # (4 - 1)²
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)


def test_a_single_column_and_columns_without_variance_are_compared() -> None:
    for rows in (mixture(600, 1)[:, :1], np.zeros((600, 2), np.float32)):
        assert fidelity(rows[:200], rows[200:400], rows[400:], seed=0).generated.precision > 0.9


def test_the_same_seed_gives_the_same_figures() -> None:
    assert judged(mixture(1_000, 3)) == judged(mixture(1_000, 3))


@pytest.mark.parametrize("few", ["generated", "held-back", "training"])
def test_too_few_rows_are_refused_by_name(few: str) -> None:
    names = ("generated", "held-back", "training")
    given = [mixture(99 if name == few else 100, number) for number, name in enumerate(names)]
    with pytest.raises(NotEnoughRows, match=f"99 {few} rows tell nothing. Expected at least 100."):
        fidelity(*given, seed=0)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.bundle import Bundle
from detector.inspecting.agreement import BINS, FeatureFit, correlations, feature_fits, transform
from detector.proving.surprise import encode
from detector.training_data import gather
from tests.detector.machines import START_MS, broker_with
from tests.detector.test_generation import mixed, mixed_records

Numbers = NDArray[np.float32]


def normal(n: int, seed: int) -> Numbers:
    """Rows of cpu and load, which go together, and of no missing fields."""
    cpu, noise = np.random.default_rng(seed).normal(size=(2, n))
    return np.stack([cpu, 0.8 * cpu + 0.6 * noise, np.zeros(n)], axis=1).astype(np.float32)


def fit_of(bundle: Bundle, real: Numbers, drawn: Numbers, fitted: Numbers | None = None) -> FeatureFit:
    """Of cpu."""
    return next(it for it in feature_fits(bundle.encoder, real, drawn, fitted, seed=0) if it.feature == "cpu")


@pytest.mark.parametrize("values", ["continuous", "few", "one"])
def test_the_transform_is_uniform_where_both_are_of_one_distribution(values: str) -> None:
    chance = np.random.default_rng(0)

    def drawn(n: int) -> Numbers:
        x = chance.normal(size=n).astype(np.float32)
        return {"continuous": x, "few": np.rint(x), "one": np.zeros_like(x)}[values]

    u = transform(drawn(4_000), drawn(10_000), chance)
    assert ((u > 0) & (u < 1)).all()
    assert np.histogram(u, BINS, (0, 1))[0] == pytest.approx(200, abs=60)


def test_draws_of_many_digits_stand_for_one_that_repeats() -> None:
    chance = np.random.default_rng(0)
    u = transform(np.zeros(4_000), chance.normal(0, 0.01, 10_000), chance)
    assert np.histogram(u, BINS, (0, 1))[0] == pytest.approx(200, abs=60)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda x: x, "calibrated"),
        (lambda x: x + 1, "shifted up"),
        (lambda x: x - 1, "shifted down"),
        (lambda x: 3 * x, "too narrow"),
        (lambda x: x / 3, "too wide"),
        (np.rint, "another shape"),
    ],
)
def test_the_verdict_says_what_the_model_is_like(
    champion: Bundle, change: Callable[[Numbers], Numbers], verdict: str
) -> None:
    real = normal(3_000, 1)
    real[:, 0] = change(real[:, 0])
    found = fit_of(champion, real, normal(10_000, 2))
    assert found.verdict == verdict
    low, high = found.band
    assert (all(low <= count <= high for count in found.transform)) == (verdict == "calibrated")


def test_what_is_as_far_from_the_fitted_records_has_drifted(champion: Bundle) -> None:
    real = normal(3_000, 1) + np.float32(1)
    found = fit_of(champion, real, normal(10_000, 2), normal(5_000, 3))
    assert found.verdict == "drifted"
    assert found.expected == pytest.approx(found.distance, abs=0.03)
    assert fit_of(champion, real, normal(10_000, 2), normal(5_000, 3) + np.float32(1)).verdict == "shifted up"


def test_the_worst_feature_comes_first(champion: Bundle) -> None:
    real = normal(3_000, 1)
    real[:, 1] += 2
    first, *_ = feature_fits(champion.encoder, real, normal(10_000, 2), None, seed=0)
    assert (first.feature, first.expected) == ("load", None)


def test_categories_flags_and_missing_numbers_are_compared_by_frequency(tmp_path: Path) -> None:
    chosen, bundle = mixed(tmp_path, 1)
    columns = gather(chosen, broker_with(mixed_records(3_000)), now_ms=START_MS).columns
    x = encode(bundle.encoder, columns, chosen.window)[:, -1]
    only_a = x[np.array([zone == "a" for zone in columns.texts["zone"]])]
    found = {it.feature: it for it in feature_fits(bundle.encoder, x, only_a, None, seed=0)}
    zone, up = found["zone"], found["up"]
    assert zone.frequencies.keys() == {"a", "b", "missing or never seen"}
    assert zone.frequencies["b"] == pytest.approx((3 / 7, 0), abs=0.02)
    assert zone.distance == pytest.approx(1 - 3 / 7, abs=0.02)
    assert (zone.verdict, zone.transform) == ("another shape", [])
    assert up.frequencies["true"] == pytest.approx((0.5, 1.0), abs=0.03)
    assert {it.verdict for it in feature_fits(bundle.encoder, x, x, None, seed=0)} == {"calibrated"}


def test_a_long_category_is_cut(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 1)
    parts = tuple(
        replace(part, categories=("x" * 9_000, "b")) if part.name == "zone" else part for part in bundle.encoder.parts
    )
    encoder = replace(bundle.encoder, parts=parts)
    x = encoder.likeliest(bundle.models["gmm"].sample(500, seed=0).numpy()[:, -1])
    zone = next(it for it in feature_fits(encoder, x, x, None, seed=0) if it.feature == "zone")
    assert max(map(len, zone.frequencies)) == 200


def test_pairs_that_do_not_go_together_any_more_come_first(champion: Bundle) -> None:
    real, apart, fitted = (normal(5_000, seed) for seed in (1, 2, 4))
    apart[:, 1] = normal(5_000, 3)[:, 1]
    found = correlations(champion.encoder, real, apart, fitted)
    assert found.names == ["cpu", "load"]  # no field was missing, so that column does not vary
    for x in (real, apart, fitted):
        x[:, 2] = np.arange(5_000) % 2
    pair, *others = correlations(champion.encoder, real, apart, fitted).farthest()
    assert pair.columns == ("cpu", "load")
    assert (pair.observed, pair.generated, pair.fitted) == pytest.approx((0.8, 0.0, 0.8), abs=0.05)
    assert len(others) == 2


def test_columns_have_names_that_say_what_they_are_of(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 1)
    x = np.random.default_rng(0).normal(size=(50, bundle.encoder.layout.columns)).astype(np.float32)
    names = correlations(bundle.encoder, x, x, None).names
    assert {"cpu", "net.sent", "level", "up", "zone = a", "zone = b"} < set(names)
    assert len(names) == bundle.encoder.layout.columns

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.calibration import Calibration
from detector.config import FeatureSettings
from detector.entities import EntityTable
from detector.features import FeatureEncoder
from detector.relevance import SURPRISING, Relevance
from detector.windows import EntityHistory
from models.registry import build
from models.scorer import Scorer

RATE = 0.01
MODELS: dict[str, dict[str, Any]] = {
    "gmm": {"components": 2, "max_components": 2, "covariance": "full"},
    "vae": {"latent": 4, "hidden": [32, 16], "score": "nll", "epochs": 60},
}
BOTH = (
    *(FeatureSettings(name=name) for name in ("load", "cpu", "heat", "pressure")),
    FeatureSettings(name="bytes", transform="log1p"),
)
UP = (FeatureSettings(name="load", direction="up"), *BOTH[1:])
DOWN = (FeatureSettings(name="load", direction="down"), *BOTH[1:])
SIZED = (
    *BOTH[:3],
    FeatureSettings(name="pressure", minimum_deviation=2.0),
    FeatureSettings(name="bytes", transform="log1p", minimum_deviation=5_000.0),
)
each_detector = pytest.mark.parametrize("models", ["gmm", "vae", "gmm+vae"])
each_window = pytest.mark.parametrize("window", [1, 2])


def normal(n: int, seed: int) -> Columns:
    """Load drives cpu; heat is on its own; pressure hardly ever moves; bytes are many and spread over a magnitude."""
    chance = np.random.default_rng(seed)
    load = chance.normal(50.0, 5.0, n)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=np.arange(n) * 1000,
        entity=np.array([f"m{row % 3}" for row in range(n)], object),
        numbers={
            "load": load,
            "cpu": 0.8 * load + chance.normal(0.0, 2.0, n),
            "heat": chance.normal(20.0, 1.0, n),
            "pressure": 100.0 + 0.01 * chance.normal(size=n),
            "bytes": 1_000.0 * np.exp(0.7 * chance.normal(size=n)),
        },
        texts={},
    )


def moved(columns: Columns, name: str, by: float, rows: slice = slice(30, None, 10)) -> Columns:
    values = columns.numbers[name].copy()
    values[rows] += by
    return replace(columns, numbers={**columns.numbers, name: values})


class Detector(NamedTuple):
    encoder: FeatureEncoder
    scorer: Scorer
    calibration: Calibration
    relevance: Relevance
    level: float

    def judge(self, columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Windows (n, window, d) and −ln p (n,) as they count."""
        x = windows(self.encoder, columns)
        x, scores = self.relevance.judge(x, self.scorer.score(x))
        return x, self.calibration.nats(scores)

    def alarms(self, columns: Columns) -> NDArray[np.bool_]:
        return self.judge(columns)[1] > self.level


def windows(encoder: FeatureEncoder, columns: Columns) -> NDArray[np.float32]:
    x, _ = EntityHistory(encoder, late_for=600.0).windows(columns, EntityTable(10).locate(columns.entity))
    x[:, :-1, encoder.restricted] = 0.0
    return x


@cache
def detector(models: str, features: tuple[FeatureSettings, ...], window: int) -> Detector:
    """Fitted on 3,000 records; the level is what a share of `RATE` of 2,000 others exceeds by deviations that count."""
    columns = normal(5_000, seed=1)
    encoder = FeatureEncoder.fit(columns.take(slice(0, 3_000)), features, window=window)
    x = windows(encoder, columns)
    rows, fitted = torch.from_numpy(x), {}
    for kind in models.split("+"):
        fitted[kind] = build(kind, encoder.layout, MODELS[kind])
        fitted[kind].fit(rows[:2_700], rows[2_700:3_000], seed=0)
    scorer = Scorer(fitted, "cpu")
    scores = scorer.score(x[3_000:])
    calibration = Calibration.fit(dict(zip(fitted, scores, strict=True)))
    relevance = Relevance(encoder, scorer, calibration)
    nats = calibration.nats(relevance.judge(x[3_000:], scores)[1])
    return Detector(encoder, scorer, calibration, relevance, float(np.quantile(nats, 1 - RATE)))


def moves(columns: Columns, name: str, by: float) -> Callable[[Detector], float]:
    """The share of records moved so that raise an alarm."""
    there = moved(columns, name, by)
    return lambda it: float(it.alarms(there)[30::10].mean())


@each_detector
@each_window
def test_of_a_feature_that_counts_upwards_a_drop_raises_nothing_and_an_equal_rise_does(
    models: str, window: int
) -> None:
    columns = normal(1_000, seed=2)
    drop, rise = moves(columns, "load", -40.0), moves(columns, "load", 40.0)
    free, up, down = (detector(models, features, window) for features in (BOTH, UP, DOWN))
    assert min(drop(free), rise(free)) > 0.99
    assert rise(up) > 0.99
    assert drop(down) > 0.99
    assert max(drop(up), rise(down)) <= 3 * RATE


@each_window
def test_neither_a_lasting_drop_nor_its_end_raises_anything(window: int) -> None:
    columns = moved(normal(2_000, seed=2), "load", -40.0, slice(500, 1_500))
    alarms = detector("gmm", UP, window).alarms(columns)
    assert alarms[500:1_500].mean() <= 2 * RATE
    assert not alarms[1_500:1_503].any()


@each_detector
@pytest.mark.parametrize(("name", "small", "large"), [("pressure", 1.9, 2.1), ("bytes", 4_500.0, 40_000.0)])
def test_below_the_minimum_deviation_nothing_is_raised_and_beyond_it_all(
    models: str, name: str, small: float, large: float
) -> None:
    columns = normal(1_000, seed=2)
    columns = replace(columns, numbers={**columns.numbers, "bytes": 1_000.0 + columns.numbers["heat"]})
    free, sized = detector(models, BOTH, 1), detector(models, SIZED, 1)
    assert moves(columns, "pressure", 1.9)(free) == 1.0
    assert moves(columns, name, small)(sized) <= 2 * RATE
    assert moves(columns, name, large)(sized) > 0.95


@each_detector
def test_what_is_not_restricted_still_alarms(models: str) -> None:
    columns, up = normal(1_000, seed=2), detector(models, UP, 1)
    assert moves(columns, "heat", -8.0)(up) > 0.99
    assert moves(columns, "cpu", 30.0)(up) > 0.99  # too high for the load, which is not too low for that
    assert moves(moved(columns, "load", -40.0), "heat", 8.0)(up) > 0.99


def test_a_restricted_field_that_is_missing_still_alarms() -> None:
    columns = normal(1_000, seed=2)
    columns.numbers["load"][30::10] = np.nan
    assert detector("gmm", UP, 1).alarms(columns)[30::10].all()


@each_detector
@pytest.mark.parametrize("features", [UP, SIZED], ids=["direction", "size"])
def test_normal_records_keep_the_budget(models: str, features: tuple[FeatureSettings, ...]) -> None:
    assert detector(models, features, 1).alarms(normal(6_000, seed=3)).mean() <= 1.5 * RATE


@each_detector
def test_records_only_become_likelier_and_only_surprising_ones_change(models: str) -> None:
    it, columns = detector(models, UP, 2), moved(normal(1_000, seed=2), "load", -40.0)
    before = windows(it.encoder, columns)
    nats = it.calibration.nats(it.scorer.score(before))
    after, judged = it.judge(columns)
    assert (judged <= nats).all()
    changed = (after != before).any(axis=(1, 2))
    assert changed.any()
    assert (nats[changed] >= SURPRISING).all()
    np.testing.assert_array_equal(np.delete(after, it.encoder.restricted, axis=2)[:, -1], before[:, -1, 1:])


@each_detector
def test_a_judgement_does_not_depend_on_the_batch(models: str) -> None:
    it, columns = detector(models, UP, 2), moved(normal(300, seed=2), "load", -40.0)
    x = windows(it.encoder, columns)
    whole = it.relevance.judge(x, it.scorer.score(x))
    for rows in (slice(0, 1), slice(30, 31), slice(40, 111)):
        part = it.relevance.judge(x[rows], it.scorer.score(x[rows]))
        np.testing.assert_allclose(part[0], whole[0][rows], atol=1e-5)
        np.testing.assert_allclose(part[1], whole[1][:, rows], rtol=1e-4, atol=1e-4)


def test_what_is_judged_is_left_as_it_was() -> None:
    it = detector("gmm", UP, 1)
    x = windows(it.encoder, moved(normal(300, seed=2), "load", -40.0))
    scores = it.scorer.score(x)
    before = x.copy(), scores.copy()
    judged, _ = it.relevance.judge(x, scores)
    assert (judged != x).any()
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(scores, before[1])


def test_where_every_deviation_counts_nothing_is_done() -> None:
    it = detector("gmm", BOTH, 1)
    x, scores = np.zeros((2, 1, 6), np.float32), np.full((1, 2), 1e9, np.float32)
    judged = it.relevance.judge(x, scores)
    assert judged[0] is x
    assert judged[1] is scores


def test_a_record_that_a_model_cannot_score_stays_so() -> None:
    it = detector("gmm", UP, 1)
    x = windows(it.encoder, moved(normal(60, seed=2), "load", -40.0))
    scores = it.scorer.score(x)
    scores[:, 30] = np.nan
    assert np.isnan(it.relevance.judge(x, scores)[1][:, 30]).all()

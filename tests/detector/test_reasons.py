from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from consumers.batch import Columns, Partition
from detector.alerts import LONGEST_TEXT, Reason
from detector.calibration import Calibration
from detector.config import FeatureSettings
from detector.entities import EntityTable
from detector.features import FeatureEncoder
from detector.reasons import Reasoner, Told
from detector.windows import EntityHistory
from models.base import Block, Explanation, FitReport, GenerativeModel, Layout, Progress, silent
from models.registry import build
from models.scorer import Scorer

LEVEL = float(-np.log(0.002))
MODELS: dict[str, dict[str, Any]] = {
    "gmm": {"components": 4, "max_components": 4, "covariance": "full"},
    "vae": {"latent": 4, "hidden": [32, 16], "score": "nll", "epochs": 100},
}
FEATURES = (
    *(FeatureSettings(name=name) for name in ("load", "cpu", "heat", "fan")),
    FeatureSettings(name="disk", transform="log1p"),
    FeatureSettings(name="failed", kind="flag"),
    FeatureSettings(name="zone", kind="categorical"),
    FeatureSettings(name="kind", kind="categorical"),
)
CORRUPTIONS = ("load", "cpu", "heat", "disk", "fan gone", "load gone", "failed", "zone", "zone unseen", "kind gone")
each_detector = pytest.mark.parametrize("models", ["gmm", "vae", "gmm+vae"])
each_window = pytest.mark.parametrize("window", [1, 2])


class Detector(NamedTuple):
    encoder: FeatureEncoder
    scorer: Scorer
    calibration: Calibration

    def windows(self, columns: Columns) -> NDArray[np.float32]:
        return EntityHistory(self.encoder, late_for=600.0).windows(columns, EntityTable(10).locate(columns.entity))[0]

    def nats(self, columns: Columns) -> NDArray[np.float64]:
        return self.calibration.nats(self.scorer.score(self.windows(columns)))

    def reasons(self, columns: Columns, rows: NDArray[np.intp], most: int = 5) -> list[Told]:
        x = self.windows(columns)[rows]
        by_model = self.calibration.by_model(self.scorer.score(x))
        reasoner = Reasoner(self.encoder, self.scorer, self.calibration, most)
        return reasoner.reasons(columns.take(rows), x, by_model, np.full(len(rows), LEVEL))


def table(numbers: Mapping[str, NDArray[np.float64]], texts: Mapping[str, NDArray[np.object_]]) -> Columns:
    n = len(next(iter(numbers.values())))
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=np.arange(n) * 1000,
        entity=np.array([f"m{row % 3}" for row in range(n)], object),
        numbers=dict(numbers),
        texts=dict(texts),
    )


def normal(n: int, seed: int) -> Columns:
    """Load drives cpu, disk and failures; the zone sets the heat and often the kind. `fan` and `kind` are missing now
    and then, other fields never."""
    chance = np.random.default_rng(seed)
    zone, load = chance.choice(3, n, p=[0.6, 0.3, 0.1]), chance.normal(size=n)
    kind = np.where(chance.random(n) < 0.9, zone, 0)
    fan = np.where(chance.random(n) < 0.05, np.nan, chance.normal(20.0, 2.0, n))
    kinds = np.array(["x", "y", "z"], object)[kind]
    kinds[chance.random(n) < 0.03] = None
    return table(
        {
            "load": load,
            "cpu": 0.8 * load + 0.3 * chance.normal(size=n),
            "heat": 1.5 * zone + 0.3 * chance.normal(size=n),
            "fan": fan,
            "disk": 100 * np.exp(0.5 * load + 0.2 * chance.normal(size=n)),
            "failed": (load + 0.3 * chance.normal(size=n) > 1.8).astype(float),
        },
        {"zone": np.array(["a", "b", "c"], object)[zone], "kind": kinds},
    )


def corrupted(columns: Columns, rows: NDArray[np.intp], count: int, seed: int = 0) -> Columns:
    """The columns with `count` corruptions of each of the rows."""
    chance = np.random.default_rng(seed)
    numbers = {name: values.copy() for name, values in columns.numbers.items()}
    texts = {name: values.copy() for name, values in columns.texts.items()}
    for row in rows:
        away = float(chance.choice([-1, 1]) * chance.uniform(5, 10))
        for what in chance.choice(CORRUPTIONS, count, replace=False):
            if what in ("load", "cpu", "heat"):
                numbers[what][row] += away
            elif what == "disk":
                numbers[what][row] *= np.exp(0.5 * away)
            elif what == "failed":
                numbers[what][row] = 1.0 - numbers[what][row]
            elif what == "zone":
                texts[what][row] = {"a": "c", "b": "a"}.get(texts[what][row], "b")
            elif what == "zone unseen":
                texts["zone"][row] = "q"
            elif what == "kind gone":
                texts["kind"][row] = None
            else:
                numbers[what.split()[0]][row] = np.nan
    return replace(columns, numbers=numbers, texts=texts)


def repaired(columns: Columns, told: Mapping[int, list[Reason]]) -> Columns:
    """The columns with the features that the reasons of a row name at the values that were published as expected."""
    numbers = {name: values.copy() for name, values in columns.numbers.items()}
    texts = {name: values.copy() for name, values in columns.texts.items()}
    for row, reasons in told.items():
        for reason in reasons:
            if reason.feature in texts:
                texts[reason.feature][row] = reason.expected
            else:
                assert not isinstance(reason.expected, str)
                numbers[reason.feature][row] = np.nan if reason.expected is None else reason.expected
    return replace(columns, numbers=numbers, texts=texts)


@cache
def encoded(window: int) -> tuple[FeatureEncoder, NDArray[np.float32]]:
    """Features fitted on two thirds of 6,000 records, and all of these as models see them."""
    columns = normal(6_000, seed=1)
    encoder = FeatureEncoder.fit(columns.take(slice(0, 4_000)), FEATURES, window=window)
    return encoder, EntityHistory(encoder, late_for=600.0).windows(columns, EntityTable(10).locate(columns.entity))[0]


@cache
def fitted(kind: str, window: int) -> GenerativeModel:
    encoder, x = encoded(window)
    model = build(kind, encoder.layout, MODELS[kind])
    model.fit(torch.from_numpy(x[:3_500]), torch.from_numpy(x[3_500:4_000]), seed=0)
    return model


@cache
def detector(models: str, window: int) -> Detector:
    encoder, x = encoded(window)
    kinds = models.split("+")
    scorer = Scorer({kind: fitted(kind, window) for kind in kinds}, "cpu")
    return Detector(encoder, scorer, Calibration.fit(dict(zip(kinds, scorer.score(x[4_000:]), strict=True))))


@cache
def alarms(models: str, window: int, count: int) -> tuple[Columns, NDArray[np.intp], list[Told]]:
    """Records of which every tenth has `count` corruptions, the rows of these that are beyond the level, and why."""
    it, clean = detector(models, window), normal(1_500, seed=2)
    rows = np.flatnonzero((np.arange(len(clean)) % 10 == 7) & (it.nats(clean) < LEVEL))
    columns = corrupted(clean, rows, count)
    rows = rows[it.nats(columns)[rows] >= LEVEL]
    return columns, rows, it.reasons(columns, rows)


@each_detector
@each_window
@pytest.mark.parametrize("count", [1, 2, 3])
def test_expected_values_of_the_features_named_make_a_record_normal(models: str, window: int, count: int) -> None:
    _, rows, told = alarms(models, window, count)
    assert len(rows) > 50
    assert np.mean([answer.makes_normal for answer in told]) >= 0.95
    assert np.median([len(answer.reasons) for answer in told]) <= count


@each_detector
@each_window
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_published_as_expected_keeps_the_promise(models: str, window: int, count: int) -> None:
    columns, rows, told = alarms(models, window, count)
    mended = repaired(columns, {row: answer.reasons for row, answer in zip(rows.tolist(), told, strict=True)})
    below = detector(models, window).nats(mended)[rows] < LEVEL
    assert below.tolist() == [answer.makes_normal for answer in told]


@each_detector
def test_no_feature_is_named_that_the_record_would_be_normal_without(models: str) -> None:
    columns, rows, told = alarms(models, 1, 3)
    fewer = {row: answer.reasons[:-1] for row, answer in zip(rows.tolist(), told, strict=True) if answer.makes_normal}
    chosen = np.array(list(fewer))
    assert (detector(models, 1).nats(repaired(columns, fewer))[chosen] >= LEVEL).all()


@each_detector
@each_window
def test_shares_of_all_features_sum_to_one(models: str, window: int) -> None:
    columns, rows, told = alarms(models, window, 3)
    it = detector(models, window)
    share, _ = it.scorer.explain(models.split("+")[0], it.windows(columns)[rows])
    np.testing.assert_allclose(it.encoder.shares(columns.take(rows), share).sum(axis=1), 1.0, rtol=1e-5)
    for answer in told:
        shares = [reason.share for reason in answer.reasons]
        assert shares == sorted(shares, reverse=True)
        assert 0.0 < sum(shares) <= 1.0 + 1e-5


@each_detector
def test_reasons_do_not_depend_on_what_else_is_asked(models: str) -> None:
    columns, rows, told = alarms(models, 2, 2)
    alone = [detector(models, 2).reasons(columns, rows[index : index + 1])[0] for index in range(0, len(rows), 7)]
    for one, all_ in zip(alone, told[::7], strict=True):
        assert one.makes_normal == all_.makes_normal
        assert [reason.feature for reason in one.reasons] == [reason.feature for reason in all_.reasons]
        assert [reason.share for reason in one.reasons] == pytest.approx([r.share for r in all_.reasons], abs=1e-4)


def test_at_most_so_many_features_are_named_and_it_is_told_when_they_do_not_suffice() -> None:
    columns, rows, told = alarms("gmm", 1, 3)
    few = detector("gmm", 1).reasons(columns, rows, most=1)
    assert {len(answer.reasons) for answer in few} == {1}
    needed = [len(answer.reasons) == 1 and answer.makes_normal for answer in told]
    assert [answer.makes_normal for answer in few] == needed


def test_a_record_that_is_unlikely_for_the_one_before_it_cannot_always_be_made_normal() -> None:
    it, columns = detector("gmm", 2), normal(60, seed=3)
    columns.numbers["heat"][30] += 30.0
    after = np.array([33])
    assert it.nats(columns)[33] >= LEVEL
    (answer,) = it.reasons(columns, after)
    assert not answer.makes_normal
    assert answer.reasons


def test_a_missing_field_is_told_with_the_value_that_was_expected() -> None:
    columns = normal(30, seed=4)
    columns.numbers["load"][20] = np.nan
    columns.numbers["heat"][20] = np.nan
    (answer,) = detector("gmm", 1).reasons(columns, np.array([20]))
    assert answer.makes_normal
    told = {reason.feature: reason for reason in answer.reasons}
    assert {"load", "heat"} <= set(told)
    assert told["load"].observed is None
    assert isinstance(told["load"].expected, float)


def test_long_texts_are_cut() -> None:
    columns = normal(30, seed=4)
    columns.texts["zone"][20] = "q" * 10_000
    (answer,) = detector("gmm", 1).reasons(columns, np.array([20]))
    assert answer.reasons[0].observed == "q" * LONGEST_TEXT


def test_nothing_is_asked_of_no_record() -> None:
    assert detector("gmm+vae", 1).reasons(normal(30, seed=4), np.empty(0, np.intp)) == []


class Opinion(GenerativeModel):
    """Finds records as unlikely as its weight times the square of the first column; expects `expected` of both."""

    kind: ClassVar[str] = "opinion"
    is_density: ClassVar[bool] = False

    def __init__(self, weight: float, expected: tuple[float, float]) -> None:
        super().__init__(Layout((Block("load", "numeric"), Block("cpu", "numeric"), Block("missing fields", "binary"))))
        self.weight, self.expected = weight, expected

    def fit(
        self, x: Tensor, valid: Tensor, *, seed: int, start: GenerativeModel | None = None, progress: Progress = silent
    ) -> FitReport:
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        return self.weight * x[:, -1, 0].square()

    def _explained(self, x: Tensor) -> Explanation:
        return Explanation(*(torch.tensor([row]).expand(len(x), 3) for row in ([0.7, 0.3, 0.0], [*self.expected, 0.0])))

    def sample(self, n: int, *, seed: int) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(("surer", "other", "expected"), [(0.0, 9.0, 0.0), (9.0, 0.0, 0.0), (9.0, 9.0, 9.0)])
def test_where_one_models_expectation_does_not_suffice_the_others_is_tried(
    surer: float, other: float, expected: float
) -> None:
    encoder = FeatureEncoder.fit(normal(500, seed=1), FEATURES[:2], window=1)
    scorer = Scorer({"one": Opinion(1.0, (other, 0.0)), "two": Opinion(1.0, (surer, 0.0))}, "cpu")
    x = np.random.default_rng(0).normal(size=(500, 1, 3)).astype(np.float32)
    calibration = Calibration.fit(dict(zip(("one", "two"), scorer.score(x), strict=True)))
    record = np.array([[[10.0, 0.0, 0.0]]], np.float32)
    (answer,) = Reasoner(encoder, scorer, calibration, 5).reasons(
        normal(1, seed=1), record, np.array([[8.0], [9.0]]), np.array([5.0])
    )
    assert answer.makes_normal == (expected == 0.0)
    assert answer.reasons[0].expected == pytest.approx(expected * encoder.parts[0].scale + encoder.parts[0].centre)

"""The gate, on versions that are worse in one way each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from consumers.batch import Columns
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.proving import gate
from detector.proving.gate import Judgement, _missed, compare
from detector.proving.injection import KINDS, inject
from detector.training_data import gather
from models.base import Explanation, FitReport, GenerativeModel, Progress, silent
from tests.detector.machines import START_MS, broker_with, records, settings, trained


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> DetectorSettings:
    return settings(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def recent(chosen: DetectorSettings) -> Columns:
    return gather(chosen, broker_with(records(2_000, start=3_000)), now_ms=START_MS).columns


class Worse(GenerativeModel):
    """A model that says something else of some records than the one it wraps."""

    kind: ClassVar[str] = "gmm"
    is_density: ClassVar[bool] = False

    def __init__(self, inner: GenerativeModel, says: Callable[[Tensor, Tensor], Tensor], blames: int | None) -> None:
        super().__init__(inner.layout)
        self.inner, self._says, self._blames = inner, says, blames

    def fit(
        self, x: Tensor, valid: Tensor, *, seed: int, start: GenerativeModel | None = None, progress: Progress = silent
    ) -> FitReport:
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        return self._says(x, self.inner.score(x))

    def _explained(self, x: Tensor) -> Explanation:
        told = self.inner.explain(x)
        if self._blames is None:
            return told
        share = torch.zeros_like(told.share)
        share[:, self._blames] = 1.0
        return Explanation(share, told.expected)

    def sample(self, n: int, *, seed: int) -> Tensor:
        raise NotImplementedError


def worse(version: Bundle, says: Callable[[Tensor, Tensor], Tensor], blames: int | None = None) -> Bundle:
    return replace(version, models={"gmm": Worse(version.models["gmm"], says, blames)})


def judged(
    challenger: Bundle, champion: Bundle, recent: Columns, chosen: DetectorSettings, *examples: Columns
) -> Judgement:
    return compare(challenger, champion, recent, chosen, examples=examples)


def test_a_version_is_as_good_as_itself(champion: Bundle, recent: Columns, chosen: DetectorSettings) -> None:
    told = judged(champion, champion, recent, chosen)
    assert told.reasons == []
    assert told.figures["found spike recent"] == told.figures["champion found spike recent"] > 0.3


def test_one_that_is_trained_on_other_records_of_the_stream_passes(
    other: Bundle, champion: Bundle, recent: Columns, chosen: DetectorSettings
) -> None:
    assert judged(other, champion, recent, chosen).reasons == []


def test_one_to_which_normal_records_are_less_likely_is_refused(
    champion: Bundle, recent: Columns, chosen: DetectorSettings
) -> None:
    unsure = worse(champion, lambda _, score: score + 20.0)
    assert any(
        "20 nats less likely to its gmm" in reason for reason in judged(unsure, champion, recent, chosen).reasons
    )


def test_one_that_finds_fewer_anomalies_is_refused(champion: Bundle, recent: Columns, chosen: DetectorSettings) -> None:
    blind = worse(champion, lambda x, score: score * 0.0 + x[:, -1, 0].remainder(0.001))
    reasons = judged(blind, champion, recent, chosen).reasons
    for base in ("recent", "generated"):
        assert any(f"of the anomalies put into {base} records, the champion" in reason for reason in reasons)


def test_one_that_is_blind_to_a_single_kind_is_refused_for_that_kind() -> None:
    theirs = dict.fromkeys(KINDS, 0.8)
    (reason,) = _missed("recent", {**theirs, "burst": 0.6}, theirs)
    assert reason.startswith(
        "it finds 60.0% of the anomalies of kind burst put into recent records, the champion 80.0%"
    )
    assert _missed("recent", {**theirs, "burst": 0.7}, theirs) == []


def test_one_that_blames_the_wrong_field_is_refused(
    champion: Bundle, recent: Columns, chosen: DetectorSettings
) -> None:
    wrong = worse(champion, lambda _, score: score, blames=0)
    (reason,) = judged(wrong, champion, recent, chosen).reasons
    assert reason.startswith("it names the field of ")


def test_one_that_does_not_find_a_confirmed_example_any_more_is_refused(
    champion: Bundle, recent: Columns, chosen: DetectorSettings
) -> None:
    example = recent.take(slice(0, 9, 3))
    example = replace(example, numbers={**example.numbers, "cpu": np.array([0.5, 0.5, 3.0])})
    blind = worse(champion, lambda x, score: torch.where(x[:, -1, 0] > 15.0, score.min(), score))
    told = judged(blind, champion, recent, chosen, example)
    assert told.figures["champion found examples"] == 1.0
    assert "it finds 0.0% of 1 confirmed examples, the champion 100.0%." in told.reasons


def test_versions_of_other_windows_are_shown_the_same_anomalies_none_in_the_window_of_another(
    champion: Bundle, recent: Columns, chosen: DetectorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Columns, NDArray[np.intp]]] = []

    def noted(*args: Any, **named: Any) -> tuple[Columns, NDArray[np.intp]]:
        shown.append(inject(*args, **named))
        return shown[-1]

    monkeypatch.setattr(gate, "inject", noted)
    compare(trained(tmp_path, window={"length": 5}), champion, recent, chosen, changed=True)
    ours, theirs = shown[: len(KINDS)], shown[len(KINDS) :]
    for (columns, rows), (same_columns, same_rows) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(rows, same_rows)
        np.testing.assert_array_equal(columns.numbers["cpu"], same_columns.numbers["cpu"])
        assert np.diff(rows[recent.entity[rows] == "m0"]).min() >= 5 * 3  # of three machines in turn


def test_the_order_of_records_and_of_calls_does_not_matter(
    champion: Bundle, other: Bundle, recent: Columns, chosen: DetectorSettings, tmp_path: Path
) -> None:
    assert judged(other, champion, recent, chosen) == judged(other, champion, recent, chosen)


def test_where_the_stream_has_changed_nothing_is_asked_of_what_the_champion_would_generate(
    champion: Bundle, other: Bundle, recent: Columns, chosen: DetectorSettings
) -> None:
    changed = compare(other, champion, recent, chosen, changed=True)
    assert [name for name in judged(other, champion, recent, chosen).figures if name.endswith("generated")]
    assert not [name for name in changed.figures if name.endswith("generated")]

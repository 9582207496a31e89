"""Two versions side by side on live records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from consumers.batch import RawBatch
from consumers.stream import Window
from detector.bundle import Bundle
from detector.proving.trial import Finding, SideBySide
from detector.training import train
from detector.training_data import gather
from tests.detector.machines import CREATED, START_MS, TOPIC, broker_with, records, settings


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A version of records in which the two metrics do not move together, and lie elsewhere."""
    chosen = settings(tmp_path_factory.mktemp("stranger"))
    odd = {number: {"cpu": 5.0 + number % 7 / 10, "load": number % 11 / 10} for number in range(3_000)}
    return train(gather(chosen, broker_with(records(3_000, odd=odd)), now_ms=START_MS), chosen, created=CREATED)


def live(*, odd: dict[int, dict[str, object]] | None = None) -> list[RawBatch]:
    return [*broker_with(records(2_000, start=3_000, odd=odd)).read([TOPIC], Window())]


def found(version: Bundle, other: Bundle, batches: list[RawBatch], tmp_path: Path) -> Finding:
    both = SideBySide(settings(tmp_path), version, other, 1)
    for batch in batches:
        both.judge(batch)
    return both.finding()


def test_a_version_that_fits_has_nothing_against_it(champion: Bundle, other: Bundle, tmp_path: Path) -> None:
    told = found(other, champion, live(), tmp_path)
    assert (told.reasons, told.records) == ([], 2_000)
    assert told.figures["promised"] == pytest.approx(20.0)


def test_one_trained_on_other_records_is_told_by_live_ones(champion: Bundle, stranger: Bundle, tmp_path: Path) -> None:
    told = found(stranger, champion, live(), tmp_path)
    assert any("it was trained on other records than these" in reason for reason in told.reasons)
    assert told.figures["far"] > 0.9 > told.figures["champion far"]


def test_where_the_stream_has_changed_the_one_that_fits_it_has_nothing_against_it(
    champion: Bundle, stranger: Bundle, tmp_path: Path
) -> None:
    odd: dict[int, dict[str, object]] = {
        number: {"cpu": 5.0 + number % 7 / 10, "load": number % 11 / 10} for number in range(3_000, 5_000)
    }
    assert found(stranger, champion, live(odd=odd), tmp_path).reasons == []


def test_an_event_on_live_records_speaks_against_nobody(champion: Bundle, other: Bundle, tmp_path: Path) -> None:
    odd: dict[int, dict[str, object]] = {number: {"cpu": 9.0} for number in range(3_500, 3_800)}
    assert found(other, champion, live(odd=odd), tmp_path).reasons == []


@pytest.mark.parametrize(("alarms", "others", "told"), [(41, 10, True), (39, 10, False), (41, 30, False)])
def test_a_version_that_alarms_twice_as_often_as_promised_is_told_where_the_other_does_not(
    champion: Bundle, tmp_path: Path, alarms: int, others: int, told: bool
) -> None:
    both = SideBySide(settings(tmp_path), champion, champion, 1)
    for batch in live():
        both.judge(batch)
    both._version.alarms, both._other.alarms = alarms, others  # of 20 promised
    assert bool(both.finding().reasons) == told


@pytest.mark.parametrize(("others", "told"), [(0.0, True), (0.3, True), (0.9, False)])
def test_strange_records_speak_against_a_version_only_where_they_are_less_strange_to_the_other(
    champion: Bundle, tmp_path: Path, others: float, told: bool
) -> None:
    both = SideBySide(settings(tmp_path), champion, champion, 1)
    turns = np.arange(1_000) % 10
    both._version.far, both._other.far = [np.ones(1_000, np.bool_)], [turns < 10 * others]
    assert bool(both.finding().reasons) == told

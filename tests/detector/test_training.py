from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from consumers.batch import Partition
from detector.config import DetectorSettings
from detector.errors import NotEnoughRows
from detector.training import judge, split_by_time, train
from detector.training_data import TrainingData, gather
from tests.detector.machines import CREATED, START_MS, TOPIC, broker_with, records, settings


def gathered(chosen: DetectorSettings, values: list[bytes]) -> TrainingData:
    return gather(chosen, broker_with(values), now_ms=START_MS + 10 * 86_400_000)


def test_the_last_records_are_taken_and_the_manifest_says_where_they_end(tmp_path: Path) -> None:
    data = gathered(settings(tmp_path, training={"records": 1_000, "min_records": 100}), records(1_500))
    assert len(data.columns) == 1_000
    assert data.columns.offsets.tolist() == list(range(500, 1_500))
    assert data.ends == {Partition(TOPIC, 0): 1_500}


def test_unusable_records_are_counted_and_left_out(tmp_path: Path) -> None:
    data = gathered(settings(tmp_path), [*records(600), b"not json", b"{}"])
    assert (len(data.columns), data.dropped) == (600, {"malformed": 1, "missing_entity": 1})


def test_too_few_records_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRows, match=r"hold 20 records .*min_records = 300"):
        gathered(settings(tmp_path), records(20))


def test_features_auto_are_inferred_from_the_records(tmp_path: Path) -> None:
    data = gathered(settings(tmp_path, features="auto"), records(900))
    assert {feature.name: feature.kind for feature in data.features} == {"cpu": "numeric", "load": "numeric"}


def test_files_train_like_the_topic_they_were_written_from(tmp_path: Path) -> None:
    values = records(1_200)
    (tmp_path / "past.ndjson").write_bytes(b"\n".join(values))
    from_files = gather(
        settings(tmp_path, training={"files": [str(tmp_path / "*.ndjson")]}), broker_with([]), now_ms=START_MS
    )
    from_topic = gathered(settings(tmp_path, training={"records": 1_200}), values)
    np.testing.assert_array_equal(from_files.columns.numbers["cpu"], from_topic.columns.numbers["cpu"])
    assert from_files.columns.entity.tolist() == from_topic.columns.entity.tolist()


def test_the_newest_share_calibrates_and_nothing_is_in_both_parts() -> None:
    time = np.array([5, 1, 4, 2, 3, 0, 9, 8, 7, 6])
    fitted, calibrating = split_by_time(time, 0.2)
    assert time[calibrating].tolist() == [8, 9]
    assert sorted([*fitted.tolist(), *calibrating.tolist()]) == list(range(10))


def test_calibration_rows_that_cannot_support_the_rate_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    chosen = settings(tmp_path, alerts={"topic": "machine-alerts", "rate": 0.001})
    data = gathered(chosen, records(1_000))
    with pytest.raises(NotEnoughRows, match=r"200 calibration rows cannot support alerts.rate 0.001: 999 are needed"):
        train(data, chosen, created=CREATED)


def test_the_same_records_and_seed_give_the_same_version(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    data = gathered(chosen, records(1_000))
    files = [train(data, chosen, created=CREATED).to_files() for _ in range(2)]
    assert files[0] == files[1]


def test_held_back_rows_that_keep_the_rate_are_sound() -> None:
    scores = np.random.default_rng(0).normal(size=2_000).astype(np.float32)
    verdict = judge({"gmm": scores}, 0.01)
    assert verdict.sound
    assert verdict.realised_rate <= 0.02


def test_a_level_that_the_held_back_rows_break_twice_over_is_not_sound() -> None:
    scores = np.random.default_rng(0).normal(size=2_000).astype(np.float32)
    scores[1_000:] += 1
    verdict = judge({"gmm": scores}, 0.01)
    assert not verdict.sound
    assert "promised 0.01" in verdict.reasons[0]


@pytest.mark.parametrize(("quiet_for", "warned"), [("5m", False), ("10h", True)])
def test_a_quiet_time_that_chance_will_break_is_warned_of(tmp_path: Path, quiet_for: str, warned: bool) -> None:
    chosen = settings(tmp_path, alerts={"topic": "machine-alerts", "rate": 0.01, "quiet_for": quiet_for})
    verdict = train(gathered(chosen, records(1_000)), chosen, created=CREATED).manifest.verdict
    assert bool(verdict.warnings) == warned
    assert verdict.sound

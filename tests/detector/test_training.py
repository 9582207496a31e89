from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.budget import Budget
from detector.bundle import Verdict
from detector.config import DetectorSettings
from detector.errors import NotEnoughRows, TrainingError
from detector.training import judge, split_by_time, steady, train
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


def test_too_few_calibration_rows_for_the_rate_are_warned_of_with_the_number_needed_and_the_rate_they_keep(
    tmp_path: Path,
) -> None:
    chosen = settings(tmp_path, alerts={"topic": "machine-alerts", "rate": 0.001})
    (warning,) = train(gathered(chosen, records(1_000)), chosen, created=CREATED).manifest.verdict.warnings
    assert warning.startswith("200 calibration rows do not reach down to rate 0.001: 999 are needed, so 4995 training")
    assert "The smallest rate for what is there is 0.00498" in warning


def test_enough_calibration_rows_are_not_warned_of(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    verdict = train(gathered(chosen, records(1_000)), chosen, created=CREATED).manifest.verdict
    low, high = verdict.rate_interval
    assert not verdict.warnings
    assert 0 < low < 0.01 < high < 0.1


def test_the_budget_of_a_version_is_that_of_its_traffic(tmp_path: Path) -> None:
    chosen = settings(tmp_path, alerts={"topic": "machine-alerts", "false_alarms": "43.2/day"})
    manifest = train(gathered(chosen, records(1_000)), chosen, created=CREATED).manifest
    assert manifest.rate == manifest.verdict.promised_rate == pytest.approx(0.01, rel=0.01)  # three records a minute
    assert manifest.data.records_by_partition() == {Partition(TOPIC, 0): 1_000}


def test_the_same_records_and_seed_give_the_same_version(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    data = gathered(chosen, records(1_000))
    files = [train(data, chosen, created=CREATED).to_files() for _ in range(2)]
    assert files[0] == files[1]


def judged(chosen: DetectorSettings, scores: NDArray[np.floating], *, entities: int = 1) -> Verdict:
    """The verdict on calibration rows with these scores, of so many entities in turn."""
    n = len(scores)
    columns = Columns(
        row=np.arange(n),
        partitions=(Partition(TOPIC, 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=np.arange(n) * 60_000,
        entity=np.array([f"m{number % entities}" for number in range(n)], object),
        numbers={},
        texts={},
    )
    return judge(["gmm"], scores[None].astype(np.float32), None, columns, chosen, Budget(0.01, None, 1_440))


@pytest.mark.parametrize("level", ["online", "static"])
def test_held_back_rows_that_keep_the_rate_are_sound(tmp_path: Path, level: str) -> None:
    verdict = judged(settings(tmp_path, calibration={"level": level}), np.random.default_rng(0).normal(size=4_000))
    assert verdict.sound
    assert verdict.realised_rate <= 0.02
    assert verdict.held_back_rows == 2_000


def test_a_static_level_that_the_held_back_rows_break_twice_over_is_not_sound(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=4_000)
    scores[2_000:] *= 1.6
    verdict = judged(settings(tmp_path, calibration={"level": "static"}), scores)
    assert not verdict.sound
    assert "promised 0.01. Expected at most 2 times the promised rate." in verdict.reasons[0]
    assert judged(settings(tmp_path), scores).sound  # an online level makes up for it


def test_the_verdict_tells_the_rate_of_each_segment(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=4_000) * np.tile([0.5, 2.0], 2_000)
    everybody = settings(tmp_path, calibration={"by": "all", "level": "static"})
    own = judged(settings(tmp_path, calibration={"level": "static"}), scores, entities=2).by_segment
    assert own.keys() == {"m0", "m1"}
    assert max(own.values()) <= 2
    assert judged(everybody, scores, entities=2).by_segment.keys() == {""}


@pytest.mark.parametrize(("quiet_for", "warned"), [("5m", False), ("10h", True)])
def test_a_quiet_time_that_chance_will_break_is_warned_of(tmp_path: Path, quiet_for: str, warned: bool) -> None:
    chosen = settings(tmp_path, alerts={"topic": "machine-alerts", "rate": 0.01, "quiet_for": quiet_for})
    verdict = train(gathered(chosen, records(1_000)), chosen, created=CREATED).manifest.verdict
    assert [warning.split(",")[0] for warning in verdict.warnings] == [
        "An entity raises an alarm by chance every 5.99e+03 s or so"
    ] * warned
    assert verdict.sound


def test_levels_by_a_field_that_no_record_has_are_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path, calibration={"by": "rack"})
    with pytest.raises(TrainingError, match=r"calibration\.by: none of 1000 records has the field 'rack'"):
        train(gathered(chosen, records(1_000)), chosen, created=CREATED)


def test_a_quiet_time_that_the_next_record_is_beyond_is_warned_of(tmp_path: Path) -> None:
    chosen = settings(tmp_path, alerts={"topic": "machine-alerts", "rate": 0.01, "quiet_for": "30s"})
    (warning,) = train(gathered(chosen, records(1_000)), chosen, created=CREATED).manifest.verdict.warnings
    assert "Set alerts.quiet_for to 180s or more" in warning


@pytest.mark.parametrize(("stops_at", "expected"), [(3_000, True), (1_500, False)])
def test_silence_is_worth_telling_where_all_entities_report_to_the_end(
    tmp_path: Path, stops_at: int, expected: bool
) -> None:
    values = [value for number, value in enumerate(records(3_000)) if number % 3 or number < stops_at]
    assert steady(gathered(settings(tmp_path), values).columns) == expected


def test_of_more_records_in_files_than_memory_is_to_hold_the_newest_and_some_of_the_older_are_taken(
    tmp_path: Path,
) -> None:
    for number in range(4):
        part = records(900, start=900 * number)
        (tmp_path / f"past-{number}.ndjson").write_bytes(b"\n".join([*part, b"broken"]))
    chosen = settings(tmp_path, training={"files": [str(tmp_path / "past-*.ndjson")], "max_records": 1_200})
    data = gather(chosen, broker_with([]), now_ms=START_MS)
    taken = len(data.columns)
    assert 600 <= taken <= 1_200
    assert data.dropped == {"unusable": 4, "passed over": 3_600 - taken}
    minutes = (data.columns.time - START_MS) // 60_000
    assert minutes.max() == 1_199
    assert minutes.min() < 300
    assert np.diff(np.unique(minutes)).max() < 400, "they are spread over all of them"

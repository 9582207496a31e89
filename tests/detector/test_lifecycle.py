from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from detector.config import TrainingSettings
from detector.lifecycle import UNSOUND, ChampionWatch, Result, Schedule, Trainer
from detector.store import Store
from tests.detector.machines import settings

NIGHT = datetime(2026, 3, 1, 2, 59, tzinfo=UTC)


def test_a_schedule_is_due_once_at_each_fire_time() -> None:
    schedule = Schedule(TrainingSettings(schedule="0 3 * * *"), NIGHT)
    assert not schedule.due(NIGHT)
    assert schedule.due(NIGHT + timedelta(minutes=1))
    assert not schedule.due(NIGHT + timedelta(minutes=2))
    assert schedule.due(NIGHT + timedelta(days=1, minutes=1))


def test_fire_times_missed_in_the_meantime_count_as_one() -> None:
    schedule = Schedule(TrainingSettings(schedule="*/5 * * * *"), NIGHT)
    later = NIGHT + timedelta(hours=6)
    assert schedule.due(later)
    assert not schedule.due(later)


def test_the_schedule_follows_its_time_zone_over_daylight_saving() -> None:
    schedule = Schedule(
        TrainingSettings(schedule="0 3 * * *", timezone="Europe/Berlin"), datetime(2026, 3, 30, tzinfo=UTC)
    )
    assert not schedule.due(datetime(2026, 3, 30, 0, 59, tzinfo=UTC))
    assert schedule.due(datetime(2026, 3, 30, 1, 0, tzinfo=UTC))


def test_without_a_schedule_nothing_is_ever_due() -> None:
    assert not Schedule(TrainingSettings(), NIGHT).due(NIGHT + timedelta(days=10_000))


@contextmanager
def training(code: str, timeout_s: float = 60) -> Iterator[Trainer]:
    trainer = Trainer([sys.executable, "-c", code], timeout_s)
    trainer.start(now=0.0)
    try:
        yield trainer
    finally:
        trainer.stop()


def result_of(trainer: Trainer) -> Result:
    while (result := trainer.poll(now=0.0)) is None:
        pass
    return result


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("", "promoted"),
        (f"raise SystemExit({UNSOUND})", "unsound"),
        ("1/0", "failed"),
        ("import os; os.abort()", "failed"),
    ],
)
def test_the_exit_code_says_how_a_training_ended(code: str, result: Result) -> None:
    with training(code) as trainer:
        assert result_of(trainer) == result
        assert not trainer.running
        assert trainer.poll(now=0.0) is None


def test_a_training_that_hangs_is_ended_at_its_deadline() -> None:
    with training("import signal; signal.pause()", timeout_s=10) as trainer:
        assert trainer.poll(now=9.9) is None
        assert trainer.poll(now=10.0) == "timeout"
        assert not trainer.running


@pytest.mark.parametrize(
    ("schedule", "at", "hours"),
    [
        ("0 3 * * *", datetime(2026, 3, 10, 3, 0, 5), 24),
        ("0 3 * * *", datetime(2026, 3, 10, 12, 0), 24),
        ("0 3 * * 1-5", datetime(2026, 3, 13, 3, 0, 5), 72),  # a Friday
        ("0 3 * * 1-5", datetime(2026, 3, 12, 3, 0, 5), 72),
        ("0 3 * * 1-5", datetime(2026, 3, 11, 3, 0, 5), 24),
        ("0 3 * * *", datetime(2026, 10, 24, 12, 0), 25),  # the clocks go back in Berlin in that night
        ("@weekly", datetime(2026, 3, 11), 168),
    ],
)
def test_the_time_between_trainings_is_the_longest_around_a_moment(schedule: str, at: datetime, hours: float) -> None:
    berlin = Schedule(TrainingSettings(schedule=schedule, timezone="Europe/Berlin"), NIGHT)
    assert berlin.interval_s(at.replace(tzinfo=ZoneInfo("Europe/Berlin"))) == hours * 3600


def test_without_a_schedule_there_is_no_time_between_trainings() -> None:
    assert Schedule(TrainingSettings(), NIGHT).interval_s(NIGHT) is None


def test_a_watch_tells_of_looks_that_failed_and_of_the_last_good_one(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "machines"
    folder.mkdir(parents=True)
    (folder / "champion.json").write_text("no pointer")
    chosen = settings(tmp_path)
    watch = ChampionWatch(Store(chosen.store.url, "machines"), chosen, "v1")
    try:
        while (bad := watch.look).failed < 2:
            pass
        assert "champion.json" in bad.trouble
        (folder / "champion.json").unlink()
        while (good := watch.look).trouble:
            pass
        assert good.good_at > bad.good_at
        assert good.next_at == pytest.approx(good.good_at + chosen.store.poll)
        assert good.failed >= bad.failed
    finally:
        watch.stop()

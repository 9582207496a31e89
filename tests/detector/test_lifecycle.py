from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from detector.config import TrainingSettings
from detector.lifecycle import UNSOUND, Result, Schedule, Trainer

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

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from consumers.batch import RawBatch
from consumers.records import to_batch
from detector.bundle import Bundle
from detector.config_service import HealthSettings
from detector.health import Health
from detector.history.recorder import MOST_DEAD_LETTERS, Recorder
from detector.pipeline import Outcome, Pipeline
from tests.detector.machines import START_MS, TOPIC, records, settings
from tests.detector.test_pipeline import ATTACK, batch_of

DAY_MS = 86_400_000
WEEK = (START_MS - DAY_MS, START_MS + 7 * DAY_MS)


@pytest.fixture
def pipeline(tmp_path: Path, champion: Bundle) -> Pipeline:
    return Pipeline(settings(tmp_path), champion)


def recorder(now_ms: int = START_MS + DAY_MS) -> Recorder:
    return Recorder(Health(HealthSettings()), lambda: now_ms / 1000)


def played(pipeline: Pipeline, *values: bytes | None) -> tuple[RawBatch, Outcome]:
    batch = batch_of([*values])
    return batch, pipeline.process(batch)


def test_the_pictures_add_up_to_what_was_decided(pipeline: Pipeline) -> None:
    batch, outcome = played(pipeline, *records(400, seed=1, odd=ATTACK))
    told = recorder()
    told.observe(batch, outcome)
    counted, promised, alarms, elevated, _ = told.stream(*WEEK).sums.sum(axis=1)
    assert (counted, alarms, elevated) == (400, outcome.decided.alarm.sum(), outcome.decided.elevated.sum())
    assert promised == pytest.approx(outcome.promised.sum())
    assert told.stream(*WEEK).peaks.max() == outcome.decided.nats.max()
    assert (told.totals.records, told.totals.alarms) == (400, alarms)
    assert told.newest == START_MS + 133 * 60_000 + 1_000


def test_dead_letters_count_by_reason_and_the_latest_can_be_looked_at(pipeline: Pipeline) -> None:
    told = recorder()
    told.observe(*played(pipeline, *records(300), *[b"{"] * MOST_DEAD_LETTERS, b"[]", None))
    by_reason, latest = told.lost()
    assert sum(by_reason.values()) == told.totals.dead_letters == MOST_DEAD_LETTERS + 2
    assert len(latest) == MOST_DEAD_LETTERS
    assert (latest[0].partition.topic, latest[0].offset) == (TOPIC, 300 + MOST_DEAD_LETTERS + 1)
    assert latest[0].error


def test_a_clock_from_the_far_future_leaves_the_pictures_alone(pipeline: Pipeline) -> None:
    wild = json.dumps({"machine": "m0", "ts": START_MS + 3_650 * DAY_MS, "cpu": 0.5, "load": 1.0}).encode()
    told = recorder()
    told.observe(*played(pipeline, *records(3), wild))
    assert told.totals.records == 4
    assert told.newest == START_MS + 1_000
    assert told.stream(*WEEK).sums[0].sum() == 3


def test_records_a_second_are_those_of_the_last_ones(pipeline: Pipeline) -> None:
    now = [1_000.0]
    told = Recorder(Health(HealthSettings()), lambda: now[0])
    told.observe(*played(pipeline, *records(50)))
    now[0] = 1_001.5
    assert told.records_per_s() == 10
    now[0] = 1_060.0
    assert told.records_per_s() == 0


def test_an_empty_batch_is_taken(pipeline: Pipeline) -> None:
    told, batch = recorder(), to_batch({}, ends={})
    told.observe(batch, pipeline.process(batch))
    assert told.newest is None
    assert np.array_equal(told.own(DAY_MS).sums, [[]])

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.latency.__main__ import summarise
from benchmarks.latency.producer import with_time
from benchmarks.latency.ways import bare, daemon
from benchmarks.stage import Stage
from benchmarks.workload import TIMESTAMP, values


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, "127.0.0.1:1", "latency")


def test_a_record_is_sent_with_the_time_of_its_sending() -> None:
    value = values(0, 1)[0]
    sent = with_time(value)(1_800_000_000_000)
    assert json.loads(sent) == {**json.loads(value), TIMESTAMP: 1_800_000_000_000}


def test_an_alert_counts_from_the_time_of_its_record_where_it_opens_an_incident(stage: Stage) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    way = daemon(stage, "kafka-python")
    told = {"time": at.isoformat(), "kind": "opened"}
    assert way.sent(json.dumps(told).encode()) == at.timestamp()
    assert way.sent(json.dumps({**told, "kind": "resolved"}).encode()) is None


def test_the_bare_round_trip_counts_every_message(stage: Stage) -> None:
    assert bare(stage, "kafka-python").sent(b'{"ts": 1500}') == 1.5


def test_ratios_are_of_the_median_percentiles() -> None:
    runs = {"daemon/kafka-python": [[30.0], [10.0], [20.0]], "bare/kafka-python": [[10.0], [10.0], [90.0]]}
    said = summarise(runs, {"kafka-python": {"daemon": 6.0, "bare": 3.0}})
    assert said["p99_ms"] == {"daemon/kafka-python": 20.0, "bare/kafka-python": 10.0}
    assert said["p99_ratio"] == {"kafka-python": 2.0}
    assert said["start_ratio"] == {"kafka-python": 2.0}

"""Whether `false_alarms: 3/day` is what happens, whatever the traffic.

    python -m benchmarks.budget [--json FILE]

The demo's recording (a real server, 38 metrics, a record a minute) is replayed with other timestamps: at a tenth of the
traffic, as it is, at ten times the traffic, and with days of ten times the traffic of the nights; trained on the first
half at the same pace, and once trained at the recording's own pace with a second half of three times and a third of the
traffic. Counted are incidents opened outside labelled events, a day of the replayed time.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.budget import DAY_MS
from detector.config import DetectorSettings
from detector.demo.recording import MACHINE, START_MS, Recording, load_recording
from detector.loading import parse
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import TrainingData

BUDGET = 3.0
BAND = (1.5, 6.0)
AFTERMATH = 16
"""Rows after a labelled event that count as part of it."""
MODELS = ("auto", "gmm", "vae", "gmm+vae")
MINUTE_MS = 60_000.0

Pace = Callable[[int, int], NDArray[np.int64]]
"""Event times of the rows of the first half and of the second, given how many there are of each."""


def main() -> None:
    """Replays the recording at each pace with each model and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="also write the result to this file")
    target = arguments.parse_args().json
    recording = load_recording()
    runs = {f"{models}, {name}": replayed(recording, models, pace) for models in MODELS for name, pace in PACES.items()}
    result = {"promised_per_day": BUDGET, "in_band": all(run["in_band"] for run in runs.values()), "runs": runs}
    if target:
        target.write_text(json.dumps(result, indent=2))
    print(json.dumps(result))  # noqa: T201 - the result


def evenly(first: float, second: float) -> Pace:
    """So many times the recording's traffic in the first half and in the second."""

    def times(rows: int, more: int) -> NDArray[np.int64]:
        gaps = np.concatenate([np.full(rows, MINUTE_MS / first), np.full(more, MINUTE_MS / second)])
        return _from_gaps(gaps)

    return times


def by_day(rows: int, more: int) -> NDArray[np.int64]:
    """A record a minute in the mean; at noon ten times as many as at midnight."""
    clock = np.arange(0.0, 40 * DAY_MS, MINUTE_MS)
    traffic = 1 - 9 / 11 * np.cos(2 * np.pi * clock / DAY_MS)
    told = np.interp(np.arange(rows + more), np.cumsum(traffic), clock)
    times: NDArray[np.int64] = START_MS + told.astype(np.int64)
    return times


PACES: dict[str, Pace] = {
    "a tenth of the traffic": evenly(0.1, 0.1),
    "a record a minute": evenly(1, 1),
    "ten times the traffic": evenly(10, 10),
    "day and night": by_day,
    "three times the traffic of training": evenly(1, 3),
    "a third of the traffic of training": evenly(1, 1 / 3),
}


def replayed(recording: Recording, models: str, pace: Pace) -> dict[str, Any]:
    """What came of the second half, trained on the first."""
    half = recording.half
    times = pace(half, len(recording.values) - half)
    settings = settings_for(recording, models)
    features = () if settings.features == "auto" else settings.features
    data = TrainingData(columns_of(recording, times, slice(0, half)), features, {}, {})
    pipeline = Pipeline(settings, train(data, settings, created=datetime(2026, 1, 1, tzinfo=UTC)))
    rows = slice(half, None)
    outcome = pipeline.judge(columns_of(recording, times, rows))
    labelled = np.convolve(recording.labels[rows] != 0, np.ones(AFTERMATH + 1))[: len(recording.labels[rows])] > 0
    opened = np.array([alert.source.offset - half for alert in outcome.alerts if alert.kind == "opened"], np.int64)
    days = float(times[-1] - times[half]) / DAY_MS * float((~labelled).mean())
    false = int((~labelled[opened]).sum())
    events = [(a - half, b - half) for a, b in recording.events() if a >= half]
    shown = outcome.decided.alarm | outcome.decided.elevated
    return {
        "false_per_day": round(false / days, 2),
        "in_band": bool(BAND[0] <= false / days <= BAND[1]),
        "false": false,
        "days": round(days, 1),
        "rate": round(float(outcome.promised.mean()), 6),
        "events": len(events),
        "events_found": sum(bool(shown[a:b].any()) for a, b in events),
    }


def settings_for(recording: Recording, models: str) -> DetectorSettings:
    """The demo's detector with its budget a day."""
    return parse(
        {
            "name": MACHINE,
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": ["rows"]},
            "features": list(recording.metrics),
            "models": "auto" if models == "auto" else models.split("+"),
            "alerts": {"topic": "alerts", "false_alarms": f"{BUDGET:g}/day"},
        }
    )


def columns_of(recording: Recording, times: NDArray[np.int64], rows: slice) -> Columns:
    """Rows of the recording at those times."""
    values, offsets = recording.values[rows], np.arange(len(times))[rows]
    n = len(values)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("rows", 0),),
        partition=np.zeros(n, np.int32),
        offsets=offsets,
        time=times[rows],
        entity=np.full(n, "", object),
        numbers={name: values[:, column].astype(np.float64) for column, name in enumerate(recording.metrics)},
        texts={},
    )


def _from_gaps(gaps: NDArray[np.float64]) -> NDArray[np.int64]:
    times: NDArray[np.int64] = START_MS + np.cumsum(gaps).astype(np.int64)
    return times


if __name__ == "__main__":
    main()

"""Whether alerts come later while a training runs beside the daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lifecycle.live import ALERTS, TOPIC, Live, live, sending
from benchmarks.lifecycle.machine import Machine
from consumers.batch import Partition
from consumers.stream import Window
from detector.alerts import Alert
from detector.trainings import Request, Trainings

ENTITIES, ROWS_PER_S = 40, 25.0
EVERY = 25
"""One row in so many is anomalous, of all entities at once."""
TRAINED, QUIET_S, MOST_S = 30_000, 40.0, 300.0


def figures(machine: Machine, folder: Path) -> dict[str, Any]:
    """Milliseconds from a record's arrival to that of the alert it opens, by their producers' clocks, in quiet and
    while a training runs; and the ratio of the 99th percentiles."""
    values = machine.recording.values[: machine.recording.half].copy()
    first = TRAINED // ENTITIES
    values[first::EVERY] *= 5.0
    changes: dict[str, Any] = {
        "models": [{"type": "gmm"}, {"type": "vae"}],
        "training": {"records": TRAINED, "on_drift": False},
        "promotion": {"shadow": 0, "watch": 0},
        "alerts": {
            "topic": ALERTS,
            "rate": 0.05,
            "quiet_for": "1s",
            "silence": False,
            "together": {"entities": 1_000_000},
        },
    }
    with live(folder, values, entities=ENTITIES, **changes) as stage:
        stage.send(first)
        stage.command("train")
        stage.start("one")
        stage.await_ready()
        with sending(stage, ROWS_PER_S):
            time.sleep(QUIET_S / 4)  # what has to be compiled, is
            began = time.time()
            time.sleep(QUIET_S)
            trainings = Trainings(stage.store)
            asked = time.time()
            request = trainings.ask(Request(reason="demand"))
            stage.until(lambda: stage.counters().get("training_phase", 0) > 0, 30.0)
            training = time.time()
            stage.until(lambda: trainings.report(request.id) is not None, MOST_S)
            ended = time.time()
        times, delays = _delays(stage)
    quiet, busy = (
        delays[(times >= 1000 * start) & (times < 1000 * stop)] for start, stop in ((began, asked), (training, ended))
    )
    return {
        "quiet_ms": _percentiles(quiet),
        "training_ms": _percentiles(busy),
        "training_s": round(ended - training, 1),
        "p99_while_training": round(float(np.quantile(busy, 0.99) / np.quantile(quiet, 0.99)), 3),
    }


def _delays(stage: Live) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When records arrived that opened an incident, and how much later the alert did (ms)."""
    arrived = dict[tuple[Partition, int], int]()
    for batch in stage.broker.read([TOPIC], Window()):
        arrived |= {batch.source(row): int(batch.timestamps[row]) for row in range(len(batch))}
    found = []
    for batch in stage.broker.read([ALERTS], Window()):
        for row, value in enumerate(batch.values):
            alert = Alert.model_validate_json(value or b"")
            if alert.kind == "opened":
                source = Partition(alert.source.topic, alert.source.partition), alert.source.offset
                found.append((arrived[source], int(batch.timestamps[row]) - arrived[source]))
    times, delays = np.array(found, np.int64).reshape(-1, 2).T
    return times, delays


def _percentiles(delays: NDArray[np.int64]) -> dict[str, float]:
    return {"alerts": len(delays), **{f"p{share}": float(np.percentile(delays, share)) for share in (50, 95, 99)}}

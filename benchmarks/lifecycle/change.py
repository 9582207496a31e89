"""A stream that changes for good, with an attack in it, and nobody there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lifecycle.live import ALERTS, Live, live, sending
from benchmarks.lifecycle.machine import Machine
from consumers.stream import Window
from detector.alerts import Alert
from detector.demo.recording import START_MS, STEP_MS
from detector.proving.cleaning import incident_spans
from detector.trainings import Report, Trainings

TRAINED = 8_000
ONSET, ATTACK, LASTS = 1_000, 2_000, 150
"""Live rows from which on a third of the fields is moved, and from which on there is an attack, for so many rows. It is
after the level has told of drift, some 800 rows on: what comes before is of the drift, as far as anybody can tell."""
SIGMAS = 3.0
ROWS_PER_S = 60.0
AFTER = 2_500
"""Rows under the new version on which the realised rate is measured."""
PATIENCE_S = 360.0


class Stream(NamedTuple):
    """Rows, the first `TRAINED` to begin with; which of them (n,) are an attack."""

    values: NDArray[np.float64]
    attack: NDArray[np.bool_]


def synthetic(machine: Machine) -> Stream:
    """The machine's records, a third of the fields moved by three standard deviations from some row on."""
    values = machine.recording.values[: machine.recording.half].copy()
    chance = np.random.default_rng(0)
    spread = values[:TRAINED].std(axis=0)
    moved, hit = (chance.choice(np.flatnonzero(spread > 0), 12, replace=False) for _ in range(2))
    values[TRAINED + ONSET :, moved] += SIGMAS * spread[moved]
    attack = np.zeros(len(values), np.bool_)
    attack[TRAINED + ATTACK :][:LASTS] = True
    values[np.ix_(attack, hit)] += 3 * SIGMAS * spread[hit]
    return Stream(values, attack)


def real(suite: Path) -> Stream:
    """A server that behaves otherwise from some 4,500 rows on, with its own labels."""
    with np.load(suite / "server_multivariate" / "smd_machine-1-6.npz", allow_pickle=False) as data:
        before, after, labels = data["X_train"][-TRAINED:], data["X_test"][3_000:21_000], data["y_test"][3_000:21_000]
    attack = np.concatenate([np.zeros(TRAINED, np.bool_), labels > 0])
    return Stream(np.concatenate([before, after]).astype(np.float64), attack)


def recovered(stream: Stream, folder: Path) -> dict[str, Any]:
    """Has a daemon serve it. Whether drift was told and a version promoted for it, the alarms under that version over
    those promised, and which share of the attack's records the training left out that came after it."""
    changes: dict[str, Any] = {
        "training": {"records": TRAINED, "drift_pause": "5s"},
        "promotion": {"shadow": 1_000, "watch": 500, "wait": "60s"},
    }
    with live(folder, stream.values, **changes) as stage:
        stage.send(TRAINED)
        stage.command("train")
        first = stage.store.champion()
        stage.start("one")
        stage.await_ready()
        with sending(stage, ROWS_PER_S):
            promoted = stage.until(
                lambda: first not in (*stage.versions().values(), None) and bool(stage.versions()), PATIENCE_S
            )
            began = stage.rows
            before = stage.counters()
            stage.until(lambda: stage.rows >= min(began + AFTER, len(stream.values)), 2 * AFTER / ROWS_PER_S)
        stage.until(lambda: stage.counters().get("lag_records") == 0, 30.0)
        after = stage.counters()
        alarms, due = (after[name] - before[name] for name in ("alarms", "promised_alarms"))
        told = _alerts(stage)
        return {
            "drift_told": sum(alert.kind in ("drift", "creep") for alert in told),
            "promoted": promoted,
            "promoted_at_row": began - TRAINED,
            "ratio": round(alarms / max(due, 1e-9), 3),
            "promised": round(due, 1),
            "attack_left_out": round(_left_out(stream, told, began), 3),
            "trainings": [_outcome(report) for report in Trainings(stage.store).reports(20)],
        }


def _alerts(stage: Live) -> list[Alert]:
    return [
        Alert.model_validate_json(value)
        for batch in stage.broker.read([ALERTS], Window())
        for value in batch.values
        if value
    ]


def _left_out(stream: Stream, told: list[Alert], rows: int) -> float:
    """Share of the attack's records that came by then which lie inside incidents, as a training sees them."""
    times = START_MS + STEP_MS * np.flatnonzero(stream.attack[:rows])
    inside = np.zeros(len(times), np.bool_)
    for begin, end in incident_spans(told).get("m0", []):
        inside |= (times >= begin) & (times <= end)
    return float(inside.mean()) if len(times) else 1.0


def _outcome(report: Report) -> str:
    return f"{report.reason}: {report.outcome} {'; '.join(report.reasons)[:160]}".strip()

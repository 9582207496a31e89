"""Labelled false alarms: how many fewer there are afterwards, and whether others are found as before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.lifecycle.machine import Machine
from consumers.batch import Columns, Partition
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.demo.recording import START_MS, STEP_MS
from detector.feedback import Feedback
from detector.feedback_effects import Opinions
from detector.loading import parse
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import TrainingData

LABELLED = 20
SEGMENTS = ("noisy", "calm")
RATE = 0.01
NOISE = 0.01
"""Share of the noisy segment's records with one field at its highest, beside what it does anyhow."""


def figures(machine: Machine) -> dict[str, Any]:
    """The recording twice, as two entities; one has a fault of its own that means nothing, and people say so of twenty
    alerts. Alerts of either before and after, with and without what was said."""
    settings = _settings(machine)
    values = machine.recording.values
    half = len(values) // 2
    bundle = train(
        TrainingData(_columns(machine, 0, half, noisy=False), machine.features, {}, {}),
        settings,
        created=datetime.now(UTC),
    )
    pipeline = Pipeline(settings, bundle)
    told: list[Alert] = []
    row = half
    while sum(alert.entity == SEGMENTS[0] for alert in told) < LABELLED and row < len(values):
        told += _opened(pipeline, _columns(machine, row, row + 500, noisy=True))
        row += 500
    said = [_false(alert) for alert in told if alert.entity == SEGMENTS[0]][:LABELLED]
    rest = _columns(machine, row, len(values), noisy=True)
    without = [*_opened(_continued(settings, machine, bundle, half, row), rest)]
    pipeline.heed(Opinions(said, settings.feedback.counts_for))
    heeding = [*_opened(pipeline, rest)]
    count = {
        name: {segment: sum(alert.entity == segment for alert in alerts) for segment in SEGMENTS}
        for name, alerts in (("without", without), ("with", heeding))
    }
    noisy, calm = SEGMENTS
    return {
        "feedback_labels": len(said),
        "feedback_cut": round(1 - count["with"][noisy] / max(1, count["without"][noisy]), 4),
        "feedback_alerts": count,
        "feedback_others_unchanged": [it.id for it in without if it.entity == calm]
        == [it.id for it in heeding if it.entity == calm],
    }


def _settings(machine: Machine) -> DetectorSettings:
    base = machine.settings(machine.folder / "labels").model_dump(mode="json", exclude_unset=True)
    together = {"entities": 1_000_000}
    base["alerts"] = {"topic": "server-alerts", "rate": RATE, "quiet_for": "10m", "together": together}
    return parse(base, origin="benchmark")


def _columns(machine: Machine, first: int, stop: int, *, noisy: bool) -> Columns:
    """Rows of the recording, each twice: as the noisy entity and as the calm one."""
    values = machine.recording.values[first:stop]
    n = 2 * len(values)
    numbers = {name: np.repeat(values[:, at], 2) for at, name in enumerate(machine.recording.metrics)}
    if noisy:
        chance = np.random.default_rng(first)
        odd = 2 * np.flatnonzero(chance.random(len(values)) < NOISE)
        field = machine.recording.metrics[0]
        numbers[field] = numbers[field].copy()
        numbers[field][odd] = machine.recording.values[:, 0].max() * 1.5
    return Columns(
        row=np.arange(n),
        partitions=(Partition("server-telemetry", 0),),
        partition=np.zeros(n, np.int32),
        offsets=2 * first + np.arange(n),
        time=START_MS + STEP_MS * np.repeat(np.arange(first, first + len(values)), 2),
        entity=np.tile(np.array(SEGMENTS, object), len(values)),
        numbers=numbers,
        texts={},
    )


def _continued(settings: DetectorSettings, machine: Machine, bundle: Bundle, half: int, row: int) -> Pipeline:
    """A pipeline that has seen the same records, and has heard nothing."""
    pipeline = Pipeline(settings, bundle)
    for start in range(half, row, 500):
        pipeline.judge(_columns(machine, start, min(start + 500, row), noisy=True))
    return pipeline


def _opened(pipeline: Pipeline, columns: Columns) -> Iterator[Alert]:
    return (alert for alert in pipeline.judge(columns).alerts if alert.kind == "opened")


def _false(alert: Alert) -> Feedback:
    return Feedback(label="false_alarm", author="benchmark", time=alert.time, alert=alert, until=alert.time)

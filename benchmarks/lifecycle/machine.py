"""The demo's machine: its recording, a version trained on the beginning of it, and retrainings on what came later."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.config import DetectorSettings, FeatureSettings
from detector.demo.recording import MACHINE, START_MS, STEP_MS, Recording, load_recording
from detector.lease import Lease
from detector.loading import parse
from detector.pipeline import Pipeline
from detector.retraining import retrain
from detector.store import Store
from detector.training import train
from detector.training_data import gather
from detector.trainings import Report, Request

TRAINED = 23_703
"""Rows, a record a minute, that a version is trained on."""
LIVE = 4_000
"""Rows after them that come while it is on trial."""
PROMOTION = {"shadow": LIVE // 2, "watch": LIVE // 2, "wait": "10s"}
TOPIC = "server-telemetry"
RATE = 0.005


@dataclass(frozen=True)
class Machine:
    """A recording, and a folder with the store that holds the version trained on its first rows."""

    recording: Recording
    folder: Path
    models: Sequence[dict[str, Any]]

    @property
    def features(self) -> list[FeatureSettings]:
        return [FeatureSettings(name=name) for name in self.recording.metrics]

    @classmethod
    def trained(cls, folder: Path, models: Sequence[dict[str, Any]]) -> Machine:
        """The machine with its first version."""
        machine = cls(load_recording(), folder, models)
        settings, broker = machine.settings(folder / "first"), MemoryBroker()
        broker.create_topics({TOPIC: 1})
        machine.send(broker, machine.recording.values[:TRAINED], 0)
        bundle = train(gather(settings, broker, now_ms=0), settings, created=datetime.now(UTC))
        store = Store(settings.store.url, settings.name)
        store.save(bundle)
        store.promote(bundle.version)
        return machine

    def settings(self, store: Path, *, promotion: Mapping[str, Any] = PROMOTION, **training: Any) -> DetectorSettings:
        """As a user would write them, for as many records as the version was trained on."""
        return parse(
            {
                "name": MACHINE,
                "kafka": {"bootstrap": "127.0.0.1:1"},
                "stream": {"topics": [TOPIC], "entity": "machine", "timestamp": "time"},
                "features": list(self.recording.metrics),
                "models": [*self.models],
                "training": {"records": TRAINED, **training},
                "alerts": {"topic": "server-alerts", "rate": RATE, "quiet_for": "10m"},
                "store": {"url": str(store)},
                "promotion": dict(promotion),
                "web": {"enabled": False},
            },
            origin="benchmark",
        )

    def send(
        self, broker: MemoryBroker, values: NDArray[np.float64], first: int, timestamp_ms: int | None = None
    ) -> None:
        """Rows (n, metrics) as records of the minutes from `first` on; what is NaN is no JSON number, as careless
        producers write it."""
        for row, numbers in enumerate(values.tolist(), first):
            fields = dict(zip(self.recording.metrics, numbers, strict=True))
            record = {"machine": MACHINE, "time": START_MS + row * STEP_MS, **fields}
            broken = any(number != number for number in numbers)
            value = _careless(record) if broken else msgspec.json.encode(record)
            broker.append(TOPIC, value, timestamp_ms=timestamp_ms)

    def retrained(
        self, values: NDArray[np.float64], first: int, live: NDArray[np.float64], **training: Any
    ) -> tuple[Report, bool]:
        """What becomes of a retraining on these rows, of the minutes from `first` on, and of these live rows after
        them; and whether another version than the first serves in the end."""
        store_folder = self.folder / "retrained"
        shutil.rmtree(store_folder, ignore_errors=True)
        shutil.copytree(self.folder / "first", store_folder)
        settings, broker = self.settings(store_folder, **training), MemoryBroker()
        broker.create_topics({TOPIC: 1, settings.alerts.topic: 1})
        self.send(broker, values, first)
        store = Store(settings.store.url, settings.name)
        _watched(settings, store, broker)
        before, then = store.champion(), first + len(values)
        parts = {"shadow": live[: LIVE // 2], "watch": live[LIVE // 2 :]}

        def phase(told: str) -> None:
            word = told.split()[0]
            if word in parts:
                nonlocal then
                self.send(broker, parts[word], then)
                then += len(parts.pop(word))

        lease = Lease(store)
        while not lease.take():
            pass  # nobody else is there to claim it
        report = retrain(settings, broker, store, request=Request(reason="demand"), lease=lease, phase=phase)
        return report, store.champion() != before


def _watched(settings: DetectorSettings, store: Store, broker: MemoryBroker) -> None:
    """Has the champion judge the records of the topic, as a daemon would have done, and publish its alerts."""
    champion = store.servable()
    assert champion is not None
    pipeline = Pipeline(settings, champion)
    for batch in broker.read([TOPIC], Window()):
        for alert in pipeline.process(batch).alerts:
            message = alert.message(settings.alerts.topic)
            broker.append(message.topic, message.value, message.key)


def _careless(record: dict[str, Any]) -> bytes:
    text = msgspec.json.encode({key: "\0" if value != value else value for key, value in record.items()})
    return text.replace(b'"\\u0000"', b"NaN")

"""A topic and a trained detector that watches it, for the benchmarks of speed."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import told
from benchmarks.workload import ANOMALOUS, ENTITY, FEATURES, TIMESTAMP, training
from consumers.kafka_python import KafkaPythonBroker
from consumers.memory import MemoryBroker
from consumers.settings import KafkaSettings

MIXTURE: dict[str, Any] = {"type": "gmm", "components": 8}
VAE: dict[str, Any] = {"type": "vae", "latent": 4, "hidden": [64, 32], "epochs": 20}
DETECTORS: dict[str, dict[str, Any]] = {
    "mixture": {"models": [MIXTURE], "window": {"length": 1}},
    "vae": {"models": [VAE], "window": {"length": 1}},
    "both-windows": {"models": [MIXTURE, VAE], "window": {"length": 16}},
}
"""What the detector is made of, by name."""


def settings(store: Path, model: str, *, bootstrap: str, topic: str, group: str, client: str) -> dict[str, Any]:
    """Settings of one of `DETECTORS`. Alerts go to the topic `<group>-alerts`, state to `<group>-state`.

    Incidents are never told together: at this rate of anomalies that would hide nearly all of them.
    """
    return {
        "name": model,
        "kafka": {"bootstrap": bootstrap, "client": client, "group": group, "start": "earliest"},
        "stream": {"topics": [topic], "entity": ENTITY, "timestamp": TIMESTAMP},
        "features": list(FEATURES),
        **DETECTORS[model],
        "training": {"files": [str(store / "training.ndjson")]},
        "alerts": {"topic": f"{group}-alerts", "rate": ANOMALOUS, "together": {"entities": 1_000_000_000}},
        "state": {"topic": f"{group}-state"},
        "store": {"url": str(store)},
        "web": {"enabled": False},
    }


def unique(word: str) -> str:
    """A name that begins with the word, which nobody else uses on the broker."""
    return f"{word}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Stage:
    """A topic on a broker, and the folder that is the detector's store; `alerts` are its settings of that name that
    differ from those above."""

    folder: Path
    bootstrap: str
    topic: str
    device: str = "auto"
    alerts: Mapping[str, Any] = field(default_factory=dict)

    def create_topics(self, topics: Mapping[str, int]) -> None:
        """Topics with so many partitions each."""
        name = "offnominal-benchmark"
        KafkaPythonBroker(KafkaSettings(bootstrap=self.bootstrap), group=name, client_id=name).create_topics(topics)

    def train(self, model: str) -> None:
        """Puts a version into the store and into service, in a process of its own."""
        (self.folder / "training.ndjson").write_bytes(b"\n".join(training()))
        told("benchmarks.stage", str(self.detector(model, "kafka-python")))

    def detector(self, model: str, client: str) -> Path:
        """A settings file of a detector in a group of its own, by which the file is named."""
        group = unique(self.topic)
        chosen = settings(self.folder, model, bootstrap=self.bootstrap, topic=self.topic, group=group, client=client)
        chosen |= {"device": self.device, "alerts": {**chosen["alerts"], **self.alerts}}
        path = self.folder / f"{group}.yaml"
        path.write_text(yaml.safe_dump(chosen), encoding="utf-8")
        return path


def _put(path: Path) -> str:
    """Trains a version and has it serve, sound or not: what is measured is its speed. Gives its name."""
    from detector.loading import load
    from detector.store import Store
    from detector.training import train
    from detector.training_data import gather

    chosen = load(path)
    bundle = train(gather(chosen, MemoryBroker(), now_ms=0), chosen, created=datetime.now(UTC))
    store = Store(chosen.store.url, chosen.name)
    store.save(bundle)
    store.promote(bundle.version)
    return bundle.version


if __name__ == "__main__":
    print(json.dumps({"version": _put(Path(sys.argv[1]))}))  # noqa: T201 - the result

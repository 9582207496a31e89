"""What all scenes share: a broker, and a version of the detector that was trained once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.brokers import QUICK_RETURN, ApacheKafka, apache_kafka
from benchmarks.faults.fleet import ROOT
from benchmarks.faults.traffic import CATEGORY, ENTITY, FEATURES, TIMESTAMP, normal_values

DETECTOR = "faults"
TRAINING_RECORDS = 12_000
SESSION_S = 6.0
"""The shortest session that brokers grant by default."""
REQUEST_S = 5.0
POLL_INTERVAL_S = 10.0
_TRAINING_S = 300.0


@dataclass(frozen=True)
class Stage:
    """`kafka` is None where the broker belongs to somebody else. `store` holds the trained version."""

    folder: Path
    bootstrap: str
    kafka: ApacheKafka | None
    replicas: int

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def settings(self, topic: str, *, instance: str = "0", store: Path | None = None) -> dict[str, Any]:
        """Settings of a replica that watches `topic`. Silences depend on the daemon's clock, and are not told."""
        return {
            "name": DETECTOR,
            "kafka": {
                "bootstrap": self.bootstrap,
                "group": topic,
                "instance": instance,
                "start": "earliest",
                "session_timeout_s": SESSION_S,
                "request_timeout_s": REQUEST_S,
                "max_poll_interval_s": POLL_INTERVAL_S,
            },
            "stream": {"topics": [topic], "entity": ENTITY, "timestamp": TIMESTAMP},
            "features": [*FEATURES, {"name": CATEGORY, "kind": "categorical"}],
            "window": {"length": 4},
            "models": [{"type": "gmm", "components": 4}],
            "training": {"files": [str(self.folder / "training.ndjson")]},
            "alerts": {"topic": f"{topic}-alerts", "rate": 0.005, "quiet_for": "1m", "silence": False},
            "state": {"topic": f"{topic}-state", "every": "3s"},
            "store": {"url": str(store or self.store), "poll": "500ms"},
            "batch": {"max_wait": "250ms"},
            "web": {"enabled": False},
        }


@contextmanager
def staged(
    folder: Path, *, start: Path | None = None, bootstrap: str | None = None, replicas: int = 2
) -> Iterator[Stage]:
    """A broker of our own by the script `start`, or the one at `bootstrap`; and a version trained."""
    with ExitStack() as cleanup:
        kafka = None
        if bootstrap is None:
            if start is None:
                raise ValueError("neither a broker nor a way to start one is given")
            kafka = cleanup.enter_context(apache_kafka(start, folder / "kafka", QUICK_RETURN))
            bootstrap = kafka.address
        stage = Stage(folder, bootstrap, kafka, replicas)
        _train(stage)
        yield stage


def _train(stage: Stage) -> None:
    values = normal_values(0, TRAINING_RECORDS)
    (stage.folder / "training.ndjson").write_bytes(b"\n".join(values) + b"\n")
    config = stage.folder / "train.yaml"
    config.write_text(yaml.safe_dump(stage.settings("training")))
    subprocess.run(train_command(config), cwd=ROOT, check=True, capture_output=True, timeout=_TRAINING_S)


def train_command(config: Path) -> list[str]:
    """`offnominal train`."""
    return [sys.executable, "-m", "detector", "train", "--config", str(config)]

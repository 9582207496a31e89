"""A small stream that tests share: three machines with two metrics that move together, a record a machine a minute."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from consumers.memory import MemoryBroker
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.loading import parse
from detector.training import train
from detector.training_data import gather

TOPIC, ALERTS, DEAD_LETTERS = "machines", "machine-alerts", "machine-alerts-dead-letters"
START_MS = 1_767_225_600_000
CREATED = datetime(2026, 3, 1, 3, tzinfo=UTC)


def settings(folder: Path, **changes: Any) -> DetectorSettings:
    """Settings for the stream; `changes` replace whole groups."""
    values: dict[str, Any] = {
        "name": "machines",
        "kafka": {"bootstrap": "127.0.0.1:1"},
        "stream": {"topics": [TOPIC], "entity": "machine", "timestamp": "ts"},
        "features": ["cpu", "load"],
        "models": [{"type": "gmm", "components": 1}],
        "window": {"length": 2},
        "training": {"records": 3_000, "min_records": 300},
        "alerts": {"topic": ALERTS, "rate": 0.01, "quiet_for": "5m"},
        "store": {"url": str(folder / "store"), "poll": "20ms"},
        "web": {"enabled": False},
    }
    return parse({**values, **changes})


def records(
    n: int, *, start: int = 0, seed: int = 0, odd: Mapping[int, Mapping[str, object]] | None = None
) -> list[bytes]:
    """n records in order of time, numbered from `start`; `odd` changes fields of some by number."""
    chance = np.random.default_rng([seed, start])
    cpu = chance.normal(0.5, 0.1, n)
    load = 2 * cpu + chance.normal(0, 0.05, n)
    return [
        json.dumps(
            {
                "machine": f"m{number % 3}",
                "ts": START_MS + number // 3 * 60_000,
                "cpu": float(cpu[row]),
                "load": float(load[row]),
                **(odd or {}).get(number, {}),
            }
        ).encode()
        for row, number in enumerate(range(start, start + n))
    ]


def broker_with(values: Iterable[bytes | None], *, partitions: int = 1) -> MemoryBroker:
    """A broker in memory that holds these records."""
    broker = MemoryBroker(group="offnominal-machines", start="earliest")
    broker.create_topics({TOPIC: partitions, ALERTS: 1, DEAD_LETTERS: 1})
    send(broker, values)
    return broker


def send(broker: MemoryBroker, values: Iterable[bytes | None], *, timestamp_ms: int | None = None) -> None:
    """Appends records, each machine's to a partition of its own choosing; at that time of the broker's, else now."""
    for value in values:
        key = json.loads(value)["machine"].encode() if value and value.startswith(b'{"machine"') else None
        broker.append(TOPIC, value, key=key, timestamp_ms=timestamp_ms)


def trained(folder: Path, **changes: Any) -> Bundle:
    """A bundle fitted on 3,000 records of the stream."""
    chosen = settings(folder, **changes)
    data = gather(chosen, broker_with(records(3_000)), now_ms=START_MS)
    return train(data, chosen, created=CREATED)

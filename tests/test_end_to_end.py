"""The main job through a real broker: what goes in, what comes out, and that it does not matter which broker it is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumers.batch import Message, RawBatch
from consumers.kafka_python import KafkaPythonBroker
from consumers.memory import MemoryBroker
from consumers.producer import Producer
from consumers.stream import Broker, Window
from detector.alerts import Alert
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.demo.recording import load_recording
from detector.loading import parse
from detector.pipeline import Outcome
from detector.store import Store
from detector.training import train
from detector.training_data import gather
from tests.consumers.garbage import ENTITY, FEATURES, TIMESTAMP, garbage, good

DEADLINE_S = 60


def settings_for(name: str, bootstrap: str, folder: Path, **changes: Any) -> DetectorSettings:
    values: dict[str, Any] = {
        "name": name,
        "kafka": {"bootstrap": bootstrap},
        "alerts": {"topic": f"{name}-alerts", "rate": 0.01, "quiet_for": "10m"},
        "store": {"url": str(folder)},
        "web": {"enabled": False},
    }
    return parse({**values, **changes})


def connect(settings: DetectorSettings) -> KafkaPythonBroker:
    return KafkaPythonBroker(settings.kafka, group=settings.group, client_id="tests")


def train_version(settings: DetectorSettings, broker: Broker) -> None:
    data = gather(settings, broker, now_ms=0)
    bundle = train(data, settings, created=datetime(2026, 3, 1, 3, tzinfo=UTC))
    store = Store(settings.store.url, settings.name)
    store.save(bundle)
    store.promote(bundle.version)


class Counted:
    """How many records have an outcome."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self.scored = 0
        self.done = threading.Event()

    def observe(self, _batch: RawBatch, outcome: Outcome) -> None:
        self.scored += len(outcome.columns)
        self._left -= outcome.records
        if self._left <= 0:
            self.done.set()


@contextmanager
def at_work(settings: DetectorSettings, broker: Broker, expected: int) -> Iterator[Counted]:
    counted = Counted(expected)
    daemon = Daemon(settings, broker, observers=[counted.observe])
    with ThreadPoolExecutor(1) as executor:
        ended = executor.submit(daemon.run)
        try:
            yield counted
            assert counted.done.wait(DEADLINE_S), "not all records have an outcome in time"
        finally:
            daemon.stop()
        ended.result(DEADLINE_S)


def send(settings: DetectorSettings, values: Sequence[bytes | None]) -> None:
    with Producer(settings.kafka, client_id="tests") as producer:
        for value in values:
            producer.send(Message(settings.stream.topics[0], b"key", value))


def messages(broker: Broker, topic: str) -> list[tuple[bytes | None, dict[str, bytes]]]:
    return [
        (value, dict(batch.headers[row]))
        for batch in broker.read([topic], Window())
        for row, value in enumerate(batch.values)
    ]


def test_ten_thousand_garbage_records_do_not_touch_ten_thousand_good_ones(
    bootstrap: str, unique: str, tmp_path: Path
) -> None:
    settings = settings_for(
        unique,
        bootstrap,
        tmp_path,
        stream={"topics": [unique], "entity": ENTITY, "timestamp": TIMESTAMP},
        features=list(FEATURES),
        training={"records": 2_000},
    )
    broker = connect(settings)
    broker.create_topics({unique: 1})
    send(settings, [good(index) for index in range(2_000)])
    train_version(settings, broker)
    bad = garbage(10_000, seed=1)
    mixed = [value for pair in zip((good(index) for index in range(2_000, 12_000)), bad, strict=True) for value in pair]
    with at_work(settings, broker, len(mixed)) as counted:
        send(settings, mixed)
    letters = messages(broker, settings.dead_letter_topic)
    sources = Counter(int(headers["offnominal.offset"]) for _, headers in letters)
    assert counted.scored == 10_000
    assert sources == Counter(range(2_001, 22_000, 2))
    assert all(headers["offnominal.reason"] for _, headers in letters)


def test_the_recorded_machine_gives_the_same_alerts_on_this_broker_as_in_memory(
    bootstrap: str, unique: str, tmp_path: Path
) -> None:
    recording = load_recording()
    half = recording.half
    past, live = recording.records(half - 6_000, half), recording.records(half, half + 4_000)
    settings = settings_for(
        unique,
        bootstrap,
        tmp_path,
        stream={"topics": [unique], "entity": "machine", "timestamp": "time"},
        features=list(recording.metrics),
        models=[{"type": "gmm", "components": 2}, {"type": "vae", "epochs": 3}],
        training={"records": len(past)},
    )
    memory = MemoryBroker(group=settings.group, start="earliest")
    memory.create_topics({unique: 1})
    for value in past:
        memory.append(unique, value)
    train_version(settings, memory)
    with at_work(settings, memory, len(live)):
        for value in live:
            memory.append(unique, value)

    broker = connect(settings)
    broker.create_topics({unique: 1})
    send(settings, past)
    with at_work(settings, broker, len(live)):
        send(settings, live)

    expected, found = (
        [Alert.model_validate_json(value or b"") for value, _ in messages(b, settings.alerts.topic)]
        for b in (memory, broker)
    )
    assert [alert.id for alert in found] == [alert.id for alert in expected]
    assert len(found) > 10
    rounded = {"score", "p_value", "static_p_value", "threshold", "level"}
    for one, other in zip(found, expected, strict=True):
        assert one.model_dump(exclude=rounded | {"reasons"}) == other.model_dump(exclude=rounded | {"reasons"})
        assert one.model_dump(include=rounded) == pytest.approx(other.model_dump(include=rounded), rel=1e-3)
        assert [reason.feature for reason in one.reasons] == [reason.feature for reason in other.reasons]

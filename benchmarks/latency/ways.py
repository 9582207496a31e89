"""The ways from a record to a message about it, each run as a process beside a steady producer and a subscriber."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from kafka import KafkaConsumer

from benchmarks.latency.producer import ANOMALOUS
from benchmarks.processes import beside
from benchmarks.stage import Stage, unique
from benchmarks.workload import TIMESTAMP

WARM_S = 20.0
"""Records sent in the first seconds do not count: processes start in them, and catch up."""
_LAST_S = 3.0
_POLL_S = 0.05


class Way(NamedTuple):
    """A module to run, the topic that its messages go to, and when the record that one is about was sent: in epoch
    seconds, None of messages that do not count."""

    command: Sequence[str]
    topic: str
    sent: Callable[[bytes], float | None]


def daemon(stage: Stage, client: str) -> Way:
    """The daemon, by its alerts that open an incident."""
    path = stage.detector("mixture", client)

    def sent(value: bytes) -> float | None:
        alert = json.loads(value)
        return datetime.fromisoformat(alert["time"]).timestamp() if alert["kind"] == "opened" else None

    return Way(["detector", "run", "--config", str(path)], f"{path.stem}-alerts", sent)


def bare(stage: Stage, client: str) -> Way:
    """The bare round trip, of as many records as are anomalous."""
    group = unique(stage.topic)
    every = str(round(1 / ANOMALOUS))
    return Way(
        ["benchmarks.latency.bare", client, stage.bootstrap, stage.topic, group, every],
        f"{group}-alerts",
        lambda value: json.loads(value)[TIMESTAMP] / 1000,
    )


WAYS: dict[str, Callable[[Stage, str], Way]] = {"daemon": daemon, "bare": bare}


def waits(stage: Stage, choose: Callable[[Stage, str], Way], client: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from the sending of a record to its message, of those sent in `seconds` after `WARM_S`, in a topic
    of their own. Raises `RuntimeError` where no message came, or a process failed."""
    stage = replace(stage, topic=unique("latency"))
    way = choose(stage, client)
    stage.create_topics({stage.topic: 1, way.topic: 1})
    lasting = str(WARM_S + seconds)
    with (
        beside(*way.command),
        beside("benchmarks.latency.producer", stage.bootstrap, stage.topic, str(rate), lasting) as producer,
    ):
        found = _subscribed(stage.bootstrap, way, producer, time.time() + WARM_S)
    if not found:
        raise RuntimeError(f"{' '.join(way.command)}: no message came within {lasting} s")
    return found


def _subscribed(bootstrap: str, way: Way, producer: subprocess.Popen[bytes], since: float) -> list[float]:
    """What a subscriber sees until the producer has ended, and a little longer."""
    found: list[float] = []
    consumer = KafkaConsumer(
        way.topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        metrics_enabled=False,
    )
    until = float("inf")
    try:
        while time.monotonic() < until:
            polled = consumer.poll(1000 * _POLL_S)
            now = time.time()
            sent = [way.sent(record.value) for records in polled.values() for record in records]
            found += [1000 * (now - at) for at in sent if at is not None and at >= since]
            if producer.poll() is not None:
                until = min(until, time.monotonic() + _LAST_S)
    finally:
        consumer.close(autocommit=False)
    return found

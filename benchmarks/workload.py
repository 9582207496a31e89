"""Records of machines for the benchmarks of speed, and how they get into a topic.

    python -m benchmarks.workload BOOTSTRAP TOPIC RECORDS

sends records as fast as the broker takes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from kafka import KafkaProducer

FEATURES = tuple("abcdefgh")
ENTITY, TIMESTAMP = "machine", "ts"
ENTITIES = 100
ANOMALOUS = 0.001
"""Share of the records that are anomalous."""
TRAINING = 100_000

_FIRST_MS = 1_767_225_600_000
_STEP_MS = 10
_SHIFT = 8.0
_BLOCK = 100_000
_FLUSH_S = 60.0


def values(
    start: int,
    n: int,
    *,
    entities: int = ENTITIES,
    features: Sequence[str] = FEATURES,
    anomalous: float = ANOMALOUS,
) -> list[bytes]:
    """Records `start` to `start + n` of an endless stream as JSON, about 150 bytes with eight features.

    Machines report in turn, a record every 10 ms. Features are three hidden factors mixed, and noise of a twentieth of
    their size; in an anomalous record each of them is off by several of its standard deviations, up and down in turn.
    """
    mixing = np.random.default_rng(0).normal(size=(3, len(features)))
    chance = np.random.default_rng([abs(start), int(start < 0), n])
    rows = chance.normal(size=(n, 3)) @ mixing + 0.1 * chance.normal(size=(n, len(features)))
    rows[chance.random(n) < anomalous] += _SHIFT * (-1.0) ** np.arange(len(features))
    number = np.arange(start, start + n)
    columns = {
        ENTITY: [f"m{machine}" for machine in (number % entities).tolist()],
        TIMESTAMP: _FIRST_MS + _STEP_MS * number,
        **dict(zip(features, rows.round(6).T, strict=True)),
    }
    return pl.DataFrame(columns).write_ndjson().encode().splitlines()


def training(features: Sequence[str] = FEATURES) -> list[bytes]:
    """Records before the stream, none of them anomalous."""
    return values(-TRAINING, TRAINING, features=features, anomalous=0.0)


class Outlet(NamedTuple):
    """`send` takes topic, value and key; `flush` returns when all is there."""

    send: Callable[[str, bytes, bytes], Any]
    flush: Callable[[], Any]


def outlet(bootstrap: str, *, linger_ms: int = 20) -> Outlet:
    """A producer on confluent-kafka, or on kafka-python where that is not installed."""
    if find_spec("confluent_kafka") is None:
        slow = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=linger_ms, metrics_enabled=False)
        return Outlet(slow.send, lambda: slow.flush(timeout=_FLUSH_S))
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": linger_ms, "queue.buffering.max.messages": 2 * _BLOCK}
    )

    def flush() -> None:
        if left := producer.flush(_FLUSH_S):
            raise TimeoutError(f"the broker at {bootstrap} has not taken {left} records within {_FLUSH_S:g} s")

    return Outlet(producer.produce, flush)


def key(number: int, entities: int = ENTITIES) -> bytes:
    """The key of a record of the stream: its machine, which so has one partition."""
    return b"m%d" % (number % entities)


def send(bootstrap: str, topic: str, records: int) -> None:
    """Returns when the first `records` of the stream are in the topic."""
    out = outlet(bootstrap)
    for start in range(0, records, _BLOCK):
        for number, value in enumerate(values(start, min(_BLOCK, records - start)), start):
            out.send(topic, value, key(number))
        out.flush()


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""The clients alone: how fast records come out of a topic when nothing is done with them.

python -m benchmarks.throughput.clients CLIENT BOOTSTRAP TOPIC RECORDS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from kafka import KafkaConsumer

from benchmarks.throughput.meter import Meter

BATCH = 10_000
POLL_S = 1.0


def kafka_python(bootstrap: str, topic: str, meter: Meter) -> None:
    """`poll`, with the package crc32c, without which checksums are ten times as slow."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    try:
        while not meter.done:
            polled = consumer.poll(1000 * POLL_S, BATCH)
            meter.took(sum(len([record.value for record in records]) for records in polled.values()))
    finally:
        consumer.close(autocommit=False)


def confluent_kafka(bootstrap: str, topic: str, meter: Meter) -> None:
    """`consume` and `value`, with the queue and fetches large enough that it is never starved."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{topic}-raw",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "queued.max.messages.kbytes": 131_072,
            "queued.min.messages": 1_000_000,
            "fetch.message.max.bytes": 4_194_304,
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        consumer.subscribe([topic])
        while not meter.done:
            meter.took(len([message.value() for message in consumer.consume(BATCH, POLL_S) if message.error() is None]))
    finally:
        consumer.close()


CLIENTS: dict[str, Callable[[str, str, Meter], None]] = {
    "kafka-python": kafka_python,
    "confluent-kafka": confluent_kafka,
}


if __name__ == "__main__":
    counted = Meter(int(sys.argv[4]))
    CLIENTS[sys.argv[1]](sys.argv[2], sys.argv[3], counted)
    print(json.dumps(counted.figures()))  # noqa: T201 - the result

"""The bare round trip: what a client with transactions takes by itself.

    python -m benchmarks.latency.bare CLIENT BOOTSTRAP TOPIC GROUP EVERY

Polls, sends one record out of `EVERY` as it is to the topic `<group>-alerts`, and commits the positions in the same
transaction, until it is killed. It decodes nothing and decides nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

BATCH = 10_000
WAIT_S = 0.2
RETRY_MS = 5
"""Pause after meeting the last transaction's markers, as in the daemon; by default it is twenty times as long."""


def kafka_python(bootstrap: str, topic: str, group: str, every: int) -> None:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=group, retry_backoff_ms=RETRY_MS, metrics_enabled=False
    )
    producer.init_transactions()
    while True:
        for partition, records in consumer.poll(1000 * WAIT_S, BATCH).items():
            producer.begin_transaction()
            for record in records:
                if record.offset % every == 0:
                    producer.send(f"{group}-alerts", record.value)
            offsets = {TopicPartition(*partition): OffsetAndMetadata(records[-1].offset + 1, "", -1)}
            producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
            producer.commit_transaction()


def confluent_kafka(bootstrap: str, topic: str, group: str, every: int) -> None:
    from confluent_kafka import Consumer, Producer

    shared = {"bootstrap.servers": bootstrap, "retry.backoff.ms": RETRY_MS}
    consumer = Consumer(
        {
            **shared,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
        }
    )
    producer = Producer({**shared, "transactional.id": group})
    producer.init_transactions()
    consumer.subscribe([topic])
    while True:
        messages = [*consumer.consume(1, WAIT_S), *consumer.consume(BATCH, 0)]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            if (message.offset() or 0) % every == 0:
                producer.produce(f"{group}-alerts", message.value())
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
        )
        producer.commit_transaction()


CLIENTS: dict[str, Callable[[str, str, str, int], None]] = {
    "kafka-python": kafka_python,
    "confluent-kafka": confluent_kafka,
}


if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))

"""The port on confluent-kafka: `ConfluentBroker`. Needs brokers of Kafka 2.5 or newer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from consumers.batch import Partition
from consumers.confluent_connection import (
    client_properties,
    code_of,
    consumer_properties,
    reaching,
    within,
)
from consumers.confluent_member import ConfluentStream
from consumers.confluent_reader import ConfluentReader
from consumers.confluent_topics import described
from consumers.kafka_python import KafkaBroker, KafkaPythonBroker, listed
from consumers.settings import KafkaSettings


class ConfluentBroker(KafkaBroker):
    """The broker by confluent-kafka. What librdkafka cannot decode, kafka-python reads or passes over."""

    def __init__(self, settings: KafkaSettings, *, group: str, client_id: str, max_bytes: int = 64_000_000) -> None:
        super().__init__(settings, group=group, client_id=client_id, max_bytes=max_bytes)
        self._recourse = KafkaPythonBroker(settings, group=group, client_id=client_id, max_bytes=max_bytes).reader

    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> ConfluentStream:
        self._require(topics)
        return ConfluentStream(
            self._settings,
            group=self._group,
            client_id=self._client_id,
            topics=topics,
            begin=begin or {},
            seen=self._seen,
            max_bytes=self._max_bytes,
            require=self._require,
            recourse=self._recourse,
        )

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        with self._admin(f"looking up {listed(topics)}") as admin:
            found = described(admin, topics, self._settings.request_timeout_s)
        return {topic: len(about.partitions) for topic, about in found.items()}

    @contextmanager
    def reader(self, partitions: Sequence[Partition]) -> Iterator[ConfluentReader]:
        topics = sorted({partition.topic for partition in partitions})
        timeout_s = self._settings.request_timeout_s
        properties = consumer_properties(self._settings, self._client_id, self._group, self._max_bytes)
        with self._admin(f"reading {listed(topics)}") as admin:
            consumer = Consumer(properties)
            try:
                yield ConfluentReader(
                    consumer, admin, topics, self._recourse, max_bytes=self._max_bytes, timeout_s=timeout_s
                )
            finally:
                with suppress(KafkaException, RuntimeError):
                    within(timeout_s, consumer.close)

    def _create(self, topics: Mapping[str, int], configs: Mapping[str, str]) -> bool:
        timeout_s = self._settings.request_timeout_s
        wanted = [NewTopic(topic, num_partitions=count, config=dict(configs)) for topic, count in topics.items()]
        with self._admin(f"creating {listed([*topics])}") as admin:
            for made in admin.create_topics(wanted, operation_timeout=timeout_s, request_timeout=timeout_s).values():
                try:
                    made.result(timeout_s + 1.0)
                except KafkaException as error:
                    if code_of(error) == KafkaError.INVALID_CONFIG:
                        return False
                    if code_of(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
        return True

    @contextmanager
    def _admin(self, doing: str) -> Iterator[AdminClient]:
        properties = client_properties(self._settings, self._client_id)
        with reaching(self._settings, doing), AdminClient(properties) as admin:
            yield admin

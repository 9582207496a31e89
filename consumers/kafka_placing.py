"""Where the partitions go on that a member of a group gains, on kafka-python."""

from __future__ import annotations

from collections.abc import Mapping

from kafka import TopicPartition
from kafka import errors as kafka
from kafka.structs import OffsetAndMetadata

from consumers.batch import Partition, Position
from consumers.kafka_reader import KafkaReader
from consumers.placing import Placement
from consumers.settings import KafkaSettings


class Placing(Placement):
    """A `Placement` by the consumer of a `KafkaReader`."""

    def __init__(
        self, reader: KafkaReader, settings: KafkaSettings, begin: Mapping[Partition, int], seen: set[str]
    ) -> None:
        super().__init__(reader, settings, begin, seen)
        self._consumer = reader.consumer
        self._timeout_ms = int(settings.request_timeout_s * 1000)

    def _committed(self, partitions: set[Partition]) -> dict[Partition, Position]:
        """In one exchange; kafka-python's public call takes one for each partition."""
        keys = [TopicPartition(*partition) for partition in partitions]
        found = self._consumer._coordinator.fetch_committed_offsets(keys, timeout_ms=self._timeout_ms)
        return {Partition(*key): Position(place.offset, place.metadata or "") for key, place in found.items()}

    def _commit(self, positions: Mapping[Partition, Position]) -> bool:
        offsets = {TopicPartition(*at): OffsetAndMetadata(*position, -1) for at, position in positions.items()}
        try:
            self._consumer.commit(offsets, timeout_ms=self._timeout_ms)
        except (kafka.CommitFailedError, kafka.RebalanceInProgressError):
            return False
        return True

    def _go_on(self, ready: Mapping[Partition, int], waiting: set[Partition]) -> None:
        self._reader.seek({**ready, **dict.fromkeys(waiting, 0)})
        self._consumer.resume(*(TopicPartition(*partition) for partition in ready))
        self._consumer.pause(*(TopicPartition(*partition) for partition in waiting))

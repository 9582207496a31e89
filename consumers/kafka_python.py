"""The port on kafka-python: `KafkaPythonBroker`, and what brokers of any client share. Needs Kafka 2.5 or newer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as kafka

from consumers.batch import Partition, RawBatch
from consumers.connection import client_arguments, consumer_arguments, reaching, translated, within
from consumers.errors import BrokerUnavailable, TopicMissing
from consumers.fetching import bounded_consumer
from consumers.kafka_member import KafkaPythonStream
from consumers.kafka_reader import KafkaReader
from consumers.reading import Found, Reader
from consumers.records import Run, tail, to_batch
from consumers.settings import KafkaSettings
from consumers.stream import Stream, Window

_READ_RECORDS = 10_000
_IDLE_S = 1.0
_WAIT_S = 0.1  # a poll that meets nothing but markers comes back no sooner

_COMPACT = {"cleanup.policy": "compact"}
_SOON = {
    "min.compaction.lag.ms": "900000",  # whoever was pointed to a record has a quarter of an hour to read it
    "max.compaction.lag.ms": "3600000",  # and an hour later it is gone, however little there is to clear away
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": "300000",  # only closed segments are compacted
    "segment.bytes": "67108864",
}


class KafkaBroker(ABC):
    """A `consumers.stream.Broker` but for the client.

    Every connection begins with a probe, so that an unreachable broker raises at once and says why. `group` and the
    settings' `instance` name the member and its transactions; `client_id` shows in the broker's logs. A batch holds
    about `max_bytes` of keys, values and headers at most, or one larger record, however many records are asked for.
    """

    def __init__(self, settings: KafkaSettings, *, group: str, client_id: str, max_bytes: int = 64_000_000) -> None:
        self._settings = settings
        self._group = group
        self._client_id = client_id
        self._max_bytes = max_bytes
        self._seen: set[str] = set()

    @abstractmethod
    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> Stream: ...

    def read(self, topics: Sequence[str], window: Window, *, follow: bool = False) -> Iterator[RawBatch]:
        """As the port says. The last N are an equal share of each partition; what a short one lacks, others add."""
        counts = self._require(topics)
        partitions = [Partition(topic, number) for topic in topics for number in range(counts[topic])]
        with self.reader(partitions) as reader:
            ends = reader.ends(partitions)
            starts = reader.firsts(partitions) if window.since_ms is None else reader.since(ends, window.since_ms)
        past = self._until(starts, ends) if window.records is None else self._last(starts, ends, window.records)
        return self._batches(past, ends, follow)

    def fetch(self, spans: Mapping[Partition, tuple[int, int]]) -> Iterator[RawBatch]:
        counts = self._require(sorted({partition.topic for partition in spans}))
        there = [partition for partition in spans if partition.number < counts[partition.topic]]
        with self.reader(there) as reader:
            firsts, ends = reader.firsts(there), reader.ends(there)
        starts = {partition: max(spans[partition][0], firsts[partition]) for partition in there}
        stops = {partition: min(spans[partition][1], ends[partition]) for partition in there}
        return self._batches(self._until(starts, stops), ends, follow=False)

    @abstractmethod
    def partitions(self, topics: Sequence[str]) -> dict[str, int]: ...

    def create_topics(self, topics: Mapping[str, int], *, compacted: bool = False) -> None:
        """Creates with the broker's default replication factor; returns when each partition has a leader.

        A broker that does not know all the settings of compaction compacts when it likes.
        """
        wanted = {topic: topics[topic] for topic in sorted(topics.keys() - self.partitions(list(topics)))}
        if wanted and not self._create(wanted, {**_COMPACT, **_SOON} if compacted else {}):
            self._create(wanted, _COMPACT)

    @abstractmethod
    def _create(self, topics: Mapping[str, int], configs: Mapping[str, str]) -> bool:
        """Creates those that are not there. False where the broker does not know one of the settings."""

    @abstractmethod
    def reader(self, partitions: Sequence[Partition]) -> AbstractContextManager[Reader]:
        """A reader of these partitions without a group."""

    def _require(self, topics: Sequence[str]) -> dict[str, int]:
        """The number of partitions of each topic. Raises `TopicMissing` naming those that do not exist."""
        counts = self.partitions(topics)
        if missing := [topic for topic in topics if topic not in counts]:
            raise TopicMissing(f"{listed(missing)} not found on broker {self._settings.bootstrap}")
        return counts

    def _batches(self, past: Generator[Found], ends: Mapping[Partition, int], follow: bool) -> Iterator[RawBatch]:
        with closing(past):
            for found in past:
                yield to_batch(found, ends=ends)
        if follow:
            yield from self._follow(ends)

    def _until(self, starts: Mapping[Partition, int], ends: Mapping[Partition, int]) -> Generator[Found]:
        """Ends by position and not by the last record: a transaction's marker takes an offset and is never seen."""
        waiting = [partition for partition in starts if starts[partition] < ends[partition]]
        if not waiting:
            return
        with self.reader(waiting) as reader:
            reader.seek({partition: starts[partition] for partition in waiting})
            at, moved = dict(starts), time.monotonic()
            while any(at[partition] < ends[partition] for partition in waiting):
                found, _ = reader.poll(_READ_RECORDS, _WAIT_S)
                before, at = at, reader.positions(waiting)
                if at != before:
                    moved = time.monotonic()
                elif time.monotonic() - moved > self._settings.request_timeout_s:
                    raise BrokerUnavailable(f"reading {listed([waiting[0].topic])}: no progress since offsets {at}")
                inside = {partition: run.before(ends[partition]) for partition, run in found.items()}
                if any(len(run.offsets) for run in inside.values()):
                    yield inside

    def _last(self, firsts: Mapping[Partition, int], ends: Mapping[Partition, int], records: int) -> Generator[Found]:
        """Transactions and compaction leave offsets without records: goes back twice as far until there are enough."""
        spans = {partition: (firsts[partition], ends[partition]) for partition in firsts}
        reach = records
        while True:
            starts = tail(spans, reach)
            parts = list(self._until(starts, ends))
            found = {at: Run.concat([part[at] for part in parts if at in part]) for at in starts}
            if sum(len(run.offsets) for run in found.values()) >= records or starts == firsts:
                break
            reach *= 2
        kept = tail({partition: (0, len(run.offsets)) for partition, run in found.items()}, records)
        for partition, run in found.items():
            for at in range(kept[partition], len(run.offsets), _READ_RECORDS):
                yield {partition: run.take(slice(at, at + _READ_RECORDS))}

    def _follow(self, starts: Mapping[Partition, int]) -> Iterator[RawBatch]:
        with self.reader(list(starts)) as reader:
            reader.seek(starts)
            topics = sorted({partition.topic for partition in starts})
            while True:
                found, moved = reader.poll(_READ_RECORDS, _IDLE_S)
                if gone := reader.gone(topics):
                    raise TopicMissing(f"{listed(gone)} has been deleted")
                yield to_batch(found, ends=reader.highs(starts), moved=moved)


class KafkaPythonBroker(KafkaBroker):
    """The broker by kafka-python."""

    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> KafkaPythonStream:
        self._require(topics)
        return KafkaPythonStream(
            self._settings,
            group=self._group,
            client_id=self._client_id,
            topics=topics,
            begin=begin or {},
            seen=self._seen,
            max_bytes=self._max_bytes,
            require=self._require,
        )

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        with self._admin(f"looking up {listed(topics)}") as admin:
            described = within(self._settings.request_timeout_s, lambda: admin.describe_topics(list(topics)))
        found = {}
        for topic in described:
            error = kafka.for_code(topic["error_code"])
            if error is kafka.NoError:
                found[topic["name"]] = len(topic["partitions"])
            elif error is not kafka.UnknownTopicOrPartitionError:
                raise translated(error(), f"looking up topic '{topic['name']}'")
        return found

    @contextmanager
    def reader(self, partitions: Sequence[Partition]) -> Iterator[KafkaReader]:
        with reaching(self._settings, f"reading {listed(sorted({topic for topic, _ in partitions}))}"):
            consumer = bounded_consumer(self._max_bytes, **consumer_arguments(self._settings, self._client_id))
            try:
                consumer.assign([TopicPartition(*partition) for partition in partitions])
                yield KafkaReader(consumer)
            finally:
                consumer.close(autocommit=False)

    def _create(self, topics: Mapping[str, int], configs: Mapping[str, str]) -> bool:
        wanted = {topic: {"num_partitions": count, "configs": configs} for topic, count in topics.items()}
        timeout_s = self._settings.request_timeout_s
        with self._admin(f"creating {listed([*topics])}") as admin:
            made = within(timeout_s, lambda: admin.create_topics(wanted, raise_errors=False))
            for topic in made["topics"]:
                error = kafka.for_code(topic["error_code"])
                if error is kafka.InvalidConfigurationError:
                    return False
                if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                    raise error(f"topic '{topic['name']}': {topic.get('error_message')}")
            within(timeout_s, lambda: admin.wait_for_topics([*topics], timeout_ms=timeout_s * 1000))
        return True

    @contextmanager
    def _admin(self, doing: str) -> Iterator[Any]:
        with reaching(self._settings, doing):
            admin = KafkaAdminClient(**client_arguments(self._settings, self._client_id))
            try:
                yield admin
            finally:
                admin.close()


def listed(topics: Sequence[str]) -> str:
    """Topics, for messages of errors."""
    return f"topic{'s' * (len(topics) != 1)} {', '.join(repr(topic) for topic in topics)}"

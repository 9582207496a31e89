"""The port on kafka-python: `KafkaPythonBroker`. Needs brokers of Kafka 2.5 or newer."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka

from consumers.batch import Partition, RawBatch
from consumers.connection import client_arguments, consumer_arguments, reaching, translated, within
from consumers.errors import BrokerUnavailable, TopicMissing
from consumers.kafka_member import KafkaPythonStream
from consumers.records import tail, to_batch
from consumers.settings import KafkaSettings
from consumers.stream import Window

_READ_RECORDS = 10_000
_IDLE_MS = 1_000
_WAIT_MS = 100  # a poll that meets nothing but markers comes back no sooner

Found = dict[Partition, list[Any]]
"""Records of kafka-python by partition."""


class KafkaPythonBroker:
    """A `consumers.stream.Broker` on kafka-python.

    Every connection begins with a probe, so that an unreachable broker raises at once and says why. `group` and the
    settings' `instance` name the member and its transactions; `client_id` shows in the broker's logs.
    """

    def __init__(self, settings: KafkaSettings, *, group: str, client_id: str) -> None:
        self._settings = settings
        self._group = group
        self._client_id = client_id

    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> KafkaPythonStream:
        self._require(topics)
        return KafkaPythonStream(
            self._settings,
            group=self._group,
            client_id=self._client_id,
            topics=topics,
            begin=begin or {},
            require=self._require,
        )

    def read(self, topics: Sequence[str], window: Window, *, follow: bool = False) -> Iterator[RawBatch]:
        """As the port says. The last N are an equal share of each partition; what a short one lacks, others add."""
        counts = self._require(topics)
        partitions = [Partition(topic, number) for topic in topics for number in range(counts[topic])]
        with self._consumer(partitions) as consumer:
            keys = [TopicPartition(*partition) for partition in partitions]
            ends = {Partition(*key): offset for key, offset in consumer.end_offsets(keys).items()}
            if window.since_ms is not None:
                found = consumer.offsets_for_times(dict.fromkeys(keys, window.since_ms))
                starts = {Partition(*key): found[key].offset if found.get(key) else ends[key] for key in keys}
            else:
                starts = {Partition(*key): offset for key, offset in consumer.beginning_offsets(keys).items()}
        past = self._until(starts, ends) if window.records is None else self._last(starts, ends, window.records)
        return self._batches(past, ends, follow)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        with self._admin(f"looking up {_listed(topics)}") as admin:
            described = within(self._settings.request_timeout_s, lambda: admin.describe_topics(list(topics)))
        found = {}
        for topic in described:
            error = kafka.for_code(topic["error_code"])
            if error is kafka.NoError:
                found[topic["name"]] = len(topic["partitions"])
            elif error is not kafka.UnknownTopicOrPartitionError:
                raise translated(error(), f"looking up topic '{topic['name']}'")
        return found

    def create_topics(self, topics: Mapping[str, int]) -> None:
        """Creates with the broker's default replication factor; returns when each partition has a leader."""
        missing = sorted(topics.keys() - self.partitions(list(topics)))
        if not missing:
            return
        wanted = {topic: {"num_partitions": topics[topic]} for topic in missing}
        timeout_s = self._settings.request_timeout_s
        with self._admin(f"creating {_listed(missing)}") as admin:
            made = within(timeout_s, lambda: admin.create_topics(wanted, raise_errors=False))
            for topic in made["topics"]:
                error = kafka.for_code(topic["error_code"])
                if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                    raise error(f"topic '{topic['name']}': {topic.get('error_message')}")
            within(timeout_s, lambda: admin.wait_for_topics(missing, timeout_ms=timeout_s * 1000))

    def _require(self, topics: Sequence[str]) -> dict[str, int]:
        """The number of partitions of each topic. Raises `TopicMissing` naming those that do not exist."""
        counts = self.partitions(topics)
        if missing := [topic for topic in topics if topic not in counts]:
            raise TopicMissing(f"{_listed(missing)} not found on broker {self._settings.bootstrap}")
        return counts

    @contextmanager
    def _admin(self, doing: str) -> Iterator[Any]:
        with reaching(self._settings, doing):
            admin = KafkaAdminClient(**client_arguments(self._settings, self._client_id))
            try:
                yield admin
            finally:
                admin.close()

    @contextmanager
    def _consumer(self, partitions: Sequence[Partition]) -> Iterator[Any]:
        with reaching(self._settings, f"reading {_listed(sorted({topic for topic, _ in partitions}))}"):
            consumer = KafkaConsumer(**consumer_arguments(self._settings, self._client_id))
            try:
                consumer.assign([TopicPartition(*partition) for partition in partitions])
                yield consumer
            finally:
                consumer.close(autocommit=False)

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
        with self._consumer(waiting) as consumer:
            _seek(consumer, {partition: starts[partition] for partition in waiting})
            at, moved = dict(starts), time.monotonic()
            while any(at[partition] < ends[partition] for partition in waiting):
                found = _poll(consumer, _WAIT_MS)
                before, at = at, {partition: _position(consumer, partition, at) for partition in waiting}
                if at != before:
                    moved = time.monotonic()
                elif time.monotonic() - moved > self._settings.request_timeout_s:
                    raise BrokerUnavailable(f"reading {_listed([waiting[0].topic])}: no progress since offsets {at}")
                inside = {key: [record for record in run if record.offset < ends[key]] for key, run in found.items()}
                if any(inside.values()):
                    yield inside

    def _last(self, firsts: Mapping[Partition, int], ends: Mapping[Partition, int], records: int) -> Generator[Found]:
        """Transactions and compaction leave offsets without records: goes back twice as far until there are enough."""
        spans = {partition: (firsts[partition], ends[partition]) for partition in firsts}
        reach = records
        while True:
            starts = tail(spans, reach)
            found: dict[Partition, list[Any]] = {}
            for part in self._until(starts, ends):
                for partition, run in part.items():
                    found.setdefault(partition, []).extend(run)
            if sum(map(len, found.values())) >= records or starts == firsts:
                break
            reach *= 2
        kept = tail({partition: (0, len(run)) for partition, run in found.items()}, records)
        for partition, run in found.items():
            for at in range(kept[partition], len(run), _READ_RECORDS):
                yield {partition: run[at : at + _READ_RECORDS]}

    def _follow(self, starts: Mapping[Partition, int]) -> Iterator[RawBatch]:
        with self._consumer(list(starts)) as consumer:
            _seek(consumer, starts)
            while True:
                found = _poll(consumer, _IDLE_MS)
                highs = {partition: consumer.highwater(TopicPartition(*partition)) for partition in starts}
                yield to_batch(found, ends={partition: high for partition, high in highs.items() if high is not None})


def _seek(consumer: Any, offsets: Mapping[Partition, int]) -> None:
    for partition, offset in offsets.items():
        consumer.seek(TopicPartition(*partition), offset)


def _poll(consumer: Any, timeout_ms: int) -> Found:
    polled = consumer.poll(timeout_ms=timeout_ms, max_records=_READ_RECORDS)
    return {Partition(*key): records for key, records in polled.items()}


def _position(consumer: Any, partition: Partition, last: Mapping[Partition, int]) -> int:
    """The next offset to read; the last known one while the client finds a new start after retention overtook it."""
    offset: int | None = consumer.position(TopicPartition(*partition))
    return last[partition] if offset is None else offset


def _listed(topics: Sequence[str]) -> str:
    return f"topic{'s' * (len(topics) != 1)} {', '.join(repr(topic) for topic in topics)}"

"""Going on reading with librdkafka, whatever the log did meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_INVALID, Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Received
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from consumers.batch import Header, Moved, Partition
from consumers.confluent_connection import results, timed_out, to_keys, translated
from consumers.confluent_topics import TopicWatch, described
from consumers.errors import Stop, TopicMissing
from consumers.packed import Packed
from consumers.reading import Found, Reader
from consumers.records import Run

_SLICE_S = 0.1
_AT_ONCE = 1_000
_ASTRAY = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE)
_BROKEN = (
    KafkaError._BAD_MSG,
    KafkaError._BAD_COMPRESSION,
    KafkaError._NOT_IMPLEMENTED,
    KafkaError._UNDERFLOW,
    KafkaError.INVALID_MSG,
)

Recourse = Callable[[Sequence[Partition]], AbstractContextManager[Reader]]
"""Opens a reader of another client on some partitions."""


class Reading:
    """What a consumer of librdkafka reads, and where it stands. Knows no consumer, as consumers hold their callbacks:
    a cycle of the two would be collected in whatever thread, and may then wait for itself.
    """

    def __init__(self) -> None:
        self.at: dict[Partition, int] = {}  # the next offset of each partition that is read
        self.heard: set[Partition] = set()  # those of which anything has come from there
        self.astray: set[Partition] = set()
        self.broken: set[Partition] = set()
        self.woken = False  # the poll under way waits no longer

    def release(self, consumer: Consumer, partitions: Iterable[Partition]) -> None:
        """Reads these no longer."""
        given = set(partitions)
        consumer.incremental_unassign(to_keys(given & self.at.keys()))
        self.at = {at: offset for at, offset in self.at.items() if at not in given}
        self.heard -= given
        self.astray -= given
        self.broken -= given


class ConfluentReader:
    """A `reading.Reader` of the partitions that were last set by `seek`.

    Where one cannot go on at its next offset, it goes where `kafka_reader.KafkaReader` does, for the same reasons.
    What librdkafka cannot decode is left to that one: it knows where a record batch ends, tries again, and reads some
    that librdkafka does not (header names that are not UTF-8). librdkafka fetches in the background: records that
    retention deletes may have been fetched before.
    """

    def __init__(
        self,
        consumer: Consumer,
        admin: AdminClient,
        topics: Sequence[str],
        recourse: Recourse,
        *,
        max_bytes: int,
        timeout_s: float,
    ) -> None:
        self._consumer = consumer
        self._most_bytes = max_bytes // 2
        self._admin = admin
        self._timeout_s = timeout_s
        self._recourse = recourse
        self._watch = TopicWatch(admin, topics, timeout_s)
        self.reading = Reading()

    def poll(self, max_records: int, timeout_s: float) -> tuple[Found, dict[Partition, Moved]]:
        if self.reading.astray:
            self._watch.look_now()
        self._watch.look()
        anew = self._watch.made_anew()
        if away := self.reading.astray | {at for at in self.reading.at if at.topic in anew}:
            return {}, self._to_first(away)
        if self.reading.broken:
            return self._read_otherwise(self.reading.broken.pop(), max_records)
        return self._take(max_records, timeout_s), {}

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        """The next poll goes on from these offsets. What is on its way of these partitions is dropped."""
        self.release(offsets)
        self._consumer.incremental_assign([TopicPartition(*at, offset) for at, offset in offsets.items()])
        self.reading.at |= offsets

    def release(self, partitions: Iterable[Partition]) -> None:
        """Reads these no longer."""
        self.reading.release(self._consumer, partitions)

    def forget(self, partitions: Iterable[Partition]) -> None:
        self._watch.forget({partition.topic for partition in partitions})

    def firsts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # ships no types

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # ships no types

    def since(self, ends: Mapping[Partition, int], timestamp_ms: int) -> dict[Partition, int]:
        found = self._offsets(ends, OffsetSpec.for_timestamp(timestamp_ms))
        return {at: end if found[at] < 0 else found[at] for at, end in ends.items()}

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {partition: self.reading.at[partition] for partition in partitions}

    def highs(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        heard = [partition for partition in partitions if partition in self.reading.heard]
        return {
            at: self._consumer.get_watermark_offsets(key, cached=True)[1]
            for at, key in zip(heard, to_keys(heard), strict=True)
        }

    def partitions(self, topics: Iterable[str]) -> set[Partition]:
        return {
            Partition(topic, number)
            for topic, about in described(self._admin, topics, self._timeout_s).items()
            for number in range(len(about.partitions))
        }

    def gone(self, topics: Iterable[str]) -> list[str]:
        return sorted(self._watch.gone.intersection(topics))

    def _offsets(self, partitions: Iterable[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        if not (wanted := dict.fromkeys(to_keys(partitions), spec)):
            return {}
        asked = self._admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._timeout_s
        )
        found = {
            Partition(key.topic, key.partition): answer.offset
            for key, answer in results(asked, self._timeout_s).items()
        }
        if OFFSET_INVALID in found.values():  # how librdkafka says, without an error, that there was no answer
            raise timed_out(self._timeout_s)
        return found

    def _take(self, max_records: int, timeout_s: float) -> Found:
        """Waits for the first record; a lone one is not held up for others."""
        deadline = time.monotonic() + timeout_s
        self.reading.woken = False
        while True:
            found = self._queued(max_records, 0)
            left = deadline - time.monotonic()
            if not found and left > 0 and not self.reading.woken:
                found = self._queued(max_records, min(left, _SLICE_S))
            if found or self.reading.woken or left <= 0:
                return found

    def _queued(self, most: int, timeout_s: float) -> Found:
        """What is there once a first record has come, and no more than the queue holds at a time. It is taken a few at
        a time: a hundred times as many records are out of the processor's cache before they are columns, and cost
        nearly twice as much."""
        parts: list[Found] = []
        room = self._most_bytes
        messages = self._consumer.consume(1, timeout_s)
        while messages:
            parts.append(self._sorted(messages))
            most -= len(messages)
            room -= sum(len(Packed.of(run.values).data) for run in parts[-1].values())
            if self.reading.woken or most <= 0 or room <= 0:
                break
            messages = self._consumer.consume(min(most, _AT_ONCE), 0)
        partitions = dict.fromkeys(at for part in parts for at in part)
        return {at: Run.concat([part[at] for part in parts if at in part]) for at in partitions}

    def _sorted(self, messages: list[Received]) -> Found:
        """Records by partition, up to the first of each that cannot be read; what else librdkafka tells is noted."""
        reached: dict[Partition, int] = {}
        if any(map(Received.error, messages)):
            messages = self._without_events(messages, reached)
        sorted_: dict[Partition, list[Received]] = {}
        topics = [*{at.topic for at in self.reading.at}]  # asking each record for its topic costs as much as its value
        by_topic = [(topics[0], messages)] if len(topics) == 1 else groupby(messages, Received.topic)
        for topic, of_topic in by_topic:
            for number, of_one in groupby(of_topic, Received.partition):
                sorted_.setdefault(Partition(topic or "", number or 0), []).extend(of_one)
        found = {}
        for at, received in sorted_.items():
            if at not in self.reading.at:
                continue
            run = _run(received)
            if len(run.offsets) < len(received):
                self._break(at)
            if len(run.offsets):
                found[at] = run
        reached = {at: end for at, end in reached.items() if at not in self.reading.broken}
        self.reading.heard |= found.keys() | reached.keys()
        for at, offset in [*reached.items(), *((at, run.following) for at, run in found.items())]:
            self.reading.at[at] = max(self.reading.at[at], offset)
        return found

    def _without_events(self, messages: list[Received], reached: dict[Partition, int]) -> list[Received]:
        """The records among them. Raises `KafkaException` where librdkafka tells of what no retry can help."""
        records, ended = [], set()
        for message in messages:
            at = Partition(message.topic() or "", message.partition() or 0)
            if (error := message.error()) is None:
                if at not in ended:
                    records.append(message)
            elif error.code() in _BROKEN and at in self.reading.at:
                ended.add(at)
                self._break(at)
            elif error.code() in _ASTRAY and at in self.reading.at:
                self.reading.astray.add(at)
                self.reading.woken = True
            elif error.code() == KafkaError._PARTITION_EOF and at in self.reading.at:
                reached[at] = message.offset() or 0
            else:
                self._note(error)
        return records

    def _note(self, error: KafkaError) -> None:
        """librdkafka goes on by itself after all errors but those that call for a `Stop`."""
        meaning = translated(KafkaException(error), "")
        if isinstance(meaning, TopicMissing):
            self._watch.look_now()
            self.reading.woken = True
        elif isinstance(meaning, Stop):
            raise KafkaException(error)

    def _break(self, partition: Partition) -> None:
        self.reading.broken.add(partition)
        self.reading.woken = True

    def _to_first(self, away: Iterable[Partition]) -> dict[Partition, Moved]:
        expected = self.positions(away)
        firsts = self.firsts(expected)
        self.seek(firsts)
        return {
            at: Moved(offset, firsts[at], "retention" if offset < firsts[at] else "recreated")
            for at, offset in expected.items()
        }

    def _read_otherwise(self, partition: Partition, max_records: int) -> tuple[Found, dict[Partition, Moved]]:
        deadline = time.monotonic() + self._timeout_s
        with self._recourse([partition]) as reader:
            reader.seek({partition: self.reading.at[partition]})
            while time.monotonic() < deadline:
                found, moved = reader.poll(max_records, _SLICE_S)
                if found or moved:
                    gone_on = {at: why.found for at, why in moved.items()}
                    self.seek(gone_on | {at: run.following for at, run in found.items()})
                    return found, moved
        raise timed_out(self._timeout_s)


def _run(received: Sequence[Received]) -> Run:
    """The records up to the first whose headers librdkafka cannot read: a name that is not UTF-8.

    `Received.timestamp` is cheapest one by one: its tuple is used again.
    """
    headers: list[Any] = []
    try:
        headers.extend(map(Received.headers, received))
    except SystemError:  # what it holds then would crash whoever looks at it
        received = received[: len(headers)]
    given: Sequence[Sequence[Header]] = [()] * len(headers)
    if any(headers):
        given = [[(name, content or b"") for name, content in of_one or ()] for of_one in headers]
    return Run(
        np.fromiter(map(Received.offset, received), np.int64, len(received)),
        np.array([message.timestamp()[1] for message in received], np.int64),
        list(map(Received.key, received)),
        Packed.of(list(map(Received.value, received))),
        given,
    )

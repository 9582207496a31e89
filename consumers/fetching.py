"""kafka-python's consumer with records as columns, and with bounds: on bytes handed over at once and bytes unpacked.

kafka-python offers no hook for any of these. This is the one place where its fetcher is extended: it makes an object of
each record; a poll is bounded in records only; a record batch unpacks without limit; and one that cannot be decoded, or
that has a header name that is not UTF-8, is never got past, though any producer in another language can write one.
Record batches in the formats before Kafka 0.11 are left to kafka-python.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.legacy_records import LegacyRecordBatch
from numpy.typing import NDArray

from consumers.receiving import client
from consumers.record_batches import RecordBatch
from consumers.records import Run

_FETCHED = 4_194_304  # of a partition at once: a batch of the daemon holds no more, and each costs a transaction
LEAST_UNPACKED = 64_000_000
"""A record batch may unpack to so many bytes, or to as many as a poll may hold where that is more."""

_BEGINNING = struct.Struct(">8xi")  # of a record batch in any format: an offset, and how many bytes follow
_FORMAT_AT = 16
_LEAST_BATCH = 26  # bytes: one of format 0 without key and value
_UNDECODABLE = (kafka.CorruptRecordError, kafka.UnsupportedCodecError, struct.error, ValueError, IndexError)


class Undecodable(kafka.KafkaError):  # type: ignore[misc]  # ships no types
    """The records of `key` from offset `expected` up to but not including `found` cannot be decoded."""

    def __init__(self, key: TopicPartition, expected: int, found: int, reason: Exception) -> None:
        super().__init__(f"{key.topic}[{key.partition}] offsets {expected} to {found - 1}: {reason}")
        self.key = key
        self.expected = expected
        self.found = found


def bounded_consumer(max_bytes: int, **arguments: Any) -> KafkaConsumer:
    """A consumer whose `poll` gives a list of `Run`s for each partition, of about `max_bytes` or one larger record.

    As many again, as they are packed, may be on their way from each broker. `poll` raises `Undecodable` when what comes
    next in a partition cannot be decoded; it fetches it again unless its caller seeks on.
    """
    consumer = KafkaConsumer(
        fetch_max_bytes=max_bytes,
        max_partition_fetch_bytes=min(max_bytes, _FETCHED),
        kafka_client=client,
        **arguments,
    )
    consumer._fetcher = _BoundedFetcher(max_bytes, consumer._client, consumer._subscription, **consumer.config)
    return consumer


class _BoundedFetcher(Fetcher):  # type: ignore[misc]  # ships no types
    """`left` is how many bytes the poll under way may still hand over."""

    def __init__(self, max_bytes: int, *args: Any, **config: Any) -> None:
        super().__init__(*args, **config)
        self._max_bytes = max_bytes
        self.left = max_bytes

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> Any:
        self.left = self._max_bytes
        return super().fetched_records(max_records, update_offsets)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        """The number of records taken, of the `max_records` still wanted: all of them ends the poll."""
        runs: int = super()._append(drained, part, max_records, update_offsets)
        taken = sum(len(run.offsets) for run in drained[part.topic_partition][-runs:]) if runs else 0
        return taken if self.left > 0 else max_records

    def PartitionRecords(self, fetch_offset: int, key: TopicPartition, records: Any, **options: Any) -> _Fetched:
        return _Fetched(self, max(self._max_bytes, LEAST_UNPACKED), fetch_offset, key, records, **options)


class _Fetched(Fetcher.PartitionRecords):  # type: ignore[misc]  # ships no types
    """What one fetch brought of one partition. One record batch is open at a time, so no more is ever unpacked.

    It is drained as soon as the last record is taken, so that the next fetch is under way while the caller works.
    """

    next_fetch_offset: int

    def __init__(
        self, fetcher: _BoundedFetcher, limit: int, fetch_offset: int, key: TopicPartition, records: Any, **options: Any
    ) -> None:
        super().__init__(fetch_offset, key, records, **options)
        self._fetcher = fetcher
        self._limit = limit
        self._batch: RecordBatch | _OldBatch | None = None
        self._found = 0  # where to go on after the batch that was last looked at
        self.record_iterator = self._batches(np.frombuffer(records._buffer, np.uint8))

    def take(self, n: int) -> list[Run]:
        """Up to n records. Before what cannot be decoded it ends and drops the rest, so that it is fetched again."""
        taken = []
        try:
            while self._advance() and n > 0 and self._fetcher.left > 0:
                run = self._hand_over(n)
                if len(run.offsets):
                    taken.append(run)
                    n -= len(run.offsets)
        except _UNDECODABLE as error:
            self.drain()
            if not taken:
                expected = self.next_fetch_offset
                raise Undecodable(self.topic_partition, expected, max(self._found, expected + 1), error) from error
        return taken

    def _advance(self) -> bool:
        """Whether there is a batch to go on with."""
        if self._batch is None:
            self._batch = next(self.record_iterator, None)
        if self._batch is None:
            self.drain()
        return self._batch is not None

    def _hand_over(self, n: int) -> Run:
        """Up to n records of one batch: none where all of it lies before the offset that was fetched."""
        batch = self._batch
        assert batch is not None
        run, spent = batch.take(n, self._fetcher.left, self.next_fetch_offset)
        self._fetcher.left -= spent
        self.bytes_read += spent  # kafka-python serves those last that gave something
        self._pass(batch, batch.next_offset if batch.done else run.following)
        if batch.done:
            self._batch = None
        return run

    def _pass(self, batch: RecordBatch | _OldBatch, offset: int) -> None:
        self.next_fetch_offset = max(self.next_fetch_offset, offset)
        self.leader_epoch = batch.leader_epoch

    def _batches(self, data: NDArray[np.uint8]) -> Iterator[RecordBatch | _OldBatch]:
        """Those that have records for the caller."""
        for batch in _split(data, self._limit):
            self._found = batch.next_offset
            batch.check()
            if isinstance(batch, RecordBatch) and self._is_hidden(batch):
                self._pass(batch, batch.next_offset)
            else:
                yield batch

    def _is_hidden(self, batch: RecordBatch) -> bool:
        """Whether it is a marker of the broker's, or of a transaction that was aborted.

        The broker names the aborted transactions of a fetch, each by its producer and first offset. It lasts until the
        producer's next marker.
        """
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.producer_id >= 0:
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if batch.is_abort():
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return batch.is_control


class _OldBatch:
    """A batch in a format before Kafka 0.11, as kafka-python reads it. Where it ends is known when it has been read."""

    leader_epoch = -1
    next_offset = 0

    def __init__(self, data: memoryview, magic: int) -> None:
        self._batch = LegacyRecordBatch(data, magic)
        self._left: deque[Any] | None = None

    @property
    def done(self) -> bool:
        return not self._left

    def check(self) -> None:
        if not self._batch.validate_crc():
            raise kafka.CorruptRecordError("its checksum is wrong")

    def take(self, records: int, max_bytes: int, start: int) -> tuple[Run, int]:
        """As `RecordBatch.take`."""
        if self._left is None:
            self._left = deque(self._batch)
            if not all(record.validate_crc() for record in self._left):
                raise kafka.CorruptRecordError("the checksum of a record in it is wrong")
            self.next_offset = max((record.offset + 1 for record in self._left), default=start)
        taken: list[Any] = []
        spent = 0
        while self._left and len(taken) < records and spent < max_bytes:
            record = self._left.popleft()
            if record.offset >= start:
                taken.append(record)
                spent += record.size_in_bytes
        return Run.of(taken), spent


def _split(data: NDArray[np.uint8], limit: int) -> Iterator[RecordBatch | _OldBatch]:
    """The broker may end a fetch anywhere: a last batch that is cut off is left out."""
    at = 0
    while len(data) - at >= _BEGINNING.size:
        end = at + _BEGINNING.size + _BEGINNING.unpack_from(data.data, at)[0]
        if end > len(data):
            return
        if end - at < _LEAST_BATCH:
            raise kafka.CorruptRecordError(f"a record batch of {end - at} bytes, expected {_LEAST_BATCH} or more")
        magic = int(data[at + _FORMAT_AT])
        if magic > RecordBatch.MAGIC:
            raise kafka.CorruptRecordError(f"a record batch of format {magic}, expected 0 to {RecordBatch.MAGIC}")
        whole = magic == RecordBatch.MAGIC
        yield RecordBatch(data, at, end, limit) if whole else _OldBatch(data.data[at:end], magic)
        at = end

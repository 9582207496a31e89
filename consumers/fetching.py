"""kafka-python's consumer with bounds: bytes handed over at once, bytes unpacked, and tries at what cannot be decoded.

kafka-python offers no hook for any of these. This is the one place where its fetcher is extended: a poll is bounded in
records only; a record batch unpacks without limit; and one that cannot be decoded, or that has a header name that is
not UTF-8, is never got past, though any producer in another language can write one. Record batches in the formats
before Kafka 0.11 are left to kafka-python.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch

from consumers.inflation import inflate

LEAST_UNPACKED = 64_000_000
"""A record batch may unpack to so many bytes, or to as many as a poll may hold where that is more."""

_UNDECODABLE = (kafka.CorruptRecordError, kafka.UnsupportedCodecError, struct.error, ValueError, IndexError)


class Undecodable(kafka.KafkaError):  # type: ignore[misc]  # ships no types
    """The records of `key` from offset `expected` up to but not including `found` cannot be decoded."""

    def __init__(self, key: TopicPartition, expected: int, found: int, reason: Exception) -> None:
        super().__init__(f"{key.topic}[{key.partition}] offsets {expected} to {found - 1}: {reason}")
        self.key = key
        self.expected = expected
        self.found = found


def bounded_consumer(max_bytes: int, **arguments: Any) -> KafkaConsumer:
    """A consumer whose `poll` gives about `max_bytes` of keys, values and headers at most, or one larger record.

    As many again, as they are packed, may be on their way from each broker. `poll` raises `Undecodable` when what comes
    next in a partition cannot be decoded; it fetches it again unless its caller seeks on.
    """
    consumer = KafkaConsumer(
        fetch_max_bytes=max_bytes,
        max_partition_fetch_bytes=min(max_bytes, KafkaConsumer.DEFAULT_CONFIG["max_partition_fetch_bytes"]),
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
        taken: int = super()._append(drained, part, max_records, update_offsets)
        return taken if self.left > 0 else max_records

    def PartitionRecords(self, fetch_offset: int, key: TopicPartition, records: Any, **options: Any) -> _Run:
        batches = _Batches(records, max(self._max_bytes, LEAST_UNPACKED))
        return _Run(self, batches, fetch_offset, key, batches, **options)


class _Run(Fetcher.PartitionRecords):  # type: ignore[misc]  # ships no types
    """Records of one partition, out of one fetch. Their sizes are -1 for a key, value or headers that are not there."""

    def __init__(self, fetcher: _BoundedFetcher, batches: _Batches, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._fetcher = fetcher
        self._batches = batches

    def take(self, n: int | None = None) -> list[Any]:
        """Up to n records. Before what cannot be decoded it ends and drops the rest, so that it is fetched again."""
        taken, left = [], self._fetcher.left
        try:
            for record in islice(self.record_iterator, n):
                taken.append(record)
                left -= 3 + record.serialized_key_size + record.serialized_value_size + record.serialized_header_size
                if left <= 0:
                    break
        except _UNDECODABLE as error:
            self.drain()
            if not taken:
                expected = self.next_fetch_offset
                found = max(self._batches.next_offset, expected + 1)
                raise Undecodable(self.topic_partition, expected, found, error) from error
        self._fetcher.left = left
        return taken


class _Batches:
    """The record batches of a fetch; `next_offset` is the one after the batch that was last given."""

    def __init__(self, records: Any, limit: int) -> None:
        self._records = records
        self._limit = limit
        self.next_offset = 0

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if isinstance(batch, DefaultRecordBatch):
            self.next_offset = batch.next_offset
            return _Batch(batch._buffer, self._limit)
        return batch


class _Batch(DefaultRecordBatch):  # type: ignore[misc]  # ships no types
    """A record batch that unpacks to `limit` bytes at most, and whose header names may be any bytes."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool

    def __init__(self, buffer: bytearray, limit: int) -> None:
        super().__init__(buffer)
        self._limit = limit

    def _maybe_uncompress(self) -> None:
        if not self._decompressed and self.compression_type != self.CODEC_NONE:
            packed = bytes(memoryview(self._buffer)[self._pos :])
            self._buffer = bytearray(inflate(self.compression_type, packed, self._limit))
            self._pos = 0
        self._decompressed = True

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = _LenientText(self._buffer)
            return super()._read_msg()


class _LenientText(bytearray):
    """Bytes whose slices decode whatever they hold: what is not UTF-8 comes out as backslash escapes."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _LenientText(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)

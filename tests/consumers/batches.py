"""Record batches as brokers hold them, made by kafka-python's own builder."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from crc32c import crc32c
from hypothesis import strategies as some
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from consumers.records import Run

CODECS = {"plain": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
LOG_APPEND_TIME, CONTROL = 0x08, 0x20
HEAD_BYTES = 61


class Given(NamedTuple):
    """A record to write: `delta` is its offset less that of the record before, so 1 where nothing was compacted."""

    delta: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


_strings = some.none() | some.binary(max_size=200)
records = some.lists(
    some.builds(
        Given,
        some.integers(1, 3),
        some.integers(-(2**40), 2**45),
        _strings,
        _strings,
        some.lists(some.tuples(some.text(max_size=5), _strings), max_size=3),
    ),
    min_size=1,
    max_size=20,
)


def sealed(batch: bytearray) -> bytes:
    """With the checksum that belongs to it."""
    struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
    return bytes(batch)


def batch(
    records: Sequence[Given],
    *,
    codec: int = 0,
    base: int = 0,
    attributes: int = 0,
    producer: int = -1,
    transactional: bool = False,
) -> bytes:
    """The records at offsets from `base` on; further attributes are set as they are given."""
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0, 0, 1 << 30)
    at = -1
    for record in records:
        at += record.delta
        builder.append(at, record.timestamp, record.key, record.value, record.headers)
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, base)
    struct.pack_into(">i", made, 12, 7)  # the leader's epoch
    struct.pack_into(">h", made, 21, struct.unpack_from(">h", made, 21)[0] | attributes)
    return sealed(made)


def plain(*values: bytes | None) -> list[Given]:
    return [Given(1, 0, None, value, []) for value in values]


def marker(kind: int, *, base: int, producer: int) -> bytes:
    """A control batch that ends a transaction of the producer: kind 0 aborts it, 1 commits it."""
    key = struct.pack(">hh", 0, kind)
    return batch([Given(1, 0, key, bytes(6), [])], base=base, attributes=CONTROL, producer=producer, transactional=True)


def rows(run: Run) -> list[tuple[Any, ...]]:
    """Offset, timestamp, key, value and headers of each record."""
    columns = (run.offsets.tolist(), run.timestamps.tolist(), run.keys, run.values, run.headers)
    return [(*row[:4], list(row[4])) for row in zip(*columns, strict=True)]


def read_by_kafka_python(batch: bytes) -> list[tuple[Any, ...]]:
    """The same of kafka-python's reader; headers without content have b""."""
    return [
        (
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            [(name, content or b"") for name, content in record.headers],
        )
        for record in DefaultRecordBatch(batch)
    ]

"""Record batches of Kafka's message format 2, taken apart into columns by one compiled pass.

The format is the section "Record Batch" of Kafka's protocol guide. All lengths and counts are held against the bytes
that are there before one of them is read, so bytes from a hostile hand are refused and never followed.
"""

from __future__ import annotations

import struct

import numpy as np
from crc32c import crc32c
from kafka import errors as kafka
from numpy.typing import NDArray

from consumers.compiled import compiled
from consumers.headers import Headers
from consumers.inflation import inflate
from consumers.packed import ABSENT, Packed
from consumers.records import Run

_HEAD = struct.Struct(">qiibIhiqqqhii")
_CHECKED_FROM = 21  # the checksum is over the attributes and all that follows them
_CODEC, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_MARKER = struct.Struct(">hh")  # the key of a control record: version and type
_ABORT = 0
_LEAST_RECORD = 7  # bytes: its length, attributes, timestamp, offset, lengths of key and value, number of headers
_COLUMNS = 8
_MOST_OFFSET = 2**63 - 2


class RecordBatch:
    """The record batch that is `data[begin:end]`, of which `limit` bytes are unpacked at most.

    What it says is to be believed once it has passed `check`. It and its methods raise kafka-python's
    `CorruptRecordError` and `UnsupportedCodecError` where it cannot be read.
    """

    MAGIC = 2

    def __init__(self, data: NDArray[np.uint8], begin: int, end: int, limit: int) -> None:
        if end - begin < _HEAD.size:
            raise kafka.CorruptRecordError(f"a record batch of {end - begin} bytes, expected {_HEAD.size} or more")
        (
            self.base_offset,
            _,  # its length
            self.leader_epoch,
            _,  # the format
            self._checksum,
            self._attributes,
            self._last_delta,
            self._first_timestamp,
            self._max_timestamp,
            self.producer_id,
            _,  # the producer's epoch
            _,  # its sequence number
            self._count,
        ) = _HEAD.unpack_from(data.data, begin)
        self._data = data
        self._begin = begin
        self._end = end
        self._limit = limit
        self._cursor: NDArray[np.int64] | None = None

    @property
    def last_offset(self) -> int:
        """That of the last record it had: compaction takes records out of a batch, and leaves its offsets."""
        last: int = self.base_offset + self._last_delta
        return last

    @property
    def next_offset(self) -> int:
        """Where to go on after it."""
        return self.last_offset + 1

    @property
    def is_transactional(self) -> bool:
        return bool(self._attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether it holds a marker of the broker's instead of records."""
        return bool(self._attributes & _CONTROL)

    @property
    def done(self) -> bool:
        """Whether all its records have been taken."""
        return self._cursor is not None and not self._cursor[_LEFT]

    def check(self) -> None:
        """Holds it against its checksum, and its offsets against what offsets can be."""
        found = crc32c(self._data.data[self._begin + _CHECKED_FROM : self._end])
        if found != self._checksum:
            raise kafka.CorruptRecordError(f"its checksum is {found:#010x}, expected {self._checksum:#010x}")
        if not 0 <= self.base_offset <= self.last_offset <= _MOST_OFFSET or self._count < 0:
            raise kafka.CorruptRecordError(f"{self._count} records from {self.base_offset} to {self.last_offset}")

    def is_abort(self) -> bool:
        """Whether it is the marker of a transaction that was aborted."""
        if not self.is_control:
            return False
        keys = self.take(1, self._limit, self.base_offset)[0].keys
        return len(keys) > 0 and _marked(keys[0]) == _ABORT

    def take(self, records: int, max_bytes: int, start: int) -> tuple[Run, int]:
        """The next of its records from the offset `start` on, and how many bytes they are.

        They are as many as are asked for, or so many that the last reaches `max_bytes` (both above 0), or all up to one
        that is malformed; that one raises when it is the first. Their keys and values stay where they are.
        """
        if self._cursor is None:
            self._open()
        assert self._cursor is not None
        at, left, _, _ = self._cursor.tolist()
        columns = np.empty((_COLUMNS, min(records, left, (self._end - at) // _LEAST_RECORD + 1)), np.int64)
        marks = self.base_offset, self._last_delta, self._first_timestamp
        taken = _take_apart(self._data, self._end, *marks, start, max_bytes, self._cursor, columns)
        if not taken and not self.done:
            raise kafka.CorruptRecordError(f"record {self._count - self._cursor[_LEFT]} of {self._count} is malformed")
        if self._attributes & _LOG_APPEND_TIME:
            columns[1] = self._max_timestamp
        columns = columns[:, :taken]
        keys, values, sections = (Packed(self._data, *columns[place : place + 2]) for place in (2, 4, 6))
        return Run(columns[0], columns[1], keys, values, Headers(sections)), int(self._cursor[_SPENT])

    def _open(self) -> None:
        """Goes to the first record, after unpacking them all."""
        at = self._begin + _HEAD.size
        if codec := self._attributes & _CODEC:
            inflated = inflate(codec, self._data[at : self._end].tobytes(), self._limit)
            self._data, at, self._end = np.frombuffer(inflated, np.uint8), 0, len(inflated)
        self._cursor = np.array([at, self._count, -1, 0], np.int64)


def _marked(key: bytes | None) -> int:
    if key is None or len(key) != _MARKER.size:
        raise kafka.CorruptRecordError(f"the key of its marker is {key!r}, expected {_MARKER.size} bytes")
    kind: int = _MARKER.unpack(key)[1]
    return kind


_AT, _LEFT, _NEWEST, _SPENT = range(4)  # places of the cursor
_LENGTH, _TIMESTAMP, _OFFSET, _KEY, _VALUE, _HEADERS = range(6)  # fields of a record, as they follow each other


@compiled
def _take_apart(
    data: NDArray[np.uint8],
    end: int,
    base_offset: int,
    last_delta: int,
    first_timestamp: int,
    start: int,
    max_bytes: int,
    cursor: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> int:
    """Reads records into columns (8, n) and gives their number, which is less than n where bytes or records end.

    The columns are offset, timestamp, then start and length of key, of value, and of the headers with their count.
    The cursor (4,) goes along: where the next record begins, how many there are, the newest offset less the base, and
    how many bytes were taken. It stops before one that is malformed: whose fields do not fill its length, whose offset
    does not rise up to `last_delta`, or that is the last and leaves bytes after it.
    """
    at, left, newest = cursor[_AT], cursor[_LEFT], cursor[_NEWEST]
    row = spent = 0
    while row < columns.shape[1] and left > 0 and spent < max_bytes:
        stop = _read(data, at, np.int64(end), columns, row)
        delta = columns[0, row]
        if stop < 0 or not newest < delta <= last_delta or (left == 1 and stop != end):
            break
        columns[0, row] += base_offset
        columns[1, row] += first_timestamp
        if columns[0, row] >= start:
            row += 1
            spent += stop - at
        at, left, newest = stop, left - 1, delta
    cursor[_AT], cursor[_LEFT], cursor[_NEWEST], cursor[_SPENT] = at, left, newest, spent
    return row


@compiled
def _read(data: NDArray[np.uint8], at: np.int64, end: np.int64, columns: NDArray[np.int64], row: int) -> np.int64:
    """Reads one record into a row, and gives the place after it: -1 where its fields do not fill it.

    Each field begins with a number: seven bits a byte, the lowest first, the last byte below 128; zigzag, so that 0, 1,
    2, 3 are 0, -1, 1, -2. After the length of the record there is a byte of attributes, without a meaning yet. After
    the number of headers follow as many names and contents. All in one loop, for a call for each number takes longer.
    """
    stop, field, fields = end, 0, np.int64(6)
    while field < fields:
        begin = at
        nullable = field in (_KEY, _VALUE) or (field > _HEADERS and field % 2 == 1)
        bits, shift, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
        while byte >= 0x80 and at < stop and shift < 64:
            byte = np.uint64(data[at])
            bits |= (byte & np.uint64(0x7F)) << shift
            shift += np.uint64(7)
            at += 1
        if byte >= 0x80:
            return np.int64(-1)
        number = np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))
        if field == _OFFSET:
            columns[0, row] = number
        elif field == _TIMESTAMP:
            columns[1, row] = number
        elif number > stop - at or (number < 0 and not nullable):
            return np.int64(-1)
        elif field == _LENGTH:
            stop = at + number
            at += 1
        elif field == _HEADERS:
            columns[6, row], columns[7, row] = begin, stop - begin
            fields += 2 * number
        else:
            if field in (_KEY, _VALUE):
                columns[2 * field - 4, row] = at
                columns[2 * field - 3, row] = number if number >= 0 else ABSENT
            if number > 0:
                at += number
        field += 1
    return stop if at == stop else np.int64(-1)

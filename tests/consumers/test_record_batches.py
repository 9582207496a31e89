"""Record batches come apart as kafka-python takes them apart, and bytes that are none are refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from kafka.errors import CorruptRecordError, UnsupportedCodecError

from consumers.headers import Headers
from consumers.packed import Packed
from consumers.record_batches import RecordBatch, _take_apart
from consumers.records import Run
from tests.consumers.batches import (
    CODECS,
    CONTROL,
    HEAD_BYTES,
    LOG_APPEND_TIME,
    Given,
    batch,
    marker,
    plain,
    read_by_kafka_python,
    records,
    rows,
    sealed,
)

LIMIT = 1_000_000
ALL = 1 << 30
codecs = some.sampled_from([*CODECS.values()])
without_deadline = settings(deadline=None)  # compiled code is compiled at its first call


def opened(data: bytes, begin: int = 0, end: int | None = None, limit: int = LIMIT) -> RecordBatch:
    return RecordBatch(np.frombuffer(data, np.uint8), begin, len(data) if end is None else end, limit)


def read(data: bytes, start: int = 0) -> list[tuple[Any, ...]]:
    found = opened(data)
    found.check()
    return rows(found.take(ALL, ALL, start)[0])


def exhaust(found: RecordBatch) -> None:
    while not found.done:
        found.take(ALL, ALL, 0)


def record(body: bytes) -> bytes:
    """Of less than 64 bytes, with its length before it."""
    return bytes([2 * len(body)]) + body


SOUND = b"\0\0\0\1\1\0"  # attributes, time and offset 0, neither key nor value, no headers


def raw(body: bytes, *, count: int = 1, last_delta: int = 0) -> bytes:
    """A record batch of these bytes."""
    made = bytearray(batch(plain(b""))[:HEAD_BYTES]) + body
    struct.pack_into(">i", made, 8, len(made) - 12)
    struct.pack_into(">i", made, 23, last_delta)
    struct.pack_into(">i", made, 57, count)
    return sealed(made)


@without_deadline
@given(records, codecs, some.integers(0, 2**62))
def test_records_are_those_that_kafka_python_reads(written: list[Given], codec: int, base: int) -> None:
    data = batch(written, codec=codec, base=base)
    assert read(data) == read_by_kafka_python(data)


@without_deadline
@given(records, codecs)
def test_a_batch_in_the_middle_of_a_fetch_is_read_as_alone(written: list[Given], codec: int) -> None:
    data = batch(written, codec=codec)
    found = opened(b"before" + data + b"after", 6, 6 + len(data))
    found.check()
    assert rows(found.take(ALL, ALL, 0)[0]) == read(data)


@without_deadline
@given(records, codecs, some.integers(1, 5), some.integers(1, 500), some.integers(0, 70))
def test_what_is_taken_in_parts_is_the_whole(
    written: list[Given], codec: int, most: int, max_bytes: int, start: int
) -> None:
    data, parts = opened(batch(written, codec=codec)), []
    while not data.done:
        run, size = data.take(most, max_bytes, start)
        parts.append(run)
        assert len(run.offsets) <= most
        assert size - max_bytes < max((len(row[2] or b"") + len(row[3] or b"") for row in rows(run)), default=0) + 700
    whole = [row for part in parts for row in rows(part)]
    assert whole == [row for row in read(batch(written, codec=codec)) if row[0] >= start]
    assert rows(Run.concat(parts)) == whole


def test_a_part_ends_with_the_record_that_reaches_the_bytes_asked_for() -> None:
    found = opened(batch(plain(*[bytes(100)] * 10)))
    assert [len(found.take(ALL, most, 0)[0].offsets) for most in (1, 109, 110, 400, 10_000)] == [1, 1, 2, 4, 2]


def test_keys_and_values_stay_in_the_buffer_that_was_fetched() -> None:
    data = np.frombuffer(batch(plain(b"a", b"b")), np.uint8)
    run, _ = RecordBatch(data, 0, len(data), LIMIT).take(ALL, ALL, 0)
    assert isinstance(run.values, Packed)
    assert run.values.data is data


@without_deadline
@given(records)
def test_where_the_broker_gave_the_time_all_records_have_the_newest(written: list[Given]) -> None:
    data = batch(written, attributes=LOG_APPEND_TIME)
    assert {row[1] for row in read(data)} == {max(record.timestamp for record in written)}
    assert read(data) == read_by_kafka_python(data)


def test_header_names_that_are_not_utf_8_are_kept_as_escapes() -> None:
    data = bytearray(batch([Given(1, 0, None, None, [("cafe", b"1"), ("é", None)])]))
    data[data.index(b"cafe") + 3] = 0xE9
    assert read(sealed(data))[0][4] == [(r"caf\xe9", b"1"), ("é", b"")]


def test_after_a_batch_it_goes_on_behind_offsets_that_compaction_emptied() -> None:
    data = bytearray(batch(plain(b"0", b"1"), base=10))
    struct.pack_into(">i", data, 23, 99)
    found = opened(sealed(data))
    found.check()
    assert (found.last_offset, found.next_offset) == (109, 110)


def test_a_batch_that_compaction_emptied_has_no_records() -> None:
    assert read(raw(b"", count=0, last_delta=5)) == []


@without_deadline
@given(records, codecs, some.data())
def test_one_damaged_byte_changes_nothing_or_is_noticed(
    written: list[Given], codec: int, draw: some.DataObject
) -> None:
    """But for the base offset, the length and the format: over these there is no checksum."""
    data = bytearray(batch(written, codec=codec))
    at = draw.draw(some.integers(12, len(data) - 1).filter(lambda place: place != 16))
    data[at] ^= draw.draw(some.integers(1, 255))
    try:
        found = read(bytes(data))
    except CorruptRecordError:
        return
    assert found == read(batch(written, codec=codec))


@without_deadline
@given(records, codecs, some.data())
def test_what_is_cut_off_is_noticed(written: list[Given], codec: int, draw: some.DataObject) -> None:
    data = batch(written, codec=codec)
    with pytest.raises(CorruptRecordError):
        read(data[: draw.draw(some.integers(0, len(data) - 1))])


@without_deadline
@given(records, some.lists(some.tuples(some.integers(0, 10_000), some.integers(0, 255)), max_size=4))
def test_bytes_that_lie_under_a_right_checksum_lead_nowhere_outside_them(
    written: list[Given], lies: list[tuple[int, int]]
) -> None:
    data = bytearray(batch(written))
    for at, byte in lies:
        data[HEAD_BYTES + at % (len(data) - HEAD_BYTES)] = byte
    found = opened(sealed(data))
    try:
        found.check()
        run, _ = found.take(ALL, ALL, 0)
    except CorruptRecordError:
        return
    assert isinstance(run.headers, Headers)
    for strings in map(Packed.of, (run.keys, run.values, run.headers.sections)):
        assert (strings.starts >= HEAD_BYTES).all()
        assert (strings.starts + strings.lengths <= len(data)).all()
        assert (strings.lengths >= -1).all()
    assert len(list(run.headers)) == len(run.offsets)
    assert (np.diff(run.offsets) > 0).all()


@without_deadline
@given(some.binary(max_size=300), some.integers(0, 2**31 - 1), some.integers(0, 2**31 - 1))
def test_garbage_is_no_record_or_lies_within_it(garbage: bytes, count: int, last_delta: int) -> None:
    data = np.frombuffer(b"\x10" * 50 + garbage + b"\x10" * 50, np.uint8)
    end = 50 + len(garbage)
    cursor, columns = np.array([50, count, -1, 0]), np.empty((8, 50), np.int64)
    taken = _take_apart(data, end, 0, last_delta, 0, 0, ALL, cursor, columns)
    assert 0 <= taken <= 50
    assert 50 <= cursor[0] <= end
    for place in (2, 4, 6):
        starts, lengths = columns[place : place + 2, :taken]
        assert ((starts >= 50) & (starts + lengths <= end) & (lengths >= -1)).all()


MALFORMED = {
    "no bytes": (b"", 1),
    "a length of nothing": (b"\0", 1),
    "a negative length": (b"\x01" + SOUND, 1),
    "a length beyond the end": (b"\x10" + SOUND, 1),
    "a length that never ends": (b"\xff" * 30, 1),
    "a length of more than 64 bits": (b"\x8c" + b"\x80" * 10 + b"\0" + SOUND, 1),
    "fields short of its length": (record(SOUND + b"\0"), 1),
    "fields beyond its length": (b"\x0a" + SOUND, 1),
    "a key beyond its length": (record(b"\0\0\0\x08\1\0"), 1),
    "a value beyond its length": (record(b"\0\0\0\1\x08\0"), 1),
    "a value of 2**63 - 1 bytes": (record(b"\0\0\0\1\xfe" + b"\xff" * 8 + b"\1\0"), 1),
    "a negative number of headers": (record(b"\0\0\0\1\1\1"), 1),
    "more headers than there are": (record(b"\0\0\0\1\1\4\0\1"), 1),
    "2**62 headers": (record(b"\0\0\0\1\1" + b"\x80" * 8 + b"\x7f"), 1),
    "a header without a name": (record(b"\0\0\0\1\1\2\1\1"), 1),
    "a header's content beyond its length": (record(b"\0\0\0\1\1\2\0\x08"), 1),
    "an offset beyond the last": (record(b"\0\0\2\1\1\0"), 1),
    "an offset before the first": (record(b"\0\0\1\1\1\0"), 1),
    "bytes after the last record": (record(SOUND) + b"\0", 1),
    "fewer records than it says": (record(SOUND), 2_000_000_000),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_record_is_refused(what: str) -> None:
    body, count = MALFORMED[what]
    found = opened(raw(body, count=count))
    found.check()
    with pytest.raises(CorruptRecordError, match=r"record \d+ of \d+ is malformed"):
        exhaust(found)


def test_a_record_does_not_reach_into_the_batch_after_its_own() -> None:
    found = opened(raw(record(SOUND)[:-1], count=2) + b"\0" * 9, end=HEAD_BYTES + 6)
    with pytest.raises(CorruptRecordError, match="record 0 of 2 is malformed"):
        found.take(ALL, ALL, 0)


def test_sound_records_before_a_malformed_one_are_taken() -> None:
    found = opened(raw(record(SOUND) + record(b"\0\0\2\1\1\0") + record(b"\0\0\2\1\1\0"), count=3, last_delta=2))
    assert found.take(ALL, ALL, 0)[0].offsets.tolist() == [0, 1]
    with pytest.raises(CorruptRecordError, match="record 2 of 3 is malformed"):
        found.take(ALL, ALL, 0)


def test_a_declared_number_of_records_reserves_no_more_than_the_bytes_could_hold() -> None:
    run, _ = opened(raw(record(SOUND) + b"\0", count=2_000_000_000)).take(2_000_000_000, ALL, 0)
    assert run.offsets.base is not None
    assert run.offsets.base.nbytes < 1_000


@pytest.mark.parametrize(
    ("place", "form", "value"),
    [(23, ">i", -1), (57, ">i", -1), (0, ">q", -1), (0, ">q", 2**63 - 1)],
    ids=["a last offset before the first", "a negative count", "a negative offset", "an offset beyond 64 bits"],
)
def test_a_head_that_cannot_be_is_refused(place: int, form: str, value: int) -> None:
    data = bytearray(batch(plain(b"0")))
    struct.pack_into(form, data, place, value)
    with pytest.raises(CorruptRecordError, match=r"records from -?\d+ to -?\d+"):
        opened(sealed(data)).check()


def test_a_batch_shorter_than_its_head_is_refused() -> None:
    with pytest.raises(CorruptRecordError, match="60 bytes, expected 61 or more"):
        opened(batch(plain(b"0")), 0, 60)


def test_a_wrong_checksum_is_told_with_the_right_one() -> None:
    data = bytearray(batch(plain(b"0")))
    data[17:21] = b"\1\2\3\4"
    with pytest.raises(CorruptRecordError, match=r"checksum is 0x[0-9a-f]{8}, expected 0x01020304"):
        opened(bytes(data)).check()


def test_a_codec_that_does_not_exist_is_named() -> None:
    data = bytearray(batch(plain(b"0")))
    data[22] |= 7
    with pytest.raises(UnsupportedCodecError, match="codec 7"):
        read(sealed(data))


def test_what_unpacks_to_more_than_the_limit_is_refused() -> None:
    data = batch(plain(bytes(100_000)), codec=CODECS["lz4"])
    with pytest.raises(CorruptRecordError, match="unpack to more than 50000 bytes"):
        opened(data, limit=50_000).take(ALL, ALL, 0)


@pytest.mark.parametrize(("kind", "aborts"), [(0, True), (1, False), (9, False)])
def test_a_marker_says_whether_a_transaction_was_aborted(kind: int, aborts: bool) -> None:
    found = opened(marker(kind, base=3, producer=1))
    assert (found.is_control, found.is_abort()) == (True, aborts)


def test_records_are_no_marker() -> None:
    found = opened(batch([Given(1, 0, bytes(4), b"", [])], producer=1, transactional=True))
    assert (found.is_control, found.is_abort(), found.is_transactional) == (False, False, True)


@pytest.mark.parametrize("key", [None, b"", bytes(3), bytes(5)])
def test_a_marker_of_another_shape_is_refused(key: bytes | None) -> None:
    with pytest.raises(CorruptRecordError, match="the key of its marker is"):
        opened(batch([Given(1, 0, key, b"", [])], attributes=CONTROL)).is_abort()

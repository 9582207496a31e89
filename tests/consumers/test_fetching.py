"""Batches are bounded in bytes, and what cannot be decoded is passed over, however records are read."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import FetchResponse, IsolationLevel
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from consumers import fetching
from consumers.batch import Moved, Partition, RawBatch
from consumers.fetching import Undecodable
from consumers.kafka_python import KafkaPythonBroker
from consumers.record_batches import RecordBatch
from consumers.records import Run
from consumers.settings import KafkaSettings
from consumers.stream import Window
from tests.consumers.batches import CODECS, batch, marker, plain, records, rows, sealed

Reading = Callable[[KafkaPythonBroker, str], Iterator[RawBatch]]


def by_stream(broker: KafkaPythonBroker, topic: str) -> Iterator[RawBatch]:
    with closing(broker.stream([topic])) as stream:
        end, at = -1, 0
        while at != end:
            batch = stream.poll(10_000, 0.5)
            yield batch
            end = batch.ends.get(Partition(topic, 0), -1)
            at = max(
                [at, *(why.found for why in batch.moved.values()), *(p.offset for p in batch.positions().values())]
            )


def by_read(broker: KafkaPythonBroker, topic: str) -> Iterator[RawBatch]:
    return broker.read([topic], Window())


def by_fetch(broker: KafkaPythonBroker, topic: str) -> Iterator[RawBatch]:
    return broker.fetch({Partition(topic, 0): (0, 1_000)})


every_way = pytest.mark.parametrize("reading", [by_stream, by_read, by_fetch])


def broker(bootstrap: str, group: str, max_bytes: int = 64_000_000) -> KafkaPythonBroker:
    settings = KafkaSettings(bootstrap=bootstrap, start="earliest", request_timeout_s=10.0)
    return KafkaPythonBroker(settings, group=group, client_id="test", max_bytes=max_bytes)


def filled(bootstrap: str, topic: str, *batches: tuple[str | None, Sequence[bytes]]) -> None:
    """Makes a topic of one partition that holds these record batches, each compressed as it says."""
    broker(bootstrap, topic).create_topics({topic: 1})
    for codec, values in batches:
        arguments = {
            "compression_type": codec,
            "linger_ms": 10_000,
            "batch_size": 2_000_000,
            "max_request_size": 4_000_000,
        }
        with closing(KafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=False, **arguments)) as producer:
            for value in values:
                producer.send(topic, value, partition=0)


def values(batches: Sequence[RawBatch]) -> list[bytes | None]:
    return [value for batch in batches for value in batch.values]


def moved(batches: Sequence[RawBatch]) -> list[Mapping[Partition, Moved]]:
    return [batch.moved for batch in batches if batch.moved]


@every_way
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a_batch_holds_so_many_bytes_and_nothing_is_lost(
    bootstrap: str, unique: str, reading: Reading, codec: str | None
) -> None:
    plain = [b"%04d" % number * 2_500 for number in range(40)]
    filled(bootstrap, unique, (codec, plain[:25]), (codec, plain[25:]))
    batches = list(reading(broker(bootstrap, unique, max_bytes=35_000), unique))
    assert values(batches) == plain
    assert max(sum(len(value or b"") for value in batch.values) for batch in batches) <= 40_000


@every_way
def test_a_record_that_is_larger_than_a_batch_may_be_passes_alone(
    bootstrap: str, unique: str, reading: Reading
) -> None:
    plain = [b"small", b"large" * 100_000, b"next"]
    filled(bootstrap, unique, (None, plain[:1]), (None, plain[1:2]), (None, plain[2:]))
    batches = [batch for batch in reading(broker(bootstrap, unique, max_bytes=1_000), unique) if len(batch)]
    assert values(batches) == plain
    assert len(batches[-1]) == 1


def test_a_partition_can_be_rewound_while_records_beyond_the_bound_wait(bootstrap: str, unique: str) -> None:
    plain = [b"%d" % number * 1_000 for number in range(10)]
    filled(bootstrap, unique, (None, plain))
    with closing(broker(bootstrap, unique, max_bytes=3_000).stream([unique])) as stream:
        batch = next(batch for batch in (stream.poll(100, 0.5) for _ in range(40)) if len(batch))
        assert list(batch.values) == plain[:3]
        stream.rewind(Partition(unique, 0), 1)
        assert list(stream.poll(100, 5.0).values) == plain[1:4]
        assert list(stream.poll(100, 5.0).values) == plain[4:7]


@every_way
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_too_much_is_passed_over(
    bootstrap: str, unique: str, reading: Reading, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LEAST_UNPACKED", 100_000)
    bomb = [b"a", b"b", bytes(200_000)]
    filled(bootstrap, unique, (codec, [b"0", b"1"]), (codec, bomb), (codec, bomb), (codec, [b"8"]))
    batches = list(reading(broker(bootstrap, unique, max_bytes=50_000), unique))
    assert values(batches) == [b"0", b"1", b"8"]
    if reading is by_stream:
        at = Partition(unique, 0)
        assert moved(batches) == [{at: Moved(2, 5, "undecodable")}, {at: Moved(5, 8, "undecodable")}]


class BrokenTransfer:
    """Fails the checksum of the record batch that begins at an offset, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, offset: int, times: int) -> None:
        self.seen: Counter[int] = Counter()
        right = RecordBatch.check

        def check(batch: RecordBatch) -> None:
            self.seen[batch.base_offset] += 1
            if batch.base_offset == offset and self.seen[offset] <= times:
                raise CorruptRecordError("broken on the way")
            right(batch)

        monkeypatch.setattr(RecordBatch, "check", check)


@every_way
def test_a_broken_transfer_is_fetched_again(
    bootstrap: str, unique: str, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(bootstrap, unique, (None, [b"0", b"1"]), (None, [b"2", b"3"]), (None, [b"4"]))
    BrokenTransfer(monkeypatch, 2, times=3)
    batches = list(reading(broker(bootstrap, unique), unique))
    assert values(batches) == [b"0", b"1", b"2", b"3", b"4"]
    assert moved(batches) == []


@every_way
def test_a_batch_with_a_wrong_checksum_is_passed_over_after_four_tries(
    bootstrap: str, unique: str, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(bootstrap, unique, (None, [b"0", b"1"]), (None, [b"2", b"3"]), (None, [b"4"]))
    broken = BrokenTransfer(monkeypatch, 2, times=1_000)
    batches = list(reading(broker(bootstrap, unique), unique))
    assert values(batches) == [b"0", b"1", b"4"]
    assert 4 <= broken.seen[2] <= 6
    if reading is by_stream:
        assert moved(batches) == [{Partition(unique, 0): Moved(2, 4, "undecodable")}]


KEY = TopicPartition("t", 0)
MANY = 1 << 30
without_deadline = settings(deadline=None)  # compiled code is compiled at its first call


class Fetched:
    """What a fetch from the offset `start` on brought, taken as one poll after another would."""

    def __init__(self, data: bytes, start: int = 0, aborted: Sequence[tuple[int, int]] = ()) -> None:
        self.budget = cast(Any, SimpleNamespace(left=MANY))
        self.part = fetching._Fetched(
            self.budget,
            fetching.LEAST_UNPACKED,
            start,
            KEY,
            MemoryRecords(data),
            isolation_level=IsolationLevel.READ_COMMITTED,
            aborted_transactions=[Aborted(producer_id=producer, first_offset=first) for producer, first in aborted],
        )

    def poll(self, most: int = MANY, max_bytes: int = MANY) -> list[tuple[Any, ...]]:
        self.budget.left = max_bytes
        return rows(Run.concat(self.part.take(most)))

    def all(self, most: int = MANY, max_bytes: int = MANY) -> list[tuple[Any, ...]]:
        found = []
        while self.part:
            found += self.poll(most, max_bytes)
        return found


Aborted = FetchResponse.FetchableTopicResponse.PartitionData.AbortedTransaction


def by_kafka_python(data: bytes, start: int, aborted: Sequence[tuple[int, int]]) -> list[tuple[Any, ...]]:
    part = Fetcher.PartitionRecords(
        start,
        KEY,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[Aborted(producer_id=producer, first_offset=first) for producer, first in aborted],
    )
    return rows(Run.of(part.take()))


@some.composite
def logs(draw: some.DrawFn) -> tuple[bytes, list[tuple[int, int]]]:
    """Batches with gaps between them, some in transactions of two producers, and which of these were aborted."""
    log, aborted, opened, at = b"", [], dict[int, int](), 0
    for _ in range(draw(some.integers(1, 8))):
        at += draw(some.integers(0, 3))
        producer = draw(some.sampled_from([-1, 1, 2]))
        if producer in opened and draw(some.booleans()):
            kind = draw(some.integers(0, 1))
            aborted += [(producer, opened.pop(producer))] * (kind == 0)
            log += marker(kind, base=at, producer=producer)
            at += 1
            continue
        written = draw(records)
        if producer > 0:
            opened.setdefault(producer, at)
        codec = draw(some.sampled_from([*CODECS.values()]))
        log += batch(written, codec=codec, base=at, producer=producer, transactional=producer > 0)
        at += sum(record.delta for record in written)
    return log, aborted


@without_deadline
@given(logs(), some.integers(0, 60))
def test_a_fetch_gives_the_records_that_kafka_python_would_give(
    log: tuple[bytes, list[tuple[int, int]]], start: int
) -> None:
    data, aborted = log
    assert Fetched(data, start, aborted).all() == by_kafka_python(data, start, aborted)


@without_deadline
@given(logs(), some.integers(1, 5), some.integers(1, 500))
def test_parts_of_a_fetch_are_the_whole(log: tuple[bytes, list[tuple[int, int]]], most: int, max_bytes: int) -> None:
    data, aborted = log
    assert Fetched(data, 0, aborted).all(most, max_bytes) == Fetched(data, 0, aborted).all()


@without_deadline
@given(logs(), some.data())
def test_a_fetch_with_a_damaged_byte_gives_the_same_records_up_to_what_it_says_it_cannot_decode(
    log: tuple[bytes, list[tuple[int, int]]], draw: some.DataObject
) -> None:
    """But for base offsets, which nothing protects; a length may make a batch seem cut off, and it is fetched again."""
    data, aborted = log
    heads = [at for at, _ in heads_of(data)]
    at = draw.draw(
        some.integers(0, len(data) - 1).filter(lambda place: not any(0 <= place - head < 8 for head in heads))
    )
    damaged = bytearray(data)
    damaged[at] ^= draw.draw(some.integers(1, 255))
    whole, found, end = Fetched(data, 0, aborted).all(), [], 0
    fetched = Fetched(bytes(damaged), 0, aborted)
    try:
        while fetched.part:
            found += fetched.poll(1)
        end = fetched.part.next_fetch_offset
    except Undecodable as error:
        end = error.expected
    assert found == [row for row in whole if row[0] < end]


@without_deadline
@given(logs(), some.data())
def test_a_fetch_that_is_cut_off_gives_its_whole_batches(
    log: tuple[bytes, list[tuple[int, int]]], draw: some.DataObject
) -> None:
    data, aborted = log
    end = draw.draw(some.integers(0, len(data)))
    complete = max((stop for _, stop in heads_of(data) if stop <= end), default=0)
    assert Fetched(data[:end], 0, aborted).all() == Fetched(data[:complete], 0, aborted).all()


def heads_of(data: bytes) -> list[tuple[int, int]]:
    """Where each batch begins and ends."""
    found, at = [], 0
    while at < len(data):
        end = at + 12 + struct.unpack_from(">i", data, at + 8)[0]
        found.append((at, end))
        at = end
    return found


def test_a_fetch_is_done_with_its_last_record_so_that_the_next_can_be_sent_for() -> None:
    fetched = Fetched(batch(plain(b"0", b"1")) + marker(1, base=2, producer=1))
    assert (fetched.poll(1)[0][3], bool(fetched.part)) == (b"0", True)
    assert (fetched.poll(1)[0][3], bool(fetched.part), fetched.part.next_fetch_offset) == (b"1", False, 3)


def test_offsets_that_compaction_emptied_are_passed_over() -> None:
    data = bytearray(batch(plain(b"0", b"1"), base=5))
    struct.pack_into(">i", data, 23, 9)
    fetched = Fetched(sealed(data), 3)
    assert [row[0] for row in fetched.poll()] == [5, 6]
    assert fetched.part.next_fetch_offset == 15


def test_what_comes_before_the_undecodable_is_given_first_and_then_it_says_from_where_to_where() -> None:
    data = bytearray(batch(plain(b"0", b"1")) + batch(plain(b"2", b"3"), base=2) + batch(plain(b"4"), base=4))
    data[heads_of(bytes(data))[1][1] - 1] ^= 1
    fetched = Fetched(bytes(data))
    assert [row[3] for row in fetched.poll()] == [b"0", b"1"]
    assert not fetched.part
    with pytest.raises(Undecodable, match=r"t\[0\] offsets 2 to 3: .*its checksum is") as caught:
        Fetched(bytes(data[heads_of(bytes(data))[1][0] :]), 2).poll()
    assert (caught.value.expected, caught.value.found) == (2, 4)


@pytest.mark.parametrize(
    ("place", "byte", "said"),
    [(16, 3, "format 3, expected 0 to 2"), (11, 10, "22 bytes, expected 26 or more")],
)
def test_what_is_no_record_batch_is_undecodable(place: int, byte: int, said: str) -> None:
    data = bytearray(batch(plain(b"0")))
    data[place] = byte
    with pytest.raises(Undecodable, match=said):
        Fetched(bytes(data)).poll()


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1])
def test_batches_of_before_kafka_0_11_are_read(magic: int, codec: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for offset, value in enumerate([b"0", None, b"2", b"3"]):
        builder.append(offset, timestamp=7, key=b"k", value=value)
    time = 7 if magic else -1
    fetched = Fetched(bytes(builder.build()) + batch(plain(b"4"), base=4), 1)
    assert fetched.poll(2) == [(1, time, b"k", None, []), (2, time, b"k", b"2", [])]
    assert [row[3] for row in fetched.poll()] == [b"3", b"4"]


def test_a_damaged_batch_of_before_kafka_0_11_is_undecodable() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    builder.append(0, timestamp=7, key=b"k", value=b"0")
    with pytest.raises(Undecodable, match="checksum is wrong"):
        Fetched(bytes(builder.build())[:-1] + b"1").poll()

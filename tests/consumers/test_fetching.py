"""Batches are bounded in bytes, and what cannot be decoded is passed over, however records are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import pytest
from kafka import KafkaProducer

from consumers import fetching
from consumers.batch import Moved, Partition, RawBatch
from consumers.kafka_python import KafkaPythonBroker
from consumers.settings import KafkaSettings
from consumers.stream import Window

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
        right = fetching._Batch.validate_crc

        def validate_crc(batch: fetching._Batch) -> bool:
            self.seen[batch.base_offset] += 1
            broken = batch.base_offset == offset and self.seen[offset] <= times
            return not broken and bool(right(batch))

        monkeypatch.setattr(fetching._Batch, "validate_crc", validate_crc)


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

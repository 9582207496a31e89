"""What every implementation of the port to a broker does: the same claims on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from itertools import count
from queue import SimpleQueue
from threading import Condition, Event, Thread
from time import time
from typing import Any, Literal, Protocol, Self

import pytest
from kafka import KafkaProducer

from consumers.batch import Message, Partition, Position, RawBatch
from consumers.errors import Fenced, Retry, StreamError, TopicMissing
from consumers.kafka_member import _Ownership
from consumers.kafka_python import KafkaPythonBroker
from consumers.memory import MemoryBroker, MemoryLog
from consumers.settings import KafkaSettings
from consumers.stream import Broker, Stream, Window

Start = Literal["earliest", "latest"]


class World(Protocol):
    """One broker, seen from outside the port."""

    def broker(self, *, group: str = "g", instance: str = "0", start: Start = "earliest") -> Broker: ...

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = 0,
        timestamp_ms: int | None = None,
    ) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self._log = MemoryLog()

    def broker(self, *, group: str = "g", instance: str = "0", start: Start = "earliest") -> Broker:
        return MemoryBroker(group=group, instance=instance, start=start, log=self._log)

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = 0,
        timestamp_ms: int | None = None,
    ) -> None:
        MemoryBroker(log=self._log).append(topic, value, key, tuple(headers), partition, timestamp_ms)


class KafkaWorld:
    def __init__(self, bootstrap: str, producer: Any, unique: str, delivery: str) -> None:
        self._settings = {
            "bootstrap": bootstrap,
            "delivery": delivery,
            "request_timeout_s": 10.0,
            "session_timeout_s": 6.0,
        }
        self._producer = producer
        self._unique = unique

    def broker(self, *, group: str = "g", instance: str = "0", start: Start = "earliest") -> Broker:
        settings = KafkaSettings.model_validate({**self._settings, "instance": instance, "start": start})
        return KafkaPythonBroker(settings, group=f"{self._unique}-{group}", client_id="test")

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = 0,
        timestamp_ms: int | None = None,
    ) -> None:
        self._producer.send(topic, value, key, list(headers), partition, timestamp_ms).get(10)


@pytest.fixture(scope="session")
def producer(bootstrap: str) -> Iterator[Any]:
    with closing(KafkaProducer(bootstrap_servers=bootstrap, allow_auto_create_topics=False)) as producer:
        yield producer


@pytest.fixture(params=["memory", "kafka_python", "kafka_python at_least_once"])
def world(request: pytest.FixtureRequest, unique: str) -> World:
    if request.param == "memory":
        return MemoryWorld()
    delivery = "at_least_once" if "at_least_once" in request.param else "exactly_once"
    return KafkaWorld(request.getfixturevalue("bootstrap"), request.getfixturevalue("producer"), unique, delivery)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps a member that has given up a partition from joining again at once.

    The embedded broker then never answers the member that waits to join; Apache Kafka does.
    """
    revoked = _Ownership.on_partitions_revoked

    def on_partitions_revoked(ownership: _Ownership, partitions: Any) -> None:
        revoked(ownership, partitions)
        Event().wait(0.5)

    if "OFFNOMINAL_TEST_BOOTSTRAP" not in os.environ:
        monkeypatch.setattr(_Ownership, "on_partitions_revoked", on_partitions_revoked)


@pytest.fixture
def topic(world: World, unique: str) -> Callable[[int], str]:
    """Makes a topic with so many partitions."""
    numbers = count()

    def make(partitions: int = 1) -> str:
        name = f"{unique}-{next(numbers)}"
        world.broker().create_topics({name: partitions})
        return name

    return make


@pytest.fixture
def opened() -> Iterator[Callable[..., Stream]]:
    """Opens a stream that is closed at the end of the test."""
    with ExitStack() as streams:

        def open_(broker: Broker, *topics: str) -> Stream:
            return streams.enter_context(closing(broker.stream(topics)))

        yield open_


def drain(stream: Stream, records: int, most: int = 100) -> list[RawBatch]:
    """Polls until so many records have come."""
    batches: list[RawBatch] = []
    for _ in range(40):
        batches.append(stream.poll(most, 0.5))
        if sum(map(len, batches)) >= records:
            return batches
    raise AssertionError(f"{sum(map(len, batches))} records after {len(batches)} polls, wanted {records}")


def assigned(batches: Sequence[RawBatch]) -> dict[Partition, Position]:
    return {partition: position for batch in batches for partition, position in batch.assigned.items()}


def values(batches: Sequence[RawBatch]) -> list[bytes | None]:
    return [value for batch in batches for value in batch.values]


def everything(world: World, topic: str) -> list[bytes | None]:
    return values(list(world.broker().read([topic], Window())))


def now_ms() -> int:
    """Times of records must be recent: brokers delete what is older than the retention."""
    return int(time() * 1_000)


class Member:
    """A stream that polls in a thread of its own, as members of a group do: a rebalance needs them all."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._changed = Condition()
        self._over = False
        self._thread = Thread(target=self._run, daemon=True)
        self.owned: set[Partition] = set()
        self.revoked: set[Partition] = set()
        self.batches: list[RawBatch] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join(30)
        self._stream.close()

    def wait(self, wanted: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(wanted, 30), f"owns {self.owned} after {len(self.batches)} polls"

    def publish(self, messages: Sequence[Message], positions: Mapping[Partition, Position]) -> None:
        done: Future[None] = Future()
        self._calls.put((lambda: self._stream.publish(messages, positions), done))
        done.result(30)

    def _run(self) -> None:
        while not self._over:
            while not self._calls.empty():
                call, done = self._calls.get()
                try:
                    done.set_result(call())
                except StreamError as error:
                    done.set_exception(error)
            batch = self._stream.poll(100, 0.2)
            with self._changed:
                self.owned -= batch.revoked
                self.owned |= set(batch.assigned)
                self.revoked |= batch.revoked
                self.batches.append(batch)
                self._changed.notify_all()


def test_keys_values_headers_and_timestamps_come_as_they_were_sent(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, moment = topic(), now_ms() - 60_000
    world.append(name, b"\xff\x00", b"k", [("a", b"1"), ("a", b""), ("ü", b"\xfe")], timestamp_ms=moment)
    world.append(name, None, b"tombstone")
    world.append(name, b"", None)
    batches = drain(opened(world.broker(), name), 3)
    assert values(batches) == [b"\xff\x00", None, b""]
    assert [key for batch in batches for key in batch.keys] == [b"k", b"tombstone", None]
    headers = [list(headers) for batch in batches for headers in batch.headers]
    assert headers == [[("a", b"1"), ("a", b""), ("ü", b"\xfe")], [], []]
    first = next(batch for batch in batches if len(batch))
    assert first.timestamps[0] == moment
    assert first.source(0) == (Partition(name, 0), 0)


def test_records_of_one_partition_stand_together_in_offset_order(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic(3)
    for number in range(30):
        world.append(name, b"%d" % number, partition=number % 3)
    for batch in drain(opened(world.broker(), name), 30):
        for index in range(len(batch.partitions)):
            rows = (batch.partition == index).nonzero()[0]
            assert rows.tolist() == list(range(rows[0], rows[0] + len(rows)))
            assert (batch.offsets[rows][1:] > batch.offsets[rows][:-1]).all()


def test_a_poll_gives_no_more_records_than_asked_for(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic(2)
    for number in range(20):
        world.append(name, b"%d" % number, partition=number % 2)
    stream = opened(world.broker(), name)
    batches = drain(stream, 20, most=7)
    assert max(map(len, batches)) <= 7
    assert sum(map(len, batches)) == 20


def test_what_was_published_is_there_with_its_positions(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, out = topic(), topic()
    for number in range(5):
        world.append(name, b"%d" % number)
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 5)
        stream.publish(
            [Message(out, b"k", b"alert", (("h", b"v"),)), Message(out, b"gone", None)],
            {Partition(name, 0): Position(3, "snapshot-7")},
        )
    (batch,) = world.broker().read([out], Window())
    assert (list(batch.keys), list(batch.values)) == ([b"k", b"gone"], [b"alert", None])
    assert list(batch.headers[0]) == [("h", b"v")]
    batches = drain(opened(world.broker(), name), 2)
    assert assigned(batches) == {Partition(name, 0): Position(3, "snapshot-7")}
    assert values(batches) == [b"3", b"4"]


def test_records_that_no_publish_covered_come_again(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    for number in range(4):
        world.append(name, b"%d" % number)
    with closing(world.broker().stream([name])) as stream:
        assert values(drain(stream, 4)) == [b"0", b"1", b"2", b"3"]
    assert values(drain(opened(world.broker(), name), 4)) == [b"0", b"1", b"2", b"3"]


def test_positions_alone_can_be_published(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    world.append(name, b"0")
    world.append(name, b"1")
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 2)
        stream.publish([], {Partition(name, 0): Position(1)})
        stream.publish([], {})
    assert values(drain(opened(world.broker(), name), 1)) == [b"1"]


def test_messages_alone_can_be_published(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, out = topic(), topic()
    opened(world.broker(), name).publish([Message(out, None, b"hello")], {})
    assert everything(world, out) == [b"hello"]


def test_nothing_is_published_when_one_topic_is_missing(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream], unique: str
) -> None:
    name, out = topic(), topic()
    world.append(name, b"0")
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 1)
        with pytest.raises(TopicMissing, match=f"{unique}-nowhere"):
            stream.publish(
                [Message(out, None, b"good"), Message(f"{unique}-nowhere", None, b"bad")],
                {Partition(name, 0): Position(1)},
            )
    assert everything(world, out) == []
    assert values(drain(opened(world.broker(), name), 1)) == [b"0"]


def test_a_position_of_a_partition_never_owned_is_refused(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, other, out = topic(), topic(), topic()
    world.append(name, b"0")
    stream = opened(world.broker(), name)
    drain(stream, 1)
    with pytest.raises(Retry, match="no longer owner"):
        stream.publish([Message(out, None, b"x")], {Partition(name, 0): Position(1), Partition(other, 0): Position(1)})
    assert everything(world, out) == []


@pytest.mark.usefixtures("unhurried")
def test_two_members_share_and_a_revoked_partition_is_never_committed(world: World, topic: Callable[..., str]) -> None:
    name, out = topic(2), topic()
    world.append(name, b"0", partition=0)
    world.append(name, b"1", partition=1)
    with Member(world.broker(instance="a").stream([name])) as first:
        first.wait(lambda: len(first.owned) == 2)
        with Member(world.broker(instance="b").stream([name])) as second:
            second.wait(lambda: len(second.owned) == 1)
            first.wait(lambda: len(first.owned) == 1)
            (moved,), (kept,) = second.owned, first.owned
            with pytest.raises(Retry, match="no longer owner"):
                first.publish([Message(out, None, b"stale")], {moved: Position(1), kept: Position(1)})
            second.publish([Message(out, None, b"fresh")], {moved: Position(1)})
            first.publish([Message(out, None, b"kept")], {kept: Position(1)})
    assert everything(world, out) == [b"fresh", b"kept"]


@pytest.mark.usefixtures("unhurried")
def test_a_partition_handed_over_goes_on_where_its_old_owner_published(world: World, topic: Callable[..., str]) -> None:
    name = topic(2)
    for number in range(4):
        world.append(name, b"%d" % number, partition=number % 2)
    with Member(world.broker(instance="a").stream([name])) as older:
        older.wait(lambda: len(values(older.batches)) == 4)
        older.publish([], {Partition(name, 0): Position(1, "s0"), Partition(name, 1): Position(1, "s1")})
        with Member(world.broker(instance="b").stream([name])) as newer:
            newer.wait(lambda: len(values(newer.batches)) == 1)
            ((partition, position),) = assigned(newer.batches).items()
            assert position == Position(1, f"s{partition.number}")
            assert values(newer.batches) == [b"%d" % (2 + partition.number)]
            older.wait(lambda: older.revoked == {partition})
            assert len(values(older.batches)) == 4


def test_a_newer_stream_of_the_same_instance_fences_the_older(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, out = topic(), topic()
    world.append(name, b"0")
    older = opened(world.broker(), name)
    drain(older, 1)
    newer = opened(world.broker(), name)
    drain(newer, 1)
    with pytest.raises(Fenced):
        older.publish([Message(out, None, b"old")], {Partition(name, 0): Position(1)})
    newer.publish([Message(out, None, b"new")], {Partition(name, 0): Position(1)})
    assert everything(world, out)[-1] == b"new"


def test_a_closed_stream_asks_for_another(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    stream = opened(world.broker(), topic())
    stream.close()
    stream.close()
    with pytest.raises(Retry):
        stream.poll(1, 0.0)
    with pytest.raises(Retry):
        stream.publish([], {})


def test_a_group_without_positions_begins_where_settings_say_and_stays_there(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    world.append(name, b"before")
    broker = world.broker(start="latest")
    with closing(broker.stream([name])) as stream:
        first = next(batch for batch in (stream.poll(10, 0.5) for _ in range(40)) if batch.assigned)
        assert first.assigned == {Partition(name, 0): Position(1)}
    world.append(name, b"while nobody was there")
    assert values(drain(opened(broker, name), 1)) == [b"while nobody was there"]


def test_begin_is_where_a_group_without_positions_starts(world: World, topic: Callable[..., str]) -> None:
    name = topic(2)
    for number in range(6):
        world.append(name, b"%d" % number, partition=number % 2)
    begin = {Partition(name, 0): 2}
    with closing(world.broker().stream([name], begin)) as stream:
        batches = drain(stream, 4)
        assert assigned(batches) == {Partition(name, 0): Position(2), Partition(name, 1): Position(0)}
        assert sorted(filter(None, values(batches))) == [b"1", b"3", b"4", b"5"]
        stream.publish([], {Partition(name, 0): Position(3)})
    with closing(world.broker().stream([name], begin)) as stream:
        assert assigned(drain(stream, 3))[Partition(name, 0)] == Position(3)


def test_a_position_beyond_the_end_of_the_log_starts_from_its_beginning(
    world: World, topic: Callable[..., str]
) -> None:
    name = topic()
    world.append(name, b"0")
    with closing(world.broker().stream([name], {Partition(name, 0): 1_000})) as stream:
        batches = drain(stream, 1)
    assert assigned(batches) == {Partition(name, 0): Position(0)}
    assert values(batches) == [b"0"]


def test_ends_tell_how_far_behind_each_partition_is(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic(2)
    for _ in range(5):
        world.append(name, b"x", partition=1)
    stream = opened(world.broker(), name)
    assert drain(stream, 5)[-1].ends == {Partition(name, 0): 0, Partition(name, 1): 5}
    world.append(name, b"y", partition=0)
    assert drain(stream, 1)[-1].ends == {Partition(name, 0): 1, Partition(name, 1): 5}


@pytest.mark.parametrize(("records", "wanted"), [(0, 0), (1, 1), (5, 5), (9, 9), (100, 12)])
def test_the_last_records_are_shared_among_partitions(
    world: World, topic: Callable[..., str], records: int, wanted: int
) -> None:
    name = topic(2)
    for number in range(10):
        world.append(name, b"%d" % number, partition=0)
    for number in range(2):
        world.append(name, b"%d" % number, partition=1)
    got = list(world.broker().read([name], Window(records=records)))
    assert sum(map(len, got)) == wanted
    last = {
        partition: batch.offsets[batch.partition == index]
        for batch in got
        for index, partition in enumerate(batch.partitions)
    }
    for partition, offsets in last.items():
        end = {0: 10, 1: 2}[partition.number]
        assert offsets.tolist() == list(range(end - len(offsets), end))
    assert records < 5 or len(last[Partition(name, 1)]) == 2


def test_the_last_records_are_found_behind_the_markers_of_transactions(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, out = topic(), topic()
    stream = opened(world.broker(), name)
    for number in range(6):
        stream.publish([Message(out, None, b"%d" % number)], {})
    assert values(list(world.broker().read([out], Window(records=1)))) == [b"5"]
    assert values(list(world.broker().read([out], Window(records=4)))) == [b"2", b"3", b"4", b"5"]
    assert len(everything(world, out)) == 6


def test_a_window_begins_at_a_time(world: World, topic: Callable[..., str]) -> None:
    name, moment = topic(), now_ms() - 60_000
    for number in range(4):
        world.append(name, b"%d" % number, timestamp_ms=moment + 1_000 * number)
    broker = world.broker()
    assert values(list(broker.read([name], Window(since_ms=moment + 1_500)))) == [b"2", b"3"]
    assert values(list(broker.read([name], Window(since_ms=moment + 9_000)))) == []


def test_a_window_ends_where_the_log_ended_at_the_call(world: World, topic: Callable[..., str]) -> None:
    name = topic()
    world.append(name, b"before")
    reading = world.broker().read([name], Window())
    world.append(name, b"after")
    assert values(list(reading)) == [b"before"]


def test_following_sees_later_records_and_ticks_while_there_are_none(world: World, topic: Callable[..., str]) -> None:
    name = topic()
    world.append(name, b"past")
    with closing(world.broker().read([name], Window(records=1), follow=True)) as reading:  # type: ignore[type-var]
        assert list(next(reading).values) == [b"past"]
        assert next(batch for batch in reading if not len(batch)).ends == {Partition(name, 0): 1}
        world.append(name, b"later")
        assert list(next(batch for batch in reading if len(batch)).values) == [b"later"]


def test_missing_topics_are_named(world: World, topic: Callable[..., str], unique: str) -> None:
    missing = f"{unique}-nowhere"
    broker = world.broker()
    with pytest.raises(TopicMissing, match=missing):
        broker.stream([topic(), missing])
    with pytest.raises(TopicMissing, match=missing):
        list(broker.read([missing], Window()))
    assert broker.partitions([missing]) == {}


def test_creating_a_topic_that_is_there_leaves_it_as_it_is(world: World, topic: Callable[..., str]) -> None:
    name = topic(2)
    world.append(name, b"0")
    world.broker().create_topics({name: 5})
    assert world.broker().partitions([name]) == {name: 2}
    assert everything(world, name) == [b"0"]

"""What every implementation of the port to a broker does: the same claims on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from itertools import count
from queue import SimpleQueue
from threading import Condition, Event, Thread
from time import monotonic, time
from typing import Any, Literal, Protocol, Self

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from consumers import connection
from consumers.batch import Message, Moved, Partition, Position, RawBatch
from consumers.confluent import ConfluentBroker
from consumers.confluent_member import _Rebalance
from consumers.errors import Fenced, Retry, StreamError, TopicMissing
from consumers.kafka_member import _Ownership
from consumers.kafka_python import KafkaBroker, KafkaPythonBroker
from consumers.memory import MemoryBroker
from consumers.memory_log import MemoryLog
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

    def transact(self, topic: str, values: Sequence[bytes], *, commit: bool) -> None: ...

    def add_partitions(self, topic: str, partitions: int) -> None: ...

    def delete_topic(self, topic: str) -> None: ...

    def delete_records(self, partition: Partition, before: int) -> None: ...


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

    def transact(self, topic: str, values: Sequence[bytes], *, commit: bool) -> None:
        for value in values if commit else ():
            self.append(topic, value)

    def add_partitions(self, topic: str, partitions: int) -> None:
        MemoryBroker(log=self._log).create_partitions(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        MemoryBroker(log=self._log).delete_topic(topic)

    def delete_records(self, partition: Partition, before: int) -> None:
        MemoryBroker(log=self._log).delete_records(partition, before)


class KafkaWorld:
    def __init__(
        self, kind: type[KafkaBroker], bootstrap: str, producer: Any, admin: Any, unique: str, delivery: str
    ) -> None:
        self._kind = kind
        self.prefetches = kind is ConfluentBroker
        self._settings = {
            "bootstrap": bootstrap,
            "delivery": delivery,
            "request_timeout_s": 10.0,
            "session_timeout_s": 6.0,
        }
        self._producer = producer
        self._admin = admin
        self._unique = unique

    def broker(self, *, group: str = "g", instance: str = "0", start: Start = "earliest") -> Broker:
        settings = KafkaSettings.model_validate({**self._settings, "instance": instance, "start": start})
        return self._kind(settings, group=f"{self._unique}-{group}", client_id="test")

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

    def transact(self, topic: str, values: Sequence[bytes], *, commit: bool) -> None:
        arguments = {"bootstrap_servers": self._settings["bootstrap"], "transactional_id": topic}
        with closing(KafkaProducer(**arguments)) as producer:
            producer.init_transactions()
            producer.begin_transaction()
            for sent in [producer.send(topic, value, partition=0) for value in values]:
                sent.get(10)
            (producer.commit_transaction if commit else producer.abort_transaction)()

    def add_partitions(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions({topic: partitions})
        await_(lambda: len(self._producer.partitions_for(topic)) == partitions)

    def delete_topic(self, topic: str) -> None:
        self._admin.delete_topics([topic])
        await_(lambda: not self.broker().partitions([topic]) or is_embedded())

    def delete_records(self, partition: Partition, before: int) -> None:
        self._admin.delete_records({TopicPartition(*partition): before})


def is_embedded() -> bool:
    """Whether tests run on the embedded broker, which makes a deleted topic anew as soon as a reader asks for it."""
    return "OFFNOMINAL_TEST_BOOTSTRAP" not in os.environ


def await_(wanted: Callable[[], bool]) -> None:
    """Brokers do what administrators ask for a little later."""
    deadline = monotonic() + 30
    while not wanted():
        assert monotonic() < deadline


@pytest.fixture(scope="session")
def producer(bootstrap: str) -> Iterator[Any]:
    """Not idempotent: the embedded broker keeps the sequence numbers of a topic that was deleted."""
    arguments = {
        "allow_auto_create_topics": False,
        "enable_idempotence": False,
        "acks": "all",
        "metadata_max_age_ms": 200,
    }
    with closing(KafkaProducer(bootstrap_servers=bootstrap, **arguments)) as producer:
        yield producer


@pytest.fixture(scope="session")
def admin(bootstrap: str) -> Iterator[Any]:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        yield admin


BROKERS: dict[str, type[KafkaBroker]] = {"kafka_python": KafkaPythonBroker, "confluent": ConfluentBroker}


@pytest.fixture(
    params=[
        "memory",
        "kafka_python",
        "kafka_python at_least_once",
        "confluent",
        "confluent at_least_once",
    ]
)
def world(request: pytest.FixtureRequest, unique: str) -> World:
    if request.param == "memory":
        return MemoryWorld()
    client, _, delivery = request.param.partition(" ")
    bootstrap, producer, admin = (request.getfixturevalue(name) for name in ("bootstrap", "producer", "admin"))
    return KafkaWorld(BROKERS[client], bootstrap, producer, admin, unique, delivery or "exactly_once")


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps a member that has given up a partition from joining again at once.

    The embedded broker then never answers the member that waits to join; Apache Kafka does.
    """
    for kind, name in ((_Ownership, "on_partitions_revoked"), (_Rebalance, "on_revoke")):
        revoked = getattr(kind, name)

        def hesitating(*given: Any, revoked: Callable[..., None] = revoked) -> None:
            Event().wait(0.5)
            revoked(*given)

        if is_embedded():
            monkeypatch.setattr(kind, name, hesitating)


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


def fill(world: World, topic: str, records: int) -> None:
    """Appends records with the values 0, 1, 2, …"""
    for number in range(records):
        world.append(topic, b"%d" % number)


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


def moved(batches: Sequence[RawBatch]) -> dict[Partition, Moved]:
    return {partition: why for batch in batches for partition, why in batch.moved.items()}


def until(stream: Stream, wanted: Callable[[RawBatch], object]) -> RawBatch:
    """Polls up to the batch that is wanted, which it gives."""
    return next(batch for batch in (stream.poll(100, 0.5) for _ in range(60)) if wanted(batch))


def everything(world: World, topic: str) -> list[bytes | None]:
    return values(list(world.broker().read([topic], Window())))


def now_ms() -> int:
    """Times of records must be recent: brokers delete what is older than the retention."""
    return int(time() * 1_000)


class Member:
    """A stream that polls in a thread of its own, as members of a group do: a rebalance needs them all."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[object]]] = SimpleQueue()
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
        done: Future[object] = Future()
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
    fill(world, name, 5)
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
    fill(world, name, 4)
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


def test_ends_do_not_count_what_transactions_leave_behind(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    partition = Partition(name, 0)
    world.transact(name, [b"x"] * 5, commit=True)
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 5)
        until(stream, lambda batch: batch.ends == {partition: 5})
        stream.publish([], {partition: Position(5)})
    world.transact(name, [b"x"] * 7, commit=False)
    stream = opened(world.broker(), name)
    until(stream, lambda batch: batch.ends == {partition: 5})
    world.append(name, b"after")
    (last,) = drain(stream, 1)[-1:]
    assert last.ends == {partition: last.offsets[0] + 1}


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


def test_publishing_tells_where_each_message_came_to_lie(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, out, other = topic(), topic(3), topic()
    stream = opened(world.broker(), name)
    assert stream.publish([], {}) == []
    messages = [Message(out if number % 3 else other, b"%d" % number, b"%d" % number) for number in range(9)]
    for _ in range(2):
        places = stream.publish(messages, {})
        assert [place.topic for place, _ in places] == [message.topic for message in messages]
    spans = {place: (offset, offset + 1) for place, offset in places}
    assert len(spans) > 1
    (latest,) = {tuple(values([batch])) for batch in world.broker().fetch({places[-1][0]: (places[-1][1], 10_000)})}
    assert latest == (b"8",)
    held = {
        batch.source(row): batch.values[row]
        for batch in world.broker().read([out, other], Window())
        for row in range(len(batch))
    }
    assert [held[place] for place in places] == [message.value for message in messages]


def test_a_rewound_partition_is_read_again_and_its_committed_position_stays(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    partition = Partition(name, 0)
    fill(world, name, 6)
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 6, most=4)
        stream.publish([], {partition: Position(5, "s")})
        assert stream.rewind(partition, 2) == 2
        assert values(drain(stream, 4)) == [b"2", b"3", b"4", b"5"]
    assert assigned(drain(opened(world.broker(), name), 1)) == {partition: Position(5, "s")}


def test_a_partition_can_be_rewound_right_after_the_poll_that_assigned_it(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    fill(world, name, 6)
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 6)
        stream.publish([], {Partition(name, 0): Position(4, "2")})
    stream = opened(world.broker(), name)
    first = until(stream, lambda batch: batch.assigned)
    assert stream.rewind(Partition(name, 0), 2) == 2
    assert values(drain(stream, 4)) == [b"2", b"3", b"4", b"5"]
    assert first.assigned == {Partition(name, 0): Position(4, "2")}


def test_rewinding_goes_no_farther_back_than_the_log(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    fill(world, name, 6)
    stream = opened(world.broker(), name)
    drain(stream, 6)
    world.delete_records(Partition(name, 0), 3)
    assert stream.rewind(Partition(name, 0), 1) == 3
    batches = drain(stream, 3)
    assert values(batches) == [b"3", b"4", b"5"]
    assert moved(batches) == {}


def test_a_partition_that_is_not_owned_cannot_be_rewound(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    stream = opened(world.broker(), topic())
    until(stream, lambda batch: batch.assigned)
    with pytest.raises(Retry, match="no longer owner"):
        stream.rewind(Partition(topic(), 0), 0)


def test_fetching_gives_the_spans_asked_for_and_nothing_else(world: World, topic: Callable[..., str]) -> None:
    name, other = topic(2), topic()
    for number in range(10):
        world.append(name, b"%d" % number, partition=number % 2)
        world.append(other, b"other %d" % number)
    spans = {
        Partition(name, 1): (1, 3),
        Partition(other, 0): (8, 100),
        Partition(name, 0): (4, 4),
        Partition(name, 7): (0, 9),
    }
    batches = list(world.broker().fetch(spans))
    assert sorted(filter(None, values(batches))) == [b"3", b"5", b"other 8", b"other 9"]
    assert not any(batch.assigned or batch.revoked for batch in batches)
    assert list(world.broker().fetch({})) == []


def test_fetching_leaves_out_what_the_log_no_longer_holds(world: World, topic: Callable[..., str]) -> None:
    name = topic()
    fill(world, name, 6)
    world.delete_records(Partition(name, 0), 3)
    assert values(list(world.broker().fetch({Partition(name, 0): (1, 5)}))) == [b"3", b"4"]
    assert values(list(world.broker().fetch({Partition(name, 0): (0, 2)}))) == []


def test_fetching_from_a_missing_topic_names_it(world: World, unique: str) -> None:
    with pytest.raises(TopicMissing, match=f"{unique}-nowhere"):
        list(world.broker().fetch({Partition(f"{unique}-nowhere", 0): (0, 1)}))


def test_fetched_records_are_those_of_committed_transactions(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name, out = topic(), topic()
    stream = opened(world.broker(), name)
    for number in range(3):
        (place,) = stream.publish([Message(out, b"k", b"%d" % number)], {})
        partition, offset = place
        assert values(list(world.broker().fetch({partition: (offset, offset + 1)}))) == [b"%d" % number]


def test_a_compacted_topic_holds_the_newest_record_of_each_key(
    world: World, unique: str, opened: Callable[..., Stream], topic: Callable[..., str]
) -> None:
    state = f"{unique}-state"
    world.broker().create_topics({state: 2}, compacted=True)
    world.broker().create_topics({state: 2}, compacted=True)
    assert world.broker().partitions([state]) == {state: 2}
    stream = opened(world.broker(), topic())
    stream.publish([Message(state, b"k", b"old")], {})
    stream.publish([Message(state, b"k", b"new")], {})
    assert everything(world, state)[-1] == b"new"


def test_a_position_that_retention_overtook_goes_on_at_the_first_record_with_its_snapshot(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    partition = Partition(name, 0)
    fill(world, name, 6)
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 6)
        stream.publish([], {partition: Position(1, "s")})
    world.delete_records(partition, 4)
    batches = drain(opened(world.broker(), name), 2)
    assert assigned(batches) == {partition: Position(4, "s")}
    assert moved(batches) == {partition: Moved(1, 4, "retention")}
    assert values(batches) == [b"4", b"5"]


def test_retention_that_overtakes_a_running_stream_is_told(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    if isinstance(world, KafkaWorld) and world.prefetches:
        pytest.skip(
            "it has fetched the records before they are deleted; tests/consumers/test_confluent.py tells of more"
        )
    name = topic()
    partition = Partition(name, 0)
    world.append(name, b"0")
    stream = opened(world.broker(), name)
    drain(stream, 1)
    Event().wait(0.7)  # the fetch that is under way ends
    for number in range(1, 6):
        world.append(name, b"%d" % number)
    world.delete_records(partition, 4)
    batches = drain(stream, 2)
    assert values(batches) == [b"4", b"5"]
    assert moved(batches) == {partition: Moved(1, 4, "retention")}
    assert not any(batch.assigned or batch.revoked for batch in batches)
    stream.publish([], {partition: Position(6)})


def test_a_position_beyond_the_end_begins_a_new_topic_without_the_old_snapshot(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    partition = Partition(name, 0)
    world.append(name, b"0")
    with closing(world.broker().stream([name])) as stream:
        drain(stream, 1)
        stream.publish([], {partition: Position(1_000, "s")})
    batches = drain(opened(world.broker(), name), 1)
    assert assigned(batches) == {partition: Position(0)}
    assert moved(batches) == {partition: Moved(1_000, 0, "recreated")}
    assert values(batches) == [b"0"]


def test_a_topic_made_anew_under_a_running_stream_is_revoked_and_assigned_from_its_first_record(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    partition = Partition(name, 0)
    for _ in range(3):
        world.append(name, b"old")
    stream = opened(world.broker(start="latest"), name)
    until(stream, lambda batch: batch.assigned)
    world.append(name, b"old")
    drain(stream, 1)
    world.delete_topic(name)
    world.broker().create_topics({name: 1})
    world.append(name, b"new 0")
    world.append(name, b"new 1")
    batch = until(stream, lambda batch: batch.assigned)
    assert batch.moved in ({partition: Moved(4, 0, "recreated")}, {})
    assert batch.revoked == {partition}
    assert batch.assigned == {partition: Position(0)}
    got = values([batch])
    while len(got) < 2:
        got += values(drain(stream, 1))
    assert got == [b"new 0", b"new 1"]
    stream.publish([], {partition: Position(2)})


def test_a_deleted_topic_ends_the_stream_and_is_read_whole_when_it_is_back(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    if isinstance(world, KafkaWorld) and is_embedded():
        pytest.skip("the embedded broker makes a deleted topic anew as soon as a reader asks for it")
    name = topic()
    world.append(name, b"old")
    broker = world.broker(start="latest")
    with closing(broker.stream([name])) as stream:
        until(stream, lambda batch: batch.assigned)
        world.delete_topic(name)
        with pytest.raises(Retry, match=f"'{name}' has been deleted"):
            until(stream, lambda batch: False)
    with pytest.raises(TopicMissing, match=name):
        broker.stream([name])
    broker.create_topics({name: 1})
    world.append(name, b"new")
    assert values(drain(opened(broker, name), 1)) == [b"new"]


def test_a_partition_added_while_running_is_read_from_its_first_record(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "METADATA_AGE_S", 0.5)
    name = topic()
    stream = opened(world.broker(start="latest"), name)
    until(stream, lambda batch: batch.assigned)
    world.add_partitions(name, 3)
    for number in (1, 2):
        world.append(name, b"%d" % number, partition=number)
    batches = drain(stream, 2)
    assert sorted(filter(None, values(batches))) == [b"1", b"2"]
    assert assigned(batches) == {Partition(name, 1): Position(0), Partition(name, 2): Position(0)}


def test_a_partition_added_while_nobody_read_is_read_from_its_first_record(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    world.append(name, b"before the group")
    broker = world.broker(start="latest")
    with closing(broker.stream([name])) as stream:
        until(stream, lambda batch: batch.assigned)
    world.add_partitions(name, 2)
    world.append(name, b"1", partition=1)
    batches = drain(opened(broker, name), 1)
    assert assigned(batches) == {Partition(name, 0): Position(1), Partition(name, 1): Position(0)}
    assert values(batches) == [b"1"]


def test_members_that_begin_a_group_together_agree_on_its_start(world: World, topic: Callable[..., str]) -> None:
    if isinstance(world, KafkaWorld) and is_embedded():
        pytest.skip("the embedded broker never answers a member that waits to join while another joins once more")
    name = topic(4)
    for number in range(8):
        world.append(name, b"before", partition=number % 4)
    streams = [world.broker(instance=instance, start="latest").stream([name]) for instance in "ab"]
    with Member(streams[0]) as first, Member(streams[1]) as second:
        first.wait(lambda: len(first.owned) + len(second.owned) == 4)
        for number in range(4):
            world.append(name, b"after", partition=number)
        first.wait(lambda: len(values(first.batches)) + len(values(second.batches)) >= 4)
    assert set(values(first.batches) + values(second.batches)) == {b"after"}


def test_an_idle_stream_notices_soon_that_a_newer_one_took_over(
    world: World, topic: Callable[..., str], opened: Callable[..., Stream]
) -> None:
    name = topic()
    older = opened(world.broker(), name)
    until(older, lambda batch: batch.assigned)
    with Member(world.broker().stream([name])) as newer:
        newer.wait(lambda: newer.owned == {Partition(name, 0)})
        began = monotonic()
        with pytest.raises(Fenced):
            until(older, lambda batch: False)
        assert monotonic() - began < 5
        assert newer.owned == {Partition(name, 0)}

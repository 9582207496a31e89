"""The port in memory: for tests, notebooks, and replaying a file through the whole daemon. Thread-safe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Condition
from typing import Literal, NamedTuple

from crc32c import crc32c

from consumers.batch import Header, Message, Partition, Position, RawBatch
from consumers.errors import Fenced, Retry, TopicMissing
from consumers.records import tail, to_batch
from consumers.stream import Window

_READ_RECORDS = 10_000
_IDLE_S = 1.0


class MemoryRecord(NamedTuple):
    """One record as a partition holds it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


@dataclass(slots=True)
class _Group:
    topics: frozenset[str]
    positions: dict[Partition, Position] = field(default_factory=dict)
    members: dict[str, MemoryStream] = field(default_factory=dict)
    owners: dict[Partition, str] = field(default_factory=dict)


class MemoryLog:
    """Topics and groups, shared by all brokers made on it. Everything in it is guarded by `changed`."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.topics: dict[str, list[list[MemoryRecord]]] = {}
        self.groups: dict[str, _Group] = {}
        self.turn = count()

    def require(self, topics: Iterable[str]) -> None:
        if missing := sorted(set(topics) - self.topics.keys()):
            raise TopicMissing(f"topics {', '.join(map(repr, missing))} not found in memory")

    def records(self, partition: Partition) -> list[MemoryRecord]:
        return self.topics[partition.topic][partition.number]

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        return [Partition(topic, number) for topic in topics for number in range(len(self.topics[topic]))]

    def add(self, message: Message, number: int | None, timestamp_ms: int) -> tuple[Partition, int]:
        """Appends to the partition of that number, else to the one of the key's CRC32C, else to the next in turn."""
        partitions = self.topics[message.topic]
        if number is None:
            number = (next(self.turn) if message.key is None else crc32c(message.key)) % len(partitions)
        records = partitions[number]
        records.append(MemoryRecord(len(records), timestamp_ms, message.key, message.value, message.headers))
        return Partition(message.topic, number), len(records) - 1


class MemoryBroker:
    """A `consumers.stream.Broker` whose topics live in `log`, a new one where none is given.

    `instance` names the streams of this broker: a second one fences the first. Without it each is a member of its own.
    `start` is where a group without positions begins.
    """

    def __init__(
        self,
        *,
        group: str = "memory",
        instance: str | None = None,
        start: Literal["earliest", "latest"] = "earliest",
        log: MemoryLog | None = None,
    ) -> None:
        self.log = log or MemoryLog()
        self._group = group
        self._instance = instance
        self._start = start

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: tuple[Header, ...] = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> tuple[Partition, int]:
        """Adds one record as a producer would, and says where it came to lie. The time is now where none is given."""
        with self.log.changed:
            self.log.require([topic])
            place = self.log.add(Message(topic, key, value, headers), partition, _now(timestamp_ms))
            self.log.changed.notify_all()
        return place

    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> MemoryStream:
        """As the port says. Members of one group take the same topics."""
        with self.log.changed:
            self.log.require(topics)
            group = self.log.groups.setdefault(self._group, _Group(frozenset(topics)))
            if group.topics != frozenset(topics) and group.members:
                raise ValueError(f"group '{self._group}' reads {sorted(group.topics)}, not {sorted(topics)}")
            group.topics = frozenset(topics)
            name = self._instance if self._instance is not None else f"#{next(self.log.turn)}"
            if older := group.members.pop(name, None):
                older.end(Fenced(f"another stream of group '{self._group}' took over instance '{name}'"))
            stream = MemoryStream(self.log, group, name, self._start, begin or {})
            group.members[name] = stream
            _rebalance(self.log, group)
        return stream

    def read(self, topics: Sequence[str], window: Window, *, follow: bool = False) -> Iterator[RawBatch]:
        with self.log.changed:
            self.log.require(topics)
            partitions = self.log.partitions(topics)
            ends = {partition: len(self.log.records(partition)) for partition in partitions}
            if window.records is not None:
                starts = tail({partition: (0, ends[partition]) for partition in partitions}, window.records)
            elif window.since_ms is not None:
                starts = {partition: _since(self.log.records(partition), window.since_ms) for partition in partitions}
            else:
                starts = dict.fromkeys(partitions, 0)
        return self._read(starts, ends, follow)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        with self.log.changed:
            return {topic: len(self.log.topics[topic]) for topic in topics if topic in self.log.topics}

    def create_topics(self, topics: Mapping[str, int]) -> None:
        with self.log.changed:
            for topic, partitions in topics.items():
                self.log.topics.setdefault(topic, [[] for _ in range(partitions)])

    def _read(self, starts: dict[Partition, int], ends: dict[Partition, int], follow: bool) -> Iterator[RawBatch]:
        at = dict(starts)
        while any(at[partition] < ends[partition] for partition in at):
            with self.log.changed:
                found = _take(self.log, at, _READ_RECORDS, ends)
            yield to_batch(found, ends=ends)
        while follow:
            with self.log.changed:
                self.log.changed.wait_for(lambda: _waiting(self.log, at), _IDLE_S)
                found = _take(self.log, at, _READ_RECORDS)
                latest = {partition: len(self.log.records(partition)) for partition in at}
            yield to_batch(found, ends=latest)


class MemoryStream:
    """A member of a group in memory. A rebalance takes effect at once; the next `poll` tells of it."""

    def __init__(
        self,
        log: MemoryLog,
        group: _Group,
        name: str,
        start: Literal["earliest", "latest"],
        begin: Mapping[Partition, int],
    ) -> None:
        self._log = log
        self._group = group
        self._name = name
        self._start = start
        self._begin = begin
        self._at: dict[Partition, int] = {}
        self._assigned: dict[Partition, Position] = {}
        self._told: set[Partition] = set()
        self._revoked: set[Partition] = set()
        self._ended: Retry | Fenced | None = None

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        with self._log.changed:
            self._log.changed.wait_for(self._has_news, timeout_s)
            self._refuse_if_ended()
            found = _take(self._log, self._at, max_records)
            ends = {partition: len(self._log.records(partition)) for partition in self._at}
            assigned, revoked = self._assigned, frozenset(self._revoked & self._told)
            self._told = set(self._at)
            self._assigned, self._revoked = {}, set()
        return to_batch(found, ends=ends, assigned=assigned, revoked=revoked)

    def publish(self, messages: Sequence[Message], positions: Mapping[Partition, Position]) -> None:
        with self._log.changed:
            self._refuse_if_ended()
            if lost := sorted(positions.keys() - self._at.keys()):
                raise Retry(f"no longer owner of {', '.join(map(str, lost))}")
            self._log.require({message.topic for message in messages})
            now = _now(None)
            for message in messages:
                self._log.add(message, None, now)
            self._group.positions.update(positions)
            self._log.changed.notify_all()

    def close(self) -> None:
        with self._log.changed:
            if self._ended is None:
                self.end(Retry("this stream is closed: open another"))
                del self._group.members[self._name]
                _rebalance(self._log, self._group)

    def end(self, reason: Retry | Fenced) -> None:
        """Every later call raises `reason`. For the broker, which holds the lock."""
        self._ended = reason
        self._log.changed.notify_all()

    def own(self, partitions: set[Partition]) -> None:
        """Takes over a new assignment. For the broker, which holds the lock."""
        lost, gained = self._at.keys() - partitions, partitions - self._at.keys()
        self._revoked |= lost
        for partition in lost:
            del self._at[partition]
            self._assigned.pop(partition, None)
        for partition in gained:
            position = self._group.positions.setdefault(partition, Position(self._first(partition)))
            self._at[partition] = position.offset
            self._assigned[partition] = position

    def _first(self, partition: Partition) -> int:
        """Where to begin without a committed position."""
        end = len(self._log.records(partition))
        offset = self._begin.get(partition, 0 if self._start == "earliest" else end)
        return offset if 0 <= offset <= end else 0

    def _has_news(self) -> bool:
        changes = self._assigned or self._revoked or self._ended
        return bool(changes) or _waiting(self._log, self._at)

    def _refuse_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended


def _rebalance(log: MemoryLog, group: _Group) -> None:
    """Shares the partitions evenly; members keep what they have as far as that allows."""
    if not group.members:
        group.owners.clear()
        return
    partitions = log.partitions(sorted(group.topics))
    floor, extra = divmod(len(partitions), len(group.members))
    owners: dict[Partition, str] = {}
    held: Counter[str] = Counter()
    for partition, owner in group.owners.items():
        if owner in group.members and held[owner] < floor + (extra > 0):
            extra -= held[owner] == floor
            owners[partition] = owner
            held[owner] += 1
    for partition in partitions:
        if partition not in owners:
            owners[partition] = min(group.members, key=lambda name: held[name])
            held[owners[partition]] += 1
    group.owners = owners
    for name, member in group.members.items():
        member.own({partition for partition, owner in owners.items() if owner == name})
    log.changed.notify_all()


def _waiting(log: MemoryLog, at: Mapping[Partition, int]) -> bool:
    return any(len(log.records(partition)) > offset for partition, offset in at.items())


def _take(
    log: MemoryLog, at: dict[Partition, int], most: int, ends: Mapping[Partition, int] | None = None
) -> dict[Partition, list[MemoryRecord]]:
    """Up to `most` records from where `at` stands, which moves on. Who gave records goes to the end of the queue."""
    found: dict[Partition, list[MemoryRecord]] = {}
    for partition in list(at):
        records = log.records(partition)
        run = records[at[partition] : min(at[partition] + most, ends[partition] if ends else len(records))]
        if run:
            found[partition] = run
            at[partition] = at.pop(partition) + len(run)
            most -= len(run)
    return found


def _since(records: Sequence[MemoryRecord], since_ms: int) -> int:
    return next((record.offset for record in records if record.timestamp >= since_ms), len(records))


def _now(timestamp_ms: int | None) -> int:
    return time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms

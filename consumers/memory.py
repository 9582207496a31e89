"""The port in memory: for tests, notebooks, and replaying a file through the whole daemon. Thread-safe."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from consumers.batch import Header, Message, Moved, Partition, Position, RawBatch
from consumers.errors import Fenced, Retry
from consumers.memory_log import Group, MemoryLog, PartitionLog
from consumers.records import Run, tail, to_batch
from consumers.stream import Window

_READ_RECORDS = 10_000
_IDLE_S = 1.0


class MemoryBroker:
    """A `consumers.stream.Broker` whose topics live in `log`, a new one where none is given.

    `instance` names the streams of this broker: a second one fences the first. Without it each is a member of its own.
    `start` is where a group without positions begins. What an administrator does to a real broker is done here by
    `create_partitions`, `delete_topic` and `delete_records`; a compacted topic keeps all its records.
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
            group = self.log.groups.setdefault(self._group, Group(frozenset(topics)))
            if group.topics != frozenset(topics) and group.members:
                raise ValueError(f"group '{self._group}' reads {sorted(group.topics)}, not {sorted(topics)}")
            group.topics = frozenset(topics)
            self._decide_start(group, topics, begin or {})
            name = self._instance if self._instance is not None else f"#{next(self.log.turn)}"
            if older := group.members.pop(name, None):
                older.end(Fenced(f"another stream of group '{self._group}' took over instance '{name}'"))
            stream = MemoryStream(self.log, group, name)
            group.members[name] = stream
            self.log.rebalance(group)
        return stream

    def read(self, topics: Sequence[str], window: Window, *, follow: bool = False) -> Iterator[RawBatch]:
        with self.log.changed:
            self.log.require(topics)
            logs = {partition: self.log.partition(partition) for partition in self.log.partitions(topics)}
            spans = {partition: (log.first, log.end) for partition, log in logs.items()}
            starts = {partition: first for partition, (first, _) in spans.items()}
            if window.records is not None:
                starts = tail(spans, window.records)
            elif window.since_ms is not None:
                starts = {partition: log.since(window.since_ms) for partition, log in logs.items()}
        return self._read(starts, {partition: end for partition, (_, end) in spans.items()}, follow)

    def fetch(self, spans: Mapping[Partition, tuple[int, int]]) -> Iterator[RawBatch]:
        with self.log.changed:
            self.log.require({partition.topic for partition in spans})
            there = set(self.log.partitions({partition.topic for partition in spans}))
            logs = {partition: self.log.partition(partition) for partition in spans if partition in there}
            starts = {partition: max(spans[partition][0], log.first) for partition, log in logs.items()}
            ends = {partition: min(spans[partition][1], log.end) for partition, log in logs.items()}
        return self._read(starts, ends, follow=False)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        with self.log.changed:
            return {topic: len(self.log.topics[topic]) for topic in topics if topic in self.log.topics}

    def create_topics(self, topics: Mapping[str, int], *, compacted: bool = False) -> None:
        with self.log.changed:
            for topic in topics.keys() - self.log.topics.keys():
                self.log.resize(topic, topics[topic])

    def create_partitions(self, topic: str, partitions: int) -> None:
        """Gives a topic more partitions: that many in all."""
        with self.log.changed:
            self.log.require([topic])
            self.log.resize(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        with self.log.changed:
            self.log.require([topic])
            self.log.delete(topic)

    def delete_records(self, partition: Partition, before: int) -> None:
        """Deletes the records below an offset, as retention does."""
        with self.log.changed:
            self.log.require([partition.topic])
            self.log.partition(partition).drop(before)
            self.log.changed.notify_all()

    def _decide_start(self, group: Group, topics: Sequence[str], begin: Mapping[Partition, int]) -> None:
        """For all partitions of a topic at once: one that comes later begins at its first record."""
        new = set(topics) - group.begun
        group.begun |= new
        for partition in self.log.partitions(new):
            log = self.log.partition(partition)
            default = log.first if self._start == "earliest" else log.end
            group.positions[partition] = Position(begin.get(partition, default))

    def _take(self, at: dict[Partition, int], ends: Mapping[Partition, int]) -> dict[Partition, Run]:
        with self.log.changed:
            return _take(self.log, at, _READ_RECORDS, ends)

    def _read(self, starts: dict[Partition, int], ends: dict[Partition, int], follow: bool) -> Iterator[RawBatch]:
        at = dict(starts)
        while found := self._take(at, ends):
            yield to_batch(found, ends=ends)
        while follow:
            with self.log.changed:
                self.log.changed.wait_for(lambda: _waiting(self.log, at), _IDLE_S)
                found = _take(self.log, at, _READ_RECORDS)
                latest = {partition: self.log.partition(partition).end for partition in at}
            yield to_batch(found, ends=latest)


class MemoryStream:
    """A member of a group in memory. A rebalance takes effect at once; the next `poll` tells of it."""

    def __init__(self, log: MemoryLog, group: Group, name: str) -> None:
        self._log = log
        self._group = group
        self._name = name
        self._at: dict[Partition, int] = {}
        self._logs: dict[Partition, PartitionLog] = {}
        self._assigned: dict[Partition, Position] = {}
        self._told: set[Partition] = set()
        self._revoked: set[Partition] = set()
        self._ended: Retry | Fenced | None = None

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        with self._log.changed:
            self._log.changed.wait_for(self._has_news, timeout_s)
            self._refuse_if_ended()
            moved = self._move()
            found = _take(self._log, self._at, max_records)
            ends = {partition: self._log.partition(partition).end for partition in self._at}
            assigned, revoked = self._assigned, frozenset(self._revoked & self._told)
            self._told = set(self._at)
            self._assigned, self._revoked = {}, set()
        return to_batch(found, ends=ends, assigned=assigned, revoked=revoked, moved=moved)

    def publish(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        with self._log.changed:
            self._refuse_if_ended()
            self._refuse_if_lost(positions)
            self._log.require({message.topic for message in messages})
            now = _now(None)
            places = [self._log.add(message, message.partition, now) for message in messages]
            self._group.positions.update(positions)
            self._log.changed.notify_all()
        return places

    def rewind(self, partition: Partition, offset: int) -> int:
        with self._log.changed:
            self._refuse_if_ended()
            self._refuse_if_lost([partition])
            self._at[partition] = max(offset, self._log.partition(partition).first)
            return self._at[partition]

    def close(self) -> None:
        with self._log.changed:
            if self._ended is None:
                self.end(Retry("this stream is closed: open another"))
                del self._group.members[self._name]
                self._log.rebalance(self._group)

    def end(self, reason: Retry | Fenced) -> None:
        """Every later call raises `reason`. For the broker, which holds the lock."""
        self._ended = reason
        self._log.changed.notify_all()

    def own(self, partitions: set[Partition]) -> None:
        """Takes over a new assignment. For the broker, which holds the lock."""
        lost, gained = self._at.keys() - partitions, partitions - self._at.keys()
        self._revoked |= lost
        for partition in lost:
            del self._at[partition], self._logs[partition]
            self._assigned.pop(partition, None)
        for partition in gained:
            log = self._logs[partition] = self._log.partition(partition)
            position = self._group.positions.setdefault(partition, Position(log.first))
            self._at[partition] = position.offset
            self._assigned[partition] = position

    def _move(self) -> dict[Partition, Moved]:
        """Goes to the first record where the log does not hold the one to go on from, and says so."""
        moved = {}
        for partition, at in self._at.items():
            log = self._log.partition(partition)
            if at < log.first:
                moved[partition] = Moved(at, log.first, "retention")
                if partition in self._assigned:
                    self._assigned[partition] = self._assigned[partition]._replace(offset=log.first)
            elif at > log.end or log is not self._logs[partition]:
                moved[partition] = Moved(at, log.first, "recreated")
                self._revoked.add(partition)
                self._assigned[partition] = Position(log.first)
            self._logs[partition] = log
        self._at |= {partition: place.found for partition, place in moved.items()}
        return moved

    def _has_news(self) -> bool:
        changes = self._assigned or self._revoked or self._ended or self._group.topics - self._log.topics.keys()
        return bool(changes) or _waiting(self._log, self._at)

    def _refuse_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended
        if gone := sorted(self._group.topics - self._log.topics.keys()):
            raise Retry(f"topic {', '.join(map(repr, gone))} has been deleted: open another stream when it is back")

    def _refuse_if_lost(self, partitions: Iterable[Partition]) -> None:
        if lost := sorted(set(partitions) - self._at.keys()):
            raise Retry(f"no longer owner of {', '.join(map(str, lost))}")


def _waiting(log: MemoryLog, at: Mapping[Partition, int]) -> bool:
    return any(log.partition(partition).end != offset for partition, offset in at.items())


def _take(
    log: MemoryLog, at: dict[Partition, int], most: int, ends: Mapping[Partition, int] | None = None
) -> dict[Partition, Run]:
    """Up to `most` records from where `at` stands, which moves on. Who gave records goes to the end of the queue."""
    found: dict[Partition, Run] = {}
    for partition in list(at):
        source = log.partition(partition)
        start = max(at[partition], source.first)
        run = source.between(start, min(start + most, ends[partition] if ends else source.end))
        if run:
            found[partition] = Run.of(run)
            del at[partition]
            at[partition] = run[-1].offset + 1
            most -= len(run)
    return found


def _now(timestamp_ms: int | None) -> int:
    return time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms

"""What a broker in memory holds: topics, their records, and the groups that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from threading import Condition
from typing import NamedTuple, Protocol

from crc32c import crc32c

from consumers.batch import Header, Message, Partition, Position
from consumers.errors import Fenced, Retry, TopicMissing


class MemoryRecord(NamedTuple):
    """One record as a partition holds it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


class PartitionLog:
    """The records of a partition from offset `first` up to but not including `end`."""

    def __init__(self) -> None:
        self.first = 0
        self._records: list[MemoryRecord] = []

    @property
    def end(self) -> int:
        return self.first + len(self._records)

    def add(self, message: Message, timestamp_ms: int) -> int:
        offset = self.end
        self._records.append(MemoryRecord(offset, timestamp_ms, message.key, message.value, message.headers))
        return offset

    def between(self, start: int, stop: int) -> list[MemoryRecord]:
        """The records from offset `start` up to but not including `stop`, as far as they are there."""
        return self._records[max(start - self.first, 0) : max(stop - self.first, 0)]

    def drop(self, before: int) -> None:
        """Deletes the records below that offset."""
        before = min(before, self.end)
        del self._records[: max(before - self.first, 0)]
        self.first = max(before, self.first)

    def since(self, timestamp_ms: int) -> int:
        """The offset of the first record that is not older, else the end."""
        return next((record.offset for record in self._records if record.timestamp >= timestamp_ms), self.end)


class Member(Protocol):
    """What a group needs of a stream."""

    def own(self, partitions: set[Partition]) -> None:
        """Takes over a new assignment. The caller holds the lock."""
        ...

    def end(self, reason: Retry | Fenced) -> None:
        """Every later call raises `reason`. The caller holds the lock."""
        ...


@dataclass(slots=True)
class Group:
    """`begun` are the topics whose start has been decided."""

    topics: frozenset[str]
    begun: set[str] = field(default_factory=set)
    positions: dict[Partition, Position] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    owners: dict[Partition, str] = field(default_factory=dict)


class MemoryLog:
    """Topics and groups, shared by all brokers made on it. Everything in it is guarded by `changed`."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.topics: dict[str, list[PartitionLog]] = {}
        self.groups: dict[str, Group] = {}
        self.turn = count()

    def require(self, topics: Iterable[str]) -> None:
        if missing := sorted(set(topics) - self.topics.keys()):
            raise TopicMissing(f"topics {', '.join(map(repr, missing))} not found in memory")

    def partition(self, partition: Partition) -> PartitionLog:
        return self.topics[partition.topic][partition.number]

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """All partitions of those topics that are there."""
        return [Partition(topic, number) for topic in topics for number in range(len(self.topics.get(topic, ())))]

    def add(self, message: Message, number: int | None, timestamp_ms: int) -> tuple[Partition, int]:
        """Appends to the partition of that number, else to the one of the key's CRC32C, else to the next in turn."""
        partitions = self.topics[message.topic]
        if number is None:
            number = (next(self.turn) if message.key is None else crc32c(message.key)) % len(partitions)
        return Partition(message.topic, number), partitions[number].add(message, timestamp_ms)

    def resize(self, topic: str, partitions: int) -> None:
        """Gives a topic that many partitions in all, which the groups that read it share out anew."""
        there = self.topics.setdefault(topic, [])
        there += [PartitionLog() for _ in range(partitions - len(there))]
        for group in self.groups.values():
            if topic in group.topics:
                self.rebalance(group)

    def delete(self, topic: str) -> None:
        """Positions in it are forgotten, as Apache Kafka does; who owns its partitions learns it at the next call."""
        del self.topics[topic]
        for group in self.groups.values():
            group.positions = {at: place for at, place in group.positions.items() if at.topic != topic}
        self.changed.notify_all()

    def rebalance(self, group: Group) -> None:
        """Shares the partitions evenly; members keep what they have as far as that allows."""
        group.owners = _shares(self.partitions(sorted(group.topics)), list(group.members), group.owners)
        for name, member in group.members.items():
            member.own({partition for partition, owner in group.owners.items() if owner == name})
        self.changed.notify_all()


def _shares(partitions: list[Partition], members: list[str], before: Mapping[Partition, str]) -> dict[Partition, str]:
    if not members:
        return {}
    floor, extra = divmod(len(partitions), len(members))
    owners: dict[Partition, str] = {}
    held: Counter[str] = Counter()
    for partition in partitions:
        owner = before.get(partition)
        if owner in members and held[owner] < floor + (extra > 0):
            extra -= held[owner] == floor
            owners[partition] = owner
            held[owner] += 1
    for partition in partitions:
        if partition not in owners:
            owners[partition] = min(members, key=lambda name: held[name])
            held[owners[partition]] += 1
    return owners

"""Where the partitions go on that a member of a group gains, whatever the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from consumers.batch import Moved, Partition, Position
from consumers.reading import Reader
from consumers.settings import KafkaSettings


class Placed(NamedTuple):
    """The partitions that have a position now, those of them that had to move, and the ends of their logs."""

    positions: dict[Partition, Position]
    moved: dict[Partition, Moved]
    ends: dict[Partition, int]


class Placement(ABC):
    """Sets each partition that is gained to its committed position.

    A topic of which the group has no position yet begins, in all its partitions at once, where `begin` or the settings
    say: the owner of its partition 0 decides and commits that. The owners of others wait for it, so that a partition
    without a position beside it is one that was added since, and begins at its first record.
    `seen` holds the topics that an earlier stream of this process has read: where the group has no position in one of
    them, it was deleted with its topic, and all of the new topic is read.
    """

    def __init__(self, reader: Reader, settings: KafkaSettings, begin: Mapping[Partition, int], seen: set[str]) -> None:
        self._reader = reader
        self._earliest = settings.start == "earliest"
        self._begin = begin
        self._seen = seen

    def place(self, gained: set[Partition], owned: set[Partition]) -> Placed:
        """Those of the gained that can be placed; the others are held back for the next call."""
        if not gained:
            return Placed({}, {}, {})
        topics = {partition.topic for partition in gained}
        committed = self._committed(self._reader.partitions(topics) | gained)
        begun = {topic for topic, number in committed if number == 0}
        deciding = {topic for topic in topics - begun if Partition(topic, 0) in owned}
        starts = self._reader.partitions(deciding) - committed.keys()
        ready = {partition for partition in gained if partition.topic in begun | deciding}
        firsts, ends = self._reader.firsts(ready | starts), self._reader.ends(ready | starts)
        wanted = {at: committed.get(at) or self._unplaced(at, at in starts, firsts[at], ends[at]) for at in firsts}
        resolved = {at: _resolved(position, firsts[at], ends[at]) for at, position in wanted.items()}
        positions = {at: position for at, (position, _) in resolved.items()}
        moved = {at: why for at, (_, why) in resolved.items() if why is not None}
        anew = {at for at, why in moved.items() if why.reason == "recreated"}
        if not self._commit({at: positions[at] for at in starts | anew}):
            ready = set()
        self._go_on({at: positions[at].offset for at in ready}, gained - ready)
        self._seen |= {partition.topic for partition in ready}
        return Placed(
            {at: positions[at] for at in ready},
            {at: why for at, why in moved.items() if at in ready},
            {at: ends[at] for at in ready},
        )

    @abstractmethod
    def _committed(self, partitions: set[Partition]) -> dict[Partition, Position]:
        """The group's positions, in those of the partitions where it has one."""

    @abstractmethod
    def _commit(self, positions: Mapping[Partition, Position]) -> bool:
        """So that a start is decided only once. False while the group rebalances and takes none."""

    @abstractmethod
    def _go_on(self, ready: Mapping[Partition, int], waiting: set[Partition]) -> None:
        """Reads the ready from these offsets on, and nothing of the others."""

    def _unplaced(self, partition: Partition, new_topic: bool, first: int, end: int) -> Position:
        if not new_topic or partition.topic in self._seen:
            return Position(first)
        return Position(self._begin.get(partition, first if self._earliest else end))


def _resolved(position: Position, first: int, end: int) -> tuple[Position, Moved | None]:
    """An offset that the log no longer holds, or not yet (the topic was made anew), becomes the log's first."""
    if position.offset < first:
        return position._replace(offset=first), Moved(position.offset, first, "retention")
    if position.offset > end:
        return Position(first), Moved(position.offset, first, "recreated")
    return position, None

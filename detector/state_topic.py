"""Snapshots of what partitions remember, in a compacted topic: when they are due, how they are written and read.

One is written in a transaction of its own, and the position that points to it is committed with the next records. A
crash in between leaves the older one in force, and the log to replay from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from consumers.batch import Message, Partition, Position
from consumers.stream import Broker, Stream
from detector.bookmark import Bookmark
from detector.config import DetectorSettings
from detector.errors import SnapshotError

log = structlog.get_logger()

CHUNK_BYTES = 900_000
"""Most bytes of a message: brokers take a million."""


class Memory(Protocol):
    """What is written: of the version of that name, packed."""

    @property
    def version(self) -> str: ...

    def packed(self, partition: Partition) -> tuple[bytes, int]:
        """What is remembered of the partition, and how many entities were left out for want of room."""
        ...


@dataclass(slots=True)
class _State:
    """Of a partition: its last snapshot, the offset to go on from, and records and time since the snapshot."""

    bookmark: Bookmark
    at: int
    written: float
    records: int = 0


class Snapshots:
    """The snapshots of the partitions that this replica owns. `wrote` is told of each: bytes, seconds, entities left
    out."""

    def __init__(
        self,
        settings: DetectorSettings,
        *,
        wrote: Callable[[int, float, int], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._wrote = wrote
        self._clock = clock
        self._states: dict[Partition, _State] = {}

    def begin(self, partition: Partition, bookmark: Bookmark, at: int) -> None:
        """The partition is ours: it goes on from offset `at`, and its memory stands at the bookmark."""
        self._states[partition] = _State(bookmark, at, self._clock(), at - bookmark.at)

    def forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._states.pop(partition, None)

    def reset(self) -> None:
        """Forgets all partitions, as after losing the stream."""
        self._states.clear()

    def positions(
        self, offsets: Mapping[Partition, Position], also: Iterable[Partition] = ()
    ) -> dict[Partition, Position]:
        """These positions, and those of partitions that did not move, each with the bookmark that belongs to it."""
        for partition, position in offsets.items():
            state = self._states[partition]
            state.records += position.offset - state.at
            state.at = position.offset
        return {
            partition: Position(self._states[partition].at, str(self._states[partition].bookmark))
            for partition in {**offsets, **dict.fromkeys(also)}
        }

    def due(self) -> set[Partition]:
        """The partition that waits for its snapshot longest, if any: one at a time, so that no batch waits for many."""
        now, every, records = self._clock(), self._settings.state.every, self._settings.state.records
        waiting = [
            (now - state.written, partition)
            for partition, state in self._states.items()
            if state.records and (now - state.written >= every or state.records >= records)
        ]
        return {max(waiting)[1]} if waiting else set()

    def unwritten(self) -> set[Partition]:
        """Partitions that have moved since their snapshot."""
        return {partition for partition, state in self._states.items() if state.records}

    def write(self, stream: Stream, memory: Memory, partitions: Iterable[Partition]) -> None:
        """Writes what is remembered of these partitions; positions from now on point there."""
        for partition in partitions:
            started, state = self._clock(), self._states[partition]
            state.written, state.records = started, 0
            try:
                packed, left_out = memory.packed(partition)
            except SnapshotError as error:
                log.error("no snapshot, the older one stays in force", partition=str(partition), error=str(error))
                continue
            chunks = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
            key = f"{self._settings.group}/{partition.topic}/{partition.number}/{1 - state.bookmark.slot}"
            topic = self._settings.state_topic
            messages = [Message(topic, f"{key}/{number}".encode(), chunk) for number, chunk in enumerate(chunks)]
            places = stream.publish(messages, {})
            state.bookmark = state.bookmark.moved_to(state.at, memory.version, places)
            self._wrote(len(packed), self._clock() - started, left_out)


def read_snapshot(broker: Broker, topic: str, bookmark: Bookmark) -> bytes:
    """The snapshot that the bookmark points to. Raises `SnapshotError` where a part of it is gone."""
    places = bookmark.places()
    spans = {}
    for number in {number for number, _ in places}:
        offsets = [offset for at, offset in places if at == number]
        spans[Partition(topic, number)] = min(offsets), max(offsets) + 1
    wanted, found = set(places), dict[tuple[int, int], bytes]()
    for batch in broker.fetch(spans):
        for row, value in enumerate(batch.values):
            partition, offset = batch.source(row)
            if value is not None and (partition.number, offset) in wanted:
                found[partition.number, offset] = value
    if missing := sorted(wanted - found.keys()):
        number, offset = missing[0]
        raise SnapshotError(
            f"{len(missing)} of {len(places)} parts are gone from topic '{topic}', first {number}@{offset}"
        )
    return b"".join(found[place] for place in places)

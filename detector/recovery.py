"""Bringing partitions back to where they stood: a snapshot is loaded, and the log replayed from there.

What is replayed goes through the same pipeline and rebuilds what was remembered; whatever comes of it was published
already and is dropped. The replay is part of the loop: the group sees this replica poll, and other partitions go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.batch import Partition, Position, RawBatch
from consumers.stream import Broker, Stream
from detector.bookmark import Bookmark
from detector.config import DetectorSettings
from detector.errors import OffnominalError, SnapshotError
from detector.pipeline import Pipeline
from detector.state_topic import Snapshots, read_snapshot
from detector.store import Store

log = structlog.get_logger()


class _Replay(NamedTuple):
    """A partition under way to the offset `until`, in a pipeline of the version that its snapshot was made under."""

    pipeline: Pipeline
    until: int


class Recovery:
    """The partitions that are being brought back. `replayed` is told how many records were, `lost` that a partition's
    memory could not be brought back."""

    def __init__(
        self,
        settings: DetectorSettings,
        broker: Broker,
        store: Store,
        snapshots: Snapshots,
        *,
        replayed: Callable[[int], None] = lambda _: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._store = store
        self._snapshots = snapshots
        self._replayed = replayed
        self._lost = lost
        self._replays: dict[Partition, _Replay] = {}

    @property
    def under_way(self) -> frozenset[Partition]:
        """Partitions that are not back yet."""
        return frozenset(self._replays)

    def reset(self) -> None:
        """Forgets all partitions, as after losing the stream."""
        self._replays.clear()

    def advance(self, batch: RawBatch, stream: Stream, pipeline: Pipeline) -> RawBatch:
        """Gives up partitions that were revoked, takes over those that were assigned, and replays what is to be
        replayed. Gives the rest of the batch: what is new."""
        for partition in (*batch.revoked, *batch.assigned):
            pipeline.release(partition)
            self._replays.pop(partition, None)
        self._snapshots.forget(batch.revoked)
        rewound = {
            partition
            for partition, position in batch.assigned.items()
            if self._take_over(partition, position, stream, pipeline)
        }
        return self._replay(batch, rewound, stream, pipeline)

    def _take_over(self, partition: Partition, position: Position, stream: Stream, pipeline: Pipeline) -> bool:
        """Whether the partition is read again from its snapshot on."""
        if not position.snapshot:
            self._begin_anew(partition, position, pipeline)
            return False
        try:
            bookmark = _bookmark(position)
            own = self._pipeline(bookmark.version, pipeline)
            if bookmark.chunks:
                own.restore(partition, read_snapshot(self._broker, self._settings.state_topic, bookmark))
        except OffnominalError as error:
            log.error("what a partition remembered is lost, it begins anew", partition=str(partition), error=str(error))
            self._lost()
            self._begin_anew(partition, position, pipeline)
            return False
        self._snapshots.begin(partition, bookmark, position.offset)
        self._replays[partition] = _Replay(own, position.offset)
        if bookmark.at == position.offset:
            self._hand_over(partition, stream, pipeline)
            return False
        first = stream.rewind(partition, bookmark.at)
        if first > bookmark.at:
            missing = min(first, position.offset) - bookmark.at
            log.warning("the log begins after the snapshot", partition=str(partition), records_missing=missing)
        if first >= position.offset:
            self._hand_over(partition, stream, pipeline)
        return True

    def _begin_anew(self, partition: Partition, position: Position, pipeline: Pipeline) -> None:
        self._snapshots.begin(partition, Bookmark(at=position.offset, version=pipeline.version), position.offset)

    def _pipeline(self, version: str, serving: Pipeline) -> Pipeline:
        """One of this version to replay in, beside the one that serves."""
        for replay in self._replays.values():
            if replay.pipeline.version == version:
                return replay.pipeline
        if serving.version == version:
            return serving.beside(serving.bundle)
        return serving.beside(self._store.load(version))

    def _replay(self, batch: RawBatch, rewound: Collection[Partition], stream: Stream, pipeline: Pipeline) -> RawBatch:
        """Processes what is to be replayed, and hands over who is through."""
        if not self._replays and not rewound:
            return replace(batch, assigned={}, revoked=frozenset())
        came_with = _of(batch, rewound)  # read before they were rewound: comes again
        until = np.array([self._replays[it].until if it in self._replays else 0 for it in batch.partitions], np.int64)
        old = ~came_with & (batch.offsets < until[batch.partition])
        for own in {id(replay.pipeline): replay.pipeline for replay in self._replays.values()}.values():
            mine = old & _of(batch, [it for it, replay in self._replays.items() if replay.pipeline is own])
            if mine.any():
                own.process(batch.take(mine))
                self._replayed(int(mine.sum()))
        reached = {partition: moved.found for partition, moved in batch.moved.items()}
        reached |= {it: position.offset for it, position in batch.take(~came_with).positions().items()}
        for partition, replay in list(self._replays.items()):
            if reached.get(partition, 0) >= replay.until:
                self._hand_over(partition, stream, pipeline)
        moved = {it: moved for it, moved in batch.moved.items() if it not in self._replays}
        return replace(batch.take(~came_with & ~old), moved=moved)

    def _hand_over(self, partition: Partition, stream: Stream, pipeline: Pipeline) -> None:
        """The partition stands where it stood: the pipeline that serves goes on with it."""
        own = self._replays.pop(partition).pipeline
        if (memory := own.release(partition)) is not None:
            pipeline.take_over(partition, memory)
            if own.version != pipeline.version:
                self._snapshots.write(stream, pipeline, [partition])


def _bookmark(position: Position) -> Bookmark:
    bookmark = Bookmark.read(position.snapshot)
    if bookmark is None or bookmark.at > position.offset:
        raise SnapshotError(f"Position {position.offset} says '{position.snapshot[:100]}' of its snapshot.")
    return bookmark


def _of(batch: RawBatch, partitions: Collection[Partition]) -> NDArray[np.bool_]:
    """Which records (n,) are of these partitions."""
    chosen = np.array([partition in partitions for partition in batch.partitions], np.bool_)
    return chosen[batch.partition] if len(batch) else np.zeros(0, np.bool_)

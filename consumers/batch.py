"""The vocabulary of the stream: what is polled, what it decodes to, what is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.packed import Packed

Header = tuple[str, bytes]


class Partition(NamedTuple):
    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class Position(NamedTuple):
    """Where a partition goes on: the next offset to read, and which state snapshot belongs to it."""

    offset: int
    snapshot: str = ""


class Message(NamedTuple):
    """One record to publish, to the partition of its key where none is given."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    partition: int | None = None


MoveReason = Literal["retention", "recreated", "undecodable"]


class Moved(NamedTuple):
    """A partition does not go on at the offset `expected` but at `found`, and why.

    retention: the log's oldest records were deleted before they were read. recreated: the topic was deleted and made
    anew, or its log lost its end, so that offsets mean other records. undecodable: the client cannot decode the records
    in between.
    """

    expected: int
    found: int
    reason: MoveReason


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records as they came, n of them; records of one partition stand together, in offset order.

    `partition` indexes `partitions`; `timestamps` are the broker's, in epoch milliseconds.
    `assigned` and `revoked` happened before the records of this batch: state of a revoked partition is dropped,
    an assigned one goes on from its position; `moved` holds those that do not go on where they should. `ends` holds the
    end offset of each partition as last heard, for the lag.
    """

    partitions: tuple[Partition, ...]
    partition: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]
    assigned: Mapping[Partition, Position] = field(default_factory=dict)
    revoked: frozenset[Partition] = frozenset()
    ends: Mapping[Partition, int] = field(default_factory=dict)
    moved: Mapping[Partition, Moved] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, chosen: NDArray[np.bool_]) -> RawBatch:
        """The records that `chosen` (n,) selects, without what happened before them."""
        rows = np.flatnonzero(chosen)
        return RawBatch(
            partitions=self.partitions,
            partition=self.partition[rows],
            offsets=self.offsets[rows],
            timestamps=self.timestamps[rows],
            keys=_taken(self.keys, rows),
            values=_taken(self.values, rows),
            headers=[self.headers[row] for row in rows.tolist()],
            ends=self.ends,
        )

    def source(self, row: int) -> tuple[Partition, int]:
        """Partition and offset of one record."""
        return self.partitions[self.partition[row]], int(self.offsets[row])

    def positions(self) -> dict[Partition, Position]:
        """The position after this batch of each partition that has records in it."""
        return {
            partition: Position(int(self.offsets[self.partition == index][-1]) + 1)
            for index, partition in enumerate(self.partitions)
            if (self.partition == index).any()
        }


def _taken(values: Sequence[bytes | None], rows: NDArray[np.int64]) -> Sequence[bytes | None]:
    return values.take(rows) if isinstance(values, Packed) else [values[row] for row in rows.tolist()]


@dataclass(frozen=True, slots=True)
class Columns:
    """Decoded records, n rows in the order of their batch; `row` is each one's index in the `RawBatch` it came from.

    `numbers[name]` is float64 with NaN where the field is missing; `texts[name]` is an object array of `str` or `None`.
    `entity` is "" where the stream has no entity field. `time` is event time in epoch milliseconds.
    """

    row: NDArray[np.int64]
    partitions: tuple[Partition, ...]
    partition: NDArray[np.int32]
    offsets: NDArray[np.int64]
    time: NDArray[np.int64]
    entity: NDArray[np.object_]
    numbers: Mapping[str, NDArray[np.float64]]
    texts: Mapping[str, NDArray[np.object_]]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Columns:
        """The rows that `index` selects."""
        return Columns(
            row=self.row[index],
            partitions=self.partitions,
            partition=self.partition[index],
            offsets=self.offsets[index],
            time=self.time[index],
            entity=self.entity[index],
            numbers={name: column[index] for name, column in self.numbers.items()},
            texts={name: column[index] for name, column in self.texts.items()},
        )

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        """All rows of the parts, those of one partition together and in the order of the parts; `row` counts from 0."""
        partitions = tuple(dict.fromkeys(partition for part in parts for partition in part.partitions))
        index = {partition: number for number, partition in enumerate(partitions)}
        owner = np.concatenate(
            [np.array([index[p] for p in part.partitions], np.int32)[part.partition] for part in parts]
        )
        order = np.argsort(owner, kind="stable")
        return cls(
            row=np.arange(len(order)),
            partitions=partitions,
            partition=owner[order],
            offsets=np.concatenate([part.offsets for part in parts])[order],
            time=np.concatenate([part.time for part in parts])[order],
            entity=np.concatenate([part.entity for part in parts])[order],
            numbers={name: np.concatenate([part.numbers[name] for part in parts])[order] for name in parts[0].numbers},
            texts={name: np.concatenate([part.texts[name] for part in parts])[order] for name in parts[0].texts},
        )

    def by_partition(self) -> Iterator[tuple[Partition, slice]]:
        """Each partition that has rows, with the rows it has."""
        edges = np.flatnonzero(np.diff(self.partition)) + 1
        for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(self)], strict=True):
            if stop > start:
                yield self.partitions[self.partition[start]], slice(start, stop)


@dataclass(frozen=True, slots=True)
class Schema:
    """Which fields a decoder takes out of a record, by path: `a.b` is field `b` of the object `a`, `a\\.b` the field
    `a.b`.

    Numbers take JSON numbers and booleans; texts take strings, integers and booleans. `entity` is text, `timestamp` an
    epoch number (seconds, milliseconds, microseconds or nanoseconds, told apart by size) or an ISO 8601 string.
    """

    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    entity: str | None = None
    timestamp: str | None = None


class DeadLetter(NamedTuple):
    """A record that cannot be scored: its index in the batch, a reason from a fixed set, and what was found wrong."""

    row: int
    reason: str
    error: str

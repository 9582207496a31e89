"""What the implementations of the port share: polled records as columns, and where the last N records begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Header, Moved, Partition, Position, RawBatch
from consumers.headers import Headers
from consumers.packed import Packed


class Record(Protocol):
    """A record as a client hands it over. The broker may hold records without a time, and headers without content."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Run(NamedTuple):
    """Records of one partition in offset order, n of them: columns as in `RawBatch`."""

    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Run:
        """Of records as objects. A header without content becomes b"", a record without a time is of -1."""
        return cls(
            np.array([record.offset for record in records], np.int64),
            np.array([-1 if record.timestamp is None else record.timestamp for record in records], np.int64),
            [record.key for record in records],
            [record.value for record in records],
            [[(name, content or b"") for name, content in record.headers] for record in records],
        )

    @classmethod
    def concat(cls, runs: Sequence[Run]) -> Run:
        """All records of runs that follow each other."""
        if len(runs) < 2:
            return runs[0] if runs else cls.of([])
        headers = [run.headers for run in runs]
        packed = [part for part in headers if isinstance(part, Headers)]
        return cls(
            np.concatenate([run.offsets for run in runs]),
            np.concatenate([run.timestamps for run in runs]),
            Packed.concat([Packed.of(run.keys) for run in runs]),
            Packed.concat([Packed.of(run.values) for run in runs]),
            Headers.concat(packed) if len(packed) == len(headers) else list(chain.from_iterable(headers)),
        )

    def take(self, rows: slice) -> Run:
        """Some of the records."""
        return Run(self.offsets[rows], self.timestamps[rows], self.keys[rows], self.values[rows], self.headers[rows])

    def before(self, offset: int) -> Run:
        """The records below an offset."""
        return self.take(slice(0, int(np.searchsorted(self.offsets, offset))))

    @property
    def following(self) -> int:
        """The offset after the last record; there must be one."""
        return int(self.offsets[-1]) + 1


def to_batch(
    found: Mapping[Partition, Run],
    *,
    ends: Mapping[Partition, int],
    assigned: Mapping[Partition, Position] | None = None,
    revoked: frozenset[Partition] = frozenset(),
    moved: Mapping[Partition, Moved] | None = None,
) -> RawBatch:
    """One batch of the records of several partitions."""
    there = {partition: run for partition, run in found.items() if len(run.offsets)}
    sizes = np.array([len(run.offsets) for run in there.values()], dtype=np.int64)
    records = Run.concat([*there.values()])
    return RawBatch(
        partitions=(*there,),
        partition=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        offsets=records.offsets,
        timestamps=records.timestamps,
        keys=records.keys,
        values=records.values,
        headers=records.headers,
        assigned=assigned or {},
        revoked=revoked,
        ends=ends,
        moved=moved or {},
    )


def tail(spans: Mapping[Partition, tuple[int, int]], records: int) -> dict[Partition, int]:
    """Start offsets of the last `records` offsets in all; `spans` holds (first, end) of each partition.

    Partitions give equal shares; what a short one lacks, the longer ones add. Their sum is never above `records`.
    """
    starts, left = {}, records
    shortest_first = sorted(spans, key=lambda partition: spans[partition][1] - spans[partition][0])
    for index, partition in enumerate(shortest_first):
        first, end = spans[partition]
        share = min(end - first, left // (len(spans) - index))
        starts[partition] = end - share
        left -= share
    return starts

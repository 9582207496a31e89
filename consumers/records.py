"""What the implementations of the port share: polled records as one `RawBatch`, and where the last N records begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from consumers.batch import Moved, Partition, Position, RawBatch


class Record(Protocol):
    """A record as a client hands it over. The broker may hold headers without content: `None`."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


def to_batch(
    found: Mapping[Partition, Sequence[Record]],
    *,
    ends: Mapping[Partition, int],
    assigned: Mapping[Partition, Position] | None = None,
    revoked: frozenset[Partition] = frozenset(),
    moved: Mapping[Partition, Moved] | None = None,
) -> RawBatch:
    """One batch of the records of several partitions, each in offset order. A header without content becomes b""."""
    runs = [(partition, records) for partition, records in found.items() if records]
    records = [record for _, run in runs for record in run]
    sizes = np.array([len(run) for _, run in runs], dtype=np.int64)
    return RawBatch(
        partitions=tuple(partition for partition, _ in runs),
        partition=np.repeat(np.arange(len(runs), dtype=np.int32), sizes),
        offsets=np.array([record.offset for record in records], dtype=np.int64),
        timestamps=np.array([record.timestamp for record in records], dtype=np.int64),
        keys=[record.key for record in records],
        values=[record.value for record in records],
        headers=[[(name, content or b"") for name, content in record.headers] for record in records],
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

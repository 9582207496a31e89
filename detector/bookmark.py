"""What a committed position says of its partition's memory: where the snapshot lies from which the log is replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import msgspec

from consumers.batch import Partition


class Bookmark(msgspec.Struct, frozen=True, omit_defaults=True):
    """Memory as it stood before the record at offset `at`, under the version of that name.

    `chunks` are the pieces of the snapshot in the state topic, as (partition, first offset, how many in a row); none
    where nothing was remembered yet. `slot` tells the two keys apart under which snapshots are written in turn, so that
    compaction never takes the one that a position points to. As text it has about 60 bytes and 15 a run of chunks;
    brokers take 4,096.
    """

    at: int
    version: str
    slot: int = 0
    chunks: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def read(cls, text: str) -> Self | None:
        """What `str` gave; None for anything else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, ValueError):
            return None

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()

    def moved_to(self, at: int, version: str, places: Sequence[tuple[Partition, int]]) -> Bookmark:
        """The bookmark of the snapshot after this one, whose chunks lie at these places, in order."""
        return Bookmark(at=at, version=version, slot=1 - self.slot, chunks=tuple(_runs(places)))

    def places(self) -> list[tuple[int, int]]:
        """Partition and offset of each chunk in the state topic."""
        return [(number, first + step) for number, first, count in self.chunks for step in range(count)]


def _runs(places: Sequence[tuple[Partition, int]]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for end in range(1, len(places) + 1):
        (partition, offset), ahead = places[end - 1], places[end] if end < len(places) else None
        if ahead != (partition, offset + 1):
            yield partition.number, places[start][1], end - start
            start = end

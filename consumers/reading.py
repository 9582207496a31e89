"""What is needed of a client to read partitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from consumers.batch import Moved, Partition
from consumers.records import Run

Found = dict[Partition, Run]


class Reader(Protocol):
    """Reads partitions, and goes on whatever the log did meanwhile."""

    def poll(self, max_records: int, timeout_s: float) -> tuple[Found, dict[Partition, Moved]]:
        """Records by partition, and where partitions had to move to before them; may return early with neither."""
        ...

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        """The next poll goes on from these offsets."""
        ...

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These were given up: whatever topic they are found in next is as it should be."""
        ...

    def firsts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset of the first record that the log still holds."""
        ...

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after the last record that a committed transaction or none holds."""
        ...

    def since(self, ends: Mapping[Partition, int], timestamp_ms: int) -> dict[Partition, int]:
        """The offset of the first record that is not older, else the end."""
        ...

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to read, which must have been set. At the end of the log it has passed over markers of
        transactions, and records of aborted ones, which no poll gives.
        """
        ...

    def highs(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The end offsets that the last fetches told, of the partitions that have been fetched."""
        ...

    def partitions(self, topics: Iterable[str]) -> set[Partition]:
        """All partitions of those of the topics that exist."""
        ...

    def gone(self, topics: Iterable[str]) -> list[str]:
        """The topics that the broker did not know when it was last asked."""
        ...

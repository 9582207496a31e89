"""Where each partition stands, and which of them stand still."""

from __future__ import annotations

from typing import NamedTuple

from consumers.batch import Partition, RawBatch


class Standing(NamedTuple):
    """The next offset to read of a partition, the log's end as last heard, and since when (monotonic seconds) it has
    had records to read and has not moved."""

    position: int
    end: int
    since: float

    @property
    def lag(self) -> int:
        """Records to read."""
        return max(0, self.end - self.position)

    def still_for(self, now: float) -> float:
        """For how long it has stood still (seconds); 0 where there is nothing to read."""
        return now - self.since if self.lag else 0.0


class Progress:
    """The partitions that are owned, as each turn of the loop left them. A move back, to replay, is a move.

    Those that were given up are remembered: one that comes back where it stood has stood still in the meantime, and a
    stream that is lost over and over does not hide that.
    """

    def __init__(self) -> None:
        self.standings: dict[Partition, Standing] = {}
        self._given_up: dict[Partition, Standing] = {}

    def rejoin(self) -> None:
        """The stream was lost: no partition is owned until it is assigned anew."""
        self._given_up |= self.standings
        self.standings.clear()

    def follow(self, batch: RawBatch, now: float) -> None:
        """A batch has been dealt with, as of `now`."""
        for partition in batch.revoked & self.standings.keys():
            self._given_up[partition] = self.standings.pop(partition)
        for partition in batch.assigned:
            self.standings[partition] = self._given_up.pop(partition, Standing(-1, -1, now))
        reached = {partition: position.offset for partition, position in batch.assigned.items()}
        reached |= {partition: moved.found for partition, moved in batch.moved.items()}
        reached |= {partition: position.offset for partition, position in batch.positions().items()}
        for partition, standing in self.standings.items():
            position = reached.get(partition, standing.position)
            end = batch.ends.get(partition, standing.end)
            if (position, end) != (standing.position, standing.end):
                still = standing.lag > 0 and position == standing.position
                self.standings[partition] = Standing(position, end, standing.since if still else now)

"""The port to a broker: what the daemon needs of one, and nothing else.

`Broker` is a connection recipe; `Stream` is one member of a consumer group with its own producer. Implementations:
`kafka_python.KafkaPythonBroker`, `confluent.ConfluentBroker`, `memory.MemoryBroker`. All pass
`tests/contracts/test_stream.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consumers.batch import Message, Partition, Position, RawBatch


class Stream(Protocol):
    """One member of a consumer group with its own producer. Not thread-safe.

    Every call may raise `consumers.errors.Retry` (close it, open another) or `consumers.errors.Stop` (exit).
    """

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        """At most `max_records` records, or none when `timeout_s` has passed. Assignment changes come as part of the
        batch.

        Where the log does not hold the offset to go on from, the partition goes on at the log's first record, and the
        batch says so in `moved`. Of a topic that was made anew the partitions are revoked and assigned in that batch,
        without `moved` where the group found out first; one that is deleted ends the stream with `Retry`. Records that
        cannot be decoded are passed over and told too.

        `ends` are above the offset that a partition goes on from only where there is a record to read, or one of a
        transaction that is still open. The markers of transactions, and the records of aborted ones, count until the
        stream has passed over them: a poll or two.

        Only records of committed transactions are seen. A caller may not assume that a polled record will not come
        again (to it or to another member) until a `publish` that covers it has returned.
        """
        ...

    def publish(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        """All messages and all positions, or none: when it returns they are there, when it raises `Retry` but
        `OutcomeUnknown` they are not. Gives partition and offset of each message.

        Positions of partitions that have been revoked in the meantime are refused with `Retry`.
        """
        ...

    def rewind(self, partition: Partition, offset: int) -> int:
        """The next `poll` reads a partition that is owned from `offset` on, or from the log's first if that is later.

        Gives which of the two. The committed position stays.
        """
        ...

    def close(self) -> None:
        """Leaves the group. An open transaction is aborted; nothing unpublished is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a topic's past: the last `records` in all, or everything since `since_ms` (epoch milliseconds), or
    all of it.
    """

    records: int | None = None
    since_ms: int | None = None


class Broker(Protocol):
    """How to reach a broker. Holds no connection of its own."""

    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> Stream:
        """Joins the consumer group. Blocks until the broker answers; topics must exist.

        A topic in which the group has no position starts at the offsets in `begin`, else as the settings say. Where it
        has some, a partition without one was added since, and starts at its first record.
        """
        ...

    def read(self, topics: Sequence[str], window: Window, *, follow: bool = False) -> Iterator[RawBatch]:
        """Reads without a group and commits nothing: the window up to the end offsets as of this call, then, with
        `follow`, whatever comes.

        While following, an empty batch is yielded about once a second. Missing topics raise `TopicMissing`, and records
        that cannot be decoded are left out.
        """
        ...

    def fetch(self, spans: Mapping[Partition, tuple[int, int]]) -> Iterator[RawBatch]:
        """Reads the committed records of each partition from the first offset up to but not including the second.

        Without a group. Ends early where the log does; offsets that the log no longer holds, and those of records that
        cannot be decoded, are missing. Missing topics raise `TopicMissing`.
        """
        ...

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """The number of partitions of each of the topics that exist."""
        ...

    def create_topics(self, topics: Mapping[str, int], *, compacted: bool = False) -> None:
        """Creates each topic that is not there yet with that many partitions.

        A compacted one keeps the newest record of each key, and clears older ones away soon.
        """
        ...

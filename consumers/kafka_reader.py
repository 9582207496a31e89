"""Going on reading whatever the log did meanwhile: records deleted, topics made anew, bytes that cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka

from consumers.batch import Moved, Partition
from consumers.fetching import Undecodable
from consumers.records import Run

_TRIES = 4  # the first and three more: a broken transfer or replica may mend


class KafkaReader:
    """Polls a `fetching.bounded_consumer`; where a partition cannot go on at its next offset, seeks to where it can.

    A position below the log's first record goes there: retention overtook it. One beyond the log's end goes to the
    first record too, as does every position in a topic whose id has changed: the topic was made anew. Brokers before
    2.8 give no ids, and one that was made anew while nobody read keeps no trace: then it is told by a position beyond
    the end alone, and one that has grown past the old position is read on from there. A log that lost its end to an
    unclean election counts as made anew: what follows has other records under the old offsets.
    Records that cannot be decoded are fetched three times more, then passed over.
    """

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self._cluster = consumer._client.cluster  # kafka-python shows topic ids, and what is gone, nowhere else
        self._ids: dict[str, Any] = {}
        self._tries: dict[TopicPartition, tuple[int, int]] = {}

    def poll(self, max_records: int, timeout_s: float) -> tuple[dict[Partition, Run], dict[Partition, Moved]]:
        """Records by partition, and where partitions had to move to before them; may return early with neither."""
        try:
            polled = self.consumer.poll(timeout_s * 1000, max_records)
        except kafka.NoOffsetForPartitionError:
            return {}, {}  # newly assigned: the caller says where it begins
        except kafka.OffsetOutOfRangeError as error:
            return {}, self._out_of_range(error.args[0])
        except kafka.LogTruncationError as error:
            return {}, self._out_of_range({key: self.consumer.position(key) for key in error.divergent_offsets})
        except Undecodable as error:
            return {}, self._pass_over(error)
        anew = {key: self._expected(key, polled) for key in self._made_anew()}
        found = {Partition(*key): Run.concat(runs) for key, runs in polled.items() if key not in anew}
        return found, self._to_first(anew)

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        """The next poll goes on from these offsets."""
        for partition, offset in offsets.items():
            self.consumer.seek(TopicPartition(*partition), offset)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These were given up: whatever topic they are found in next is as it should be."""
        for partition in partitions:
            self._ids.pop(partition.topic, None)

    def firsts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset of the first record that the log still holds."""
        keys = [TopicPartition(*partition) for partition in partitions]
        return {Partition(*key): offset for key, offset in self.consumer.beginning_offsets(keys).items()}

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after the last record that a committed transaction or none holds."""
        keys = [TopicPartition(*partition) for partition in partitions]
        return {Partition(*key): offset for key, offset in self.consumer.end_offsets(keys).items()}

    def since(self, ends: Mapping[Partition, int], timestamp_ms: int) -> dict[Partition, int]:
        """The offset of the first record that is not older, else the end."""
        found = self.consumer.offsets_for_times({TopicPartition(*partition): timestamp_ms for partition in ends})
        return {at: found[at].offset if found.get(at) else end for at, end in ends.items()}

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to read, which must have been set; it passes over markers of transactions, and records of
        aborted ones, which no poll gives.

        kafka-python's public call may wait for the broker, and goes through all partitions for each of them.
        """
        state = self.consumer._subscription
        return {partition: state.position(TopicPartition(*partition)).offset for partition in partitions}

    def highs(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The end offsets that the last fetches told, of the partitions that have been fetched."""
        told = {partition: self.consumer.highwater(TopicPartition(*partition)) for partition in partitions}
        return {partition: high for partition, high in told.items() if high is not None}

    def partitions(self, topics: Iterable[str]) -> set[Partition]:
        """All partitions of the topics, as of the last metadata."""
        return {
            Partition(topic, number) for topic in topics for number in self._cluster.partitions_for_topic(topic) or ()
        }

    def gone(self, topics: Iterable[str]) -> list[str]:
        """The topics that the broker does not know any more, as of the last metadata."""
        return sorted(topic for topic in topics if self._cluster.partitions_for_topic(topic) is None)

    def _made_anew(self) -> list[TopicPartition]:
        """Partitions of topics whose id is another than it was."""
        keys = self.consumer.assignment()
        ids = {topic: self._cluster.topic_id(topic) for topic in {key.topic for key in keys}}
        known = {topic: name for topic, name in ids.items() if name is not None and name.int}  # zero: not there
        anew = {topic for topic, name in known.items() if self._ids.get(topic, name) != name}
        self._ids |= known
        return [key for key in keys if key.topic in anew]

    def _expected(self, key: TopicPartition, polled: Mapping[TopicPartition, list[Run]]) -> int:
        position: int = int(polled[key][0].offsets[0]) if key in polled else self.consumer.position(key)
        return position

    def _out_of_range(self, expected: Mapping[TopicPartition, int]) -> dict[Partition, Moved]:
        """Asks for the ids first: all partitions of a topic that was made anew move at once."""
        timeout_ms = self.consumer.config["request_timeout_ms"]
        self.consumer._net.run(self.consumer._manager.wait_for, self._cluster.request_update(), timeout_ms)
        return self._to_first({**{key: self.consumer.position(key) for key in self._made_anew()}, **expected})

    def _to_first(self, expected: Mapping[TopicPartition, int]) -> dict[Partition, Moved]:
        wanted = {Partition(*key): offset for key, offset in expected.items()}
        firsts = self.firsts(wanted) if wanted else {}
        self.seek(firsts)
        return {
            at: Moved(offset, firsts[at], "retention" if offset < firsts[at] else "recreated")
            for at, offset in wanted.items()
        }

    def _pass_over(self, broken: Undecodable) -> dict[Partition, Moved]:
        offset, tries = self._tries.get(broken.key, (-1, 0))
        tries = tries + 1 if offset == broken.expected else 1
        self._tries[broken.key] = (broken.expected, tries)
        if tries < _TRIES:
            return {}
        found = max(broken.expected + 1, min(broken.found, self.consumer.highwater(broken.key)))
        self.consumer.seek(broken.key, found)
        return {Partition(*broken.key): Moved(broken.expected, found, "undecodable")}

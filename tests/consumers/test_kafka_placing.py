"""Who decides where a topic begins, and that nobody else does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytest
from kafka import TopicPartition
from kafka.errors import RebalanceInProgressError
from kafka.structs import OffsetAndMetadata

from consumers.batch import Moved, Partition, Position
from consumers.kafka_placing import Placing
from consumers.kafka_reader import KafkaReader
from consumers.placing import Placed
from consumers.settings import KafkaSettings

P0, P1, P2 = (Partition("t", number) for number in range(3))
FIRST, END = 3, 10


class Group:
    """A topic of three partitions, each with offsets 3 to 9, and what a group has committed in it.

    It stands for a reader, its consumer, and that one's coordinator.
    """

    def __init__(self, committed: Mapping[Partition, Position] | None = None) -> None:
        self.committed = dict(committed or {})
        self.rebalancing = False
        self.at: dict[Partition, int] = {}
        self.paused: set[Partition] = set()

    @property
    def consumer(self) -> Group:
        return self

    _coordinator = consumer

    def partitions(self, topics: Iterable[str]) -> set[Partition]:
        return {P0, P1, P2} if set(topics) == {"t"} else set()

    def firsts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, FIRST)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, END)

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        self.at |= offsets

    def pause(self, *keys: TopicPartition) -> None:
        self.paused |= {Partition(*key) for key in keys}

    def resume(self, *keys: TopicPartition) -> None:
        self.paused -= {Partition(*key) for key in keys}

    def fetch_committed_offsets(self, keys: Iterable[Any], timeout_ms: int) -> dict[TopicPartition, OffsetAndMetadata]:
        there = {Partition(*key) for key in keys} & self.committed.keys()
        return {TopicPartition(*at): OffsetAndMetadata(*self.committed[at], -1) for at in there}

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int) -> None:
        if self.rebalancing:
            raise RebalanceInProgressError()
        self.committed |= {Partition(*key): Position(place.offset, place.metadata) for key, place in offsets.items()}

    def place(self, *gained: Partition, begin: Mapping[Partition, int] | None = None, seen: str = "") -> Placed:
        settings = KafkaSettings(bootstrap="nowhere", start="latest")
        return Placing(cast(KafkaReader, self), settings, begin or {}, {seen}).place(set(gained), set(gained))


def test_the_owner_of_partition_0_decides_for_the_whole_topic() -> None:
    group = Group()
    placed = group.place(P0, P1, begin={P1: 5, P2: 4})
    assert placed.positions == {P0: Position(END), P1: Position(5)}
    assert group.committed == {P0: Position(END), P1: Position(5), P2: Position(4)}
    assert group.at == {P0: END, P1: 5}


def test_owners_of_other_partitions_wait_for_it() -> None:
    group = Group()
    assert group.place(P1, P2).positions == {}
    assert group.committed == {}
    assert group.paused == {P1, P2}
    Group.place(group, P0)
    assert group.place(P1, P2).positions == {P1: Position(END), P2: Position(END)}
    assert group.paused == set()


def test_while_the_group_rebalances_nothing_is_decided() -> None:
    group = Group()
    group.rebalancing = True
    assert group.place(P0, P1).positions == {}
    assert group.paused == {P0, P1}
    group.rebalancing = False
    assert group.place(P0, P1).positions == {P0: Position(END), P1: Position(END)}


def test_a_partition_added_since_begins_at_its_first_record() -> None:
    group = Group({P0: Position(7, "s"), P1: Position(8)})
    placed = group.place(P0, P2, begin={P2: 5})
    assert placed.positions == {P0: Position(7, "s"), P2: Position(FIRST)}
    assert placed.moved == {}


def test_a_topic_that_was_read_before_and_has_lost_its_positions_is_read_whole() -> None:
    assert Group().place(P0, begin={P0: 5}, seen="t").positions == {P0: Position(FIRST)}


@pytest.mark.parametrize(
    ("committed", "position", "reason"),
    [
        (Position(1, "s"), Position(FIRST, "s"), "retention"),
        (Position(11, "s"), Position(FIRST), "recreated"),
    ],
)
def test_a_position_outside_the_log_becomes_its_first(committed: Position, position: Position, reason: Any) -> None:
    placed = Group({P0: committed}).place(P0)
    assert placed.positions == {P0: position}
    assert placed.moved == {P0: Moved(committed.offset, FIRST, reason)}


def test_a_position_in_a_topic_made_anew_is_committed_so_that_it_is_found_only_once() -> None:
    group = Group({P0: Position(11, "s")})
    group.place(P0)
    assert group.committed == {P0: Position(FIRST)}

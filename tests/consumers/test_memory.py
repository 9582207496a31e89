"""What the port in memory adds to the port: records from outside, and rebalances that take effect at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as some

from consumers.batch import Partition, Position
from consumers.errors import Retry, TopicMissing
from consumers.memory import MemoryBroker, MemoryStream
from consumers.stream import Window


def test_records_with_a_key_share_a_partition_and_others_take_turns() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 3})
    assert {broker.append("t", b"x", key=b"k")[0].number for _ in range(4)} == {crc32c(b"k") % 3}
    assert sorted(broker.append("t", b"x")[0].number for _ in range(3)) == [0, 1, 2]


def test_appending_says_where_the_record_came_to_lie() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 2})
    assert broker.append("t", b"a", partition=1) == (Partition("t", 1), 0)
    assert broker.append("t", b"b", partition=1) == (Partition("t", 1), 1)
    with pytest.raises(TopicMissing):
        broker.append("nowhere", b"x")


def test_groups_on_one_log_have_positions_of_their_own() -> None:
    one = MemoryBroker(group="one")
    one.create_topics({"t": 1})
    one.append("t", b"x")
    with closing(one.stream(["t"])) as stream:
        stream.publish([], {Partition("t", 0): Position(1)})
    for group, wanted in (("one", 1), ("two", 0)):
        with closing(MemoryBroker(group=group, log=one.log).stream(["t"])) as stream:
            assert stream.poll(1, 0.0).assigned == {Partition("t", 0): Position(wanted)}


def test_closing_gives_the_partitions_to_the_members_that_stay() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 2})
    first, second = broker.stream(["t"]), broker.stream(["t"])
    assert len(second.poll(1, 0.0).assigned) == 1
    first.close()
    assert len(second.poll(1, 0.0).assigned) == 1
    assert len(second.poll(1, 0.0).ends) == 2


def test_a_partition_lost_and_regained_between_polls_is_told_as_both() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 2})
    broker.append("t", b"x", partition=0)
    broker.append("t", b"x", partition=1)
    first = broker.stream(["t"])
    assert len(first.poll(10, 0.0)) == 2
    broker.stream(["t"]).close()
    batch = first.poll(10, 0.0)
    assert set(batch.assigned) == batch.revoked
    assert [batch.source(0)[0]] == list(batch.revoked)


def test_a_poll_wakes_for_a_record_appended_by_another_thread() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 1})
    stream = broker.stream(["t"])
    stream.poll(1, 0.0)
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(stream.poll, 1, 30.0)
        broker.append("t", b"x")
        assert list(polling.result(10).values) == [b"x"]


def test_a_waiting_poll_ends_when_its_stream_is_closed() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 1})
    stream = broker.stream(["t"])
    stream.poll(1, 0.0)
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(stream.poll, 1, 30.0)
        stream.close()
        with pytest.raises(Retry, match="closed"):
            polling.result(10)


def test_members_of_one_group_take_the_same_topics() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 1, "u": 1})
    with closing(broker.stream(["t"])), pytest.raises(ValueError, match="reads"):
        broker.stream(["u"])


@given(some.integers(1, 12), some.lists(some.integers(0, 4), max_size=12))
def test_each_partition_has_one_owner_and_shares_differ_by_one_at_most(partitions: int, comings: list[int]) -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": partitions})
    members: dict[int, MemoryStream] = {}
    for name in comings:
        if name in members:
            members.pop(name).close()
        else:
            members[name] = broker.stream(["t"])
        owned = [set(member.poll(1, 0.0).ends) for member in members.values()]
        if owned:
            assert sum(map(len, owned)) == len(set().union(*owned)) == partitions
            assert max(map(len, owned)) - min(map(len, owned)) <= 1


def test_reading_while_following_leaves_no_record_out() -> None:
    broker = MemoryBroker()
    broker.create_topics({"t": 2})
    broker.append("t", b"0", partition=0)
    reading = broker.read(["t"], Window(), follow=True)
    broker.append("t", b"1", partition=1)
    assert [list(next(reading).values), list(next(reading).values)] == [[b"0"], [b"1"]]

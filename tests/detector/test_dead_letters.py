from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from consumers.batch import DeadLetter, Message, Partition, RawBatch
from consumers.dead_letters import dead_letter_message, undecodable_message
from consumers.errors import BrokerUnavailable, Fenced
from consumers.memory import MemoryBroker, MemoryStream
from consumers.stream import Window
from detector.dead_letters import Replay, SentBack, by_reason, chosen

SOURCE, DEAD = "machines", "dead"


def letter(number: int, reason: str = "malformed", *, topic: str = SOURCE, value: bytes | None = None) -> Message:
    """The letter of the record at this offset of partition 1."""
    batch = RawBatch(
        partitions=(Partition(topic, 1),),
        partition=np.zeros(1, np.int32),
        offsets=np.array([number]),
        timestamps=np.array([1_767_225_600_000]),
        keys=[b"key"],
        values=[value if value is not None else b"%d" % number],
        headers=[[("trace", b"t")]],
    )
    return dead_letter_message(batch, DeadLetter(0, reason, f"wrong with {number}"), topic=DEAD, max_bytes=1_000)


def broker_with(*messages: Message) -> MemoryBroker:
    """Holds the letters, one a second from second 1 on; the topic they came from is empty."""
    broker = MemoryBroker(group="offnominal-machines-dead-letters", instance="replay")
    broker.create_topics({SOURCE: 2, DEAD: 2})
    for second, message in enumerate(messages, start=1):
        broker.append(DEAD, message.value, message.key, message.headers, partition=0, timestamp_ms=1000 * second)
    return broker


def made(broker: MemoryBroker, *, window: Window | None = None, reason: str | None = None) -> Replay:
    return Replay(broker, DEAD, window or Window(), reason=reason, topics=[SOURCE])


def replayed(broker: MemoryBroker, **chosen: Any) -> Replay:
    """A replay that was sent."""
    with closing(broker.stream([DEAD])) as stream:
        replay = made(broker, **chosen)
        assert sum(replay.send(stream)) == replay.sendable.total()
    return replay


def came_back(broker: MemoryBroker) -> list[bytes | None]:
    values = [value for batch in broker.read([SOURCE], Window()) for value in batch.values]
    return sorted(values, key=lambda value: int(value or b"-1"))


def test_letters_are_counted_by_reason_the_most_frequent_first() -> None:
    broker = broker_with(letter(1, "empty"), letter(2), letter(3), letter(4, topic="others"))
    tallies = by_reason(chosen(broker, DEAD, Window()), SentBack(broker, DEAD))
    assert [*tallies] == ["malformed", "empty"]
    malformed = tallies["malformed"]
    assert (malformed.letters, malformed.first_ms, malformed.last_ms) == (3, 2_000, 4_000)
    assert malformed.sources == {Partition(SOURCE, 1): 2, Partition("others", 1): 1}
    assert malformed.newest.error == "wrong with 4"


def test_a_window_and_a_reason_choose_letters() -> None:
    broker = broker_with(letter(1), letter(2, "too_deep"), letter(3), letter(4, "too_deep"))
    assert [it.first for it in chosen(broker, DEAD, Window(), "too_deep")] == [2, 4]
    assert [it.first for it in chosen(broker, DEAD, Window(records=3))] == [2, 3, 4]
    assert [it.first for it in chosen(broker, DEAD, Window(since_ms=3_000))] == [3, 4]


def test_a_replay_sends_the_records_as_they_came_to_where_they_came_from() -> None:
    broker = broker_with(letter(1), letter(2))
    replayed(broker)
    (batch,) = broker.read([SOURCE], Window())
    assert [*zip(batch.keys, batch.values, batch.headers, strict=True)] == [
        (b"key", b"1", [("trace", b"t"), ("offnominal.replayed", b"dead[0]@0")]),
        (b"key", b"2", [("trace", b"t"), ("offnominal.replayed", b"dead[0]@1")]),
    ]


def test_a_second_replay_sends_nothing_twice() -> None:
    broker = broker_with(letter(1), letter(2))
    replayed(broker)
    second = replayed(broker)
    assert second.sendable == {}
    assert second.held_back == {"sent back before": 2}
    assert came_back(broker) == [b"1", b"2"]


def test_a_replay_of_some_leaves_the_others_to_a_later_one() -> None:
    broker = broker_with(letter(1), letter(2, "too_deep"), letter(3), letter(4, "too_deep"))
    replayed(broker, reason="too_deep")
    assert came_back(broker) == [b"2", b"4"]
    replayed(broker, window=Window(since_ms=3_000))
    assert came_back(broker) == [b"2", b"3", b"4"]
    replayed(broker)
    assert came_back(broker) == [b"1", b"2", b"3", b"4"]


def test_what_was_sent_back_is_counted_as_such() -> None:
    broker = broker_with(letter(1), letter(2, "too_deep"))
    replayed(broker, reason="too_deep")
    tallies = by_reason(chosen(broker, DEAD, Window()), SentBack(broker, DEAD))
    assert {reason: tally.sent_back for reason, tally in tallies.items()} == {"malformed": 0, "too_deep": 1}


def test_what_cannot_be_sent_back_is_counted_and_stays() -> None:
    broker = broker_with(
        letter(1),
        letter(2, value=b"x" * 2_000),
        letter(3, "empty", value=b""),
        letter(4, topic="others"),
        undecodable_message(Partition(SOURCE, 0), 10, 20, topic=DEAD),
        Message(DEAD, b"k", b"no letter"),
    )
    replay = replayed(broker)
    assert replay.sendable == {"malformed": 1}
    assert replay.held_back == {
        "cut": 1,
        "empty": 1,
        "from a topic that is not read": 1,
        "a batch that could not be decoded": 1,
    }
    assert came_back(broker) == [b"1"]


def test_letters_that_come_after_they_were_counted_are_not_sent() -> None:
    broker = broker_with(letter(1))
    with closing(broker.stream([DEAD])) as stream:
        replay = made(broker)
        late = letter(2)
        broker.append(DEAD, late.value, late.key, late.headers, partition=0)
        assert [*replay.send(stream)] == [1]
    assert came_back(broker) == [b"1"]


@pytest.mark.parametrize("lots", range(3))
def test_a_replay_that_breaks_off_is_gone_on_with_by_the_next(lots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.dead_letters._AT_ONCE", 2)
    broker, sound, left = broker_with(*map(letter, range(1, 7))), MemoryStream.publish, iter(range(lots))

    def publish(stream: MemoryStream, *arguments: Any) -> Any:
        if next(left, None) is None:
            raise BrokerUnavailable("gone")
        return sound(stream, *arguments)

    with monkeypatch.context() as broken, closing(broker.stream([DEAD])) as stream:
        broken.setattr(MemoryStream, "publish", publish)
        with pytest.raises(BrokerUnavailable):
            [*made(broker).send(stream)]
    assert len(came_back(broker)) == 2 * lots
    assert replayed(broker).held_back == ({"sent back before": 2 * lots} if lots else {})
    assert Counter(came_back(broker)) == Counter(b"%d" % number for number in range(1, 7))


def test_a_second_replay_at_the_same_time_ends_the_first() -> None:
    broker = broker_with(letter(1))
    first = broker.stream([DEAD])
    earlier = made(broker)
    replayed(broker)
    with pytest.raises(Fenced):
        [*earlier.send(first)]
    assert came_back(broker) == [b"1"]

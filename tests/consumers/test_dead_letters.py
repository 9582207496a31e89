from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from consumers.batch import DeadLetter, Header, Message, Partition, RawBatch
from consumers.dead_letters import Letter, dead_letter_message, letters, receipt, receipts, undecodable_message
from consumers.decode import DeadLetterReason
from tests.consumers.test_decode import raw_batch

LETTER = DeadLetter(0, "malformed", "JSON is malformed: é")


def test_a_dead_letter_is_the_record_with_the_reason_and_its_source() -> None:
    batch = raw_batch([b"{"], key=b"k", headers=[("trace", b"\xff")])
    message = dead_letter_message(batch, LETTER, topic="dead", max_bytes=1000)
    assert message[:3] == ("dead", b"k", b"{")
    assert message.headers == (
        ("trace", b"\xff"),
        ("offnominal.reason", b"malformed"),
        ("offnominal.error", "JSON is malformed: é".encode()),
        ("offnominal.topic", b"machines"),
        ("offnominal.partition", b"3"),
        ("offnominal.offset", b"100"),
        ("offnominal.timestamp", b"1700000000000"),
    )


def test_a_null_value_and_a_null_key_stay_null() -> None:
    assert dead_letter_message(raw_batch([None], key=b"k"), LETTER, topic="dead", max_bytes=1000).value is None
    assert dead_letter_message(raw_batch([b"{"]), LETTER, topic="dead", max_bytes=1000).key is None


def test_a_value_of_just_the_allowed_size_stays_whole() -> None:
    message = dead_letter_message(raw_batch([b"x" * 1000]), LETTER, topic="dead", max_bytes=1000)
    assert message.value == b"x" * 1000
    assert "offnominal.sha256" not in dict(message.headers)


def test_a_larger_value_is_cut_and_the_hash_is_of_the_whole() -> None:
    value = bytes(range(256)) * 8
    message = dead_letter_message(raw_batch([value]), LETTER, topic="dead", max_bytes=1000)
    headers = dict(message.headers)
    assert message.value == value[:1000]
    assert headers["offnominal.sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert headers["offnominal.bytes"] == b"2048"
    assert headers["offnominal.cut"] == b"value"


@pytest.mark.parametrize("headers", [[("h", b"x" * 5_000)] * 400, [("", b"")] * 100_000, [("é" * 50_000, b"")]])
def test_a_dead_letter_is_bounded_whatever_its_key_and_headers(headers: list[Header]) -> None:
    batch = raw_batch([b"x" * 1_000_000], key=b"k" * 1_000_000, headers=headers)
    message = dead_letter_message(batch, LETTER, topic="dead", max_bytes=100_000)
    size = len(message.key or b"") + len(message.value or b"")
    size += sum(len(name.encode()) + len(value) + 10 for name, value in message.headers)
    assert size <= 100_000 * 9 / 8 + 2000
    assert dict(message.headers)["offnominal.cut"] == b"value, key, headers"


def test_a_replayed_dead_letter_says_only_what_was_wrong_this_time() -> None:
    batch = raw_batch([b"{"], headers=[("offnominal.reason", b"empty"), ("offnominal.sha256", b"old")])
    headers = dead_letter_message(batch, LETTER, topic="dead", max_bytes=1000).headers
    assert [value for name, value in headers if name == "offnominal.reason"] == [b"malformed"]
    assert "offnominal.sha256" not in dict(headers)


def test_a_record_with_neither_key_nor_value_gets_an_empty_key_as_clients_refuse_it_otherwise() -> None:
    message = dead_letter_message(raw_batch([None]), LETTER, topic="dead", max_bytes=1000)
    assert (message.key, message.value) == (b"", None)


def topic_of(*messages: Message, timestamp: int = 1_767_225_600_000) -> RawBatch:
    """The dead-letter topic as it holds these messages, from offset 0 of its partition 0."""
    n = len(messages)
    return RawBatch(
        partitions=(Partition("dead", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        timestamps=np.full(n, timestamp),
        keys=[message.key for message in messages],
        values=[message.value for message in messages],
        headers=[message.headers for message in messages],
    )


def read(message: Message) -> Letter:
    (letter,) = letters(topic_of(message))
    return letter


def test_what_is_read_again_is_what_was_written() -> None:
    batch = raw_batch([b"{"], key=b"k", headers=[("trace", b"\xff")])
    assert read(dead_letter_message(batch, LETTER, topic="dead", max_bytes=1000)) == Letter(
        partition=Partition("dead", 0),
        offset=0,
        time=1_767_225_600_000,
        reason=DeadLetterReason.MALFORMED,
        error="JSON is malformed: é",
        source=Partition("machines", 3),
        first=100,
        end=101,
        key=b"k",
        value=b"{",
        headers=(("trace", b"\xff"),),
        cut="",
        size=1,
    )


def test_what_is_sent_back_is_the_record_and_where_it_has_been() -> None:
    batch = raw_batch([b"{"], key=b"k", headers=[("trace", b"\xff")])
    sent = read(dead_letter_message(batch, LETTER, topic="dead", max_bytes=1000)).sent_back()
    assert sent == Message("machines", b"k", b"{", (("trace", b"\xff"), ("offnominal.replayed", b"dead[0]@0")), 3)


@pytest.mark.parametrize(
    ("value", "topics", "hindrance"),
    [
        (b"{", ["machines"], None),
        (b"{", ["others"], "from a topic that is not read"),
        (b"x" * 1001, ["machines"], "cut"),
        (b"", ["machines"], "empty"),
        (None, ["machines"], "empty"),
    ],
)
def test_only_whole_records_of_the_topics_that_are_read_can_be_sent_back(
    value: bytes | None, topics: Sequence[str], hindrance: str | None
) -> None:
    message = dead_letter_message(raw_batch([value], key=b"k"), LETTER, topic="dead", max_bytes=1000)
    assert read(message).hindrance(topics) == hindrance


def test_a_batch_that_could_not_be_decoded_is_told_by_its_range_and_stays() -> None:
    letter = read(undecodable_message(Partition("machines", 3), 500, 620, topic="dead"))
    assert (letter.reason, letter.source, letter.first, letter.end) == ("undecodable", ("machines", 3), 500, 620)
    assert letter.value is None
    assert letter.hindrance(["machines"]) == "a batch that could not be decoded"


FOREIGN: list[tuple[Header, ...]] = [
    (),
    (("offnominal.reason", b"malformed"),),
    (("offnominal.reason", b"\x1b[2J"), ("offnominal.error", b""), ("offnominal.topic", b"t")),
]
WHOLE = dict(dead_letter_message(raw_batch([b"{"]), LETTER, topic="dead", max_bytes=1000).headers)


@pytest.mark.parametrize(
    "headers",
    [
        *FOREIGN,
        *(tuple((WHOLE | {f"offnominal.{name}": b"\xffx"}).items()) for name in ("reason", "offset", "partition")),
        tuple((WHOLE | {"offnominal.offset": b"9" * 5_000}).items()),
    ],
)
def test_whatever_else_lies_in_the_topic_is_passed_over(headers: tuple[Header, ...]) -> None:
    assert [*letters(topic_of(Message("dead", None, b"{", headers)))] == []


@pytest.mark.parametrize("timestamp", [-1, 2**62])
def test_a_letter_that_no_calendar_holds_is_passed_over(timestamp: int) -> None:
    message = dead_letter_message(raw_batch([b"{"]), LETTER, topic="dead", max_bytes=1000)
    assert [*letters(topic_of(message, timestamp=timestamp))] == []


def test_a_receipt_names_the_letters_and_is_none_itself() -> None:
    message = dead_letter_message(raw_batch([b"{"]), LETTER, topic="dead", max_bytes=1000)
    first, second = letters(topic_of(message, message))
    other = second._replace(partition=Partition("dead", 7))
    batch = topic_of(receipt([first, second, other]))
    (told,) = receipts(batch)
    assert {number: offsets.tolist() for number, offsets in told.items()} == {0: [0, 1], 7: [1]}
    assert [*letters(batch)] == []


def test_no_record_can_forge_a_receipt() -> None:
    message = dead_letter_message(raw_batch([b"{"]), LETTER, topic="dead", max_bytes=1000)
    forged = receipt([*letters(topic_of(message))])
    batch = raw_batch([forged.value], key=forged.key, headers=forged.headers)
    assert [*receipts(topic_of(dead_letter_message(batch, LETTER, topic="dead", max_bytes=1000)))] == []


@pytest.mark.parametrize("value", [None, b"", b"[1]", b'{"0": [1e99]}', b'{"0": [99999999999999999999]}', b"\xff"])
def test_a_receipt_that_is_none_is_passed_over(value: bytes | None) -> None:
    batch = topic_of(Message("dead", b"k", value, (("offnominal.receipt", b"1"),)))
    assert [*receipts(batch)] == []

"""The dead-letter topic: how a record that cannot be scored is written there, read again, and sent back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.batch import DeadLetter, Header, Message, Partition, RawBatch
from consumers.decode import DeadLetterReason

HEADER_PREFIX = "offnominal."
_RECEIPT = HEADER_PREFIX + "receipt"
_LAST_MS = 253_402_300_799_999  # the end of the year 9999


def dead_letter_message(batch: RawBatch, letter: DeadLetter, *, topic: str, max_bytes: int) -> Message:
    """The record as it came, with what was wrong with it and where it came from in headers `offnominal.*`.

    A value over `max_bytes` is cut to that; the size and SHA-256 of the whole go into `offnominal.bytes` and `.sha256`.
    A key over a sixteenth of `max_bytes` is cut to that, headers of the record beyond as much again are left out, and
    `offnominal.cut` names the parts that are not whole: a message has at most 9/8 of `max_bytes` and about 2,000 bytes.
    A null key of a null value becomes an empty one, as clients refuse to send a record that has neither.
    """
    value, key = batch.values[letter.row], batch.keys[letter.row]
    partition, offset = batch.source(letter.row)
    others = [header for header in batch.headers[letter.row] if not header[0].startswith(HEADER_PREFIX)]
    kept = _headers_within(others, max_bytes // 16)
    about = {**_about(letter.reason, letter.error, partition, offset), "timestamp": str(batch.timestamps[letter.row])}
    cut = ["headers"] * (len(kept) < len(others))
    if key is not None and len(key) > max_bytes // 16:
        key, cut = key[: max_bytes // 16], ["key", *cut]
    if value is not None and len(value) > max_bytes:
        about |= {"sha256": hashlib.sha256(value).hexdigest(), "bytes": str(len(value))}
        value, cut = value[:max_bytes], ["value", *cut]
    if cut:
        about["cut"] = ", ".join(cut)
    return Message(topic, b"" if key is None and value is None else key, value, (*kept, *_own(about)))


def undecodable_message(partition: Partition, first: int, end: int, *, topic: str) -> Message:
    """What stands for the records from offset `first` up to but not including `end`, which the client cannot decode.

    It has no value, the partition as its key, and `offnominal.end` beside the headers that every dead letter has.
    """
    error = f"The client cannot decode the batch of offsets {first} to {end - 1}: it is damaged, or inflates too far."
    about = {**_about(DeadLetterReason.UNDECODABLE, error, partition, first), "end": str(end)}
    return Message(topic, str(partition).encode(), None, _own(about))


class Letter(NamedTuple):
    """A dead letter as its topic holds it.

    It lies at `offset` of `partition` since `time` (epoch milliseconds), and came from the offsets of `source` from
    `first` up to but not including `end`. `headers` are the record's own; `cut` names the parts that are not whole, and
    `size` is that of the whole value in bytes.
    """

    partition: Partition
    offset: int
    time: int
    reason: DeadLetterReason
    error: str
    source: Partition
    first: int
    end: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    cut: str
    size: int

    def hindrance(self, topics: Sequence[str]) -> str | None:
        """Why it cannot be sent back to one of these topics, which are those that are read; None where it can."""
        if self.reason == DeadLetterReason.UNDECODABLE:
            return "a batch that could not be decoded"
        if not self.value:
            return "empty"
        if self.cut:
            return "cut"
        return None if self.source.topic in topics else "from a topic that is not read"

    def sent_back(self) -> Message:
        """The record as it came, for the topic it came from; `offnominal.replayed` says which letter it was."""
        mark = (HEADER_PREFIX + "replayed", f"{self.partition}@{self.offset}".encode())
        return Message(self.source.topic, self.key, self.value, (*self.headers, mark), self.source.number)


def letters(batch: RawBatch) -> Iterator[Letter]:
    """The dead letters among records of the dead-letter topic; whatever else lies there is passed over."""
    for row, headers in enumerate(batch.headers):
        own = {name.removeprefix(HEADER_PREFIX): text for name, text in headers if name.startswith(HEADER_PREFIX)}
        try:
            yield _letter(batch, row, own)
        except (KeyError, ValueError):
            continue


def receipt(sent: Sequence[Letter]) -> Message:
    """Says on the dead-letter topic which letters of it were sent back: their offsets by number of the partition.

    Published together with them, it lasts as long as they do. It cannot come about by a record that became a dead
    letter, as those keep no header `offnominal.*` of their own.
    """
    offsets: dict[int, list[int]] = {}
    for letter in sent:
        offsets.setdefault(letter.partition.number, []).append(letter.offset)
    topic = sent[0].partition.topic
    return Message(topic, _RECEIPT.encode(), msgspec.json.encode(offsets), ((_RECEIPT, str(len(sent)).encode()),))


def receipts(batch: RawBatch) -> Iterator[Mapping[int, NDArray[np.int64]]]:
    """The offsets that the receipts among these records tell of, by number of the partition; forgeries are skipped."""
    for row, headers in enumerate(batch.headers):
        if any(name == _RECEIPT for name, _ in headers):
            with suppress(ValueError, OverflowError):
                told = msgspec.json.decode(batch.values[row] or b"", type=dict[int, list[int]])
                yield {number: np.array(offsets, np.int64) for number, offsets in told.items()}


def _letter(batch: RawBatch, row: int, own: Mapping[str, bytes]) -> Letter:
    """Raises `KeyError` or `ValueError` where the record is no dead letter."""
    (partition, offset), value, time = batch.source(row), batch.values[row], int(batch.timestamps[row])
    first = int(own["offset"])
    if not 0 <= time <= _LAST_MS:
        raise ValueError(f"{partition}@{offset} has the time {time}: expected one from 1970 to 9999")
    return Letter(
        partition=partition,
        offset=offset,
        time=time,
        reason=DeadLetterReason(own["reason"].decode()),
        error=own["error"].decode(),
        source=Partition(own["topic"].decode(), int(own["partition"])),
        first=first,
        end=int(own.get("end", first + 1)),
        key=batch.keys[row],
        value=value,
        headers=tuple(header for header in batch.headers[row] if not header[0].startswith(HEADER_PREFIX)),
        cut=own.get("cut", b"").decode(),
        size=int(own.get("bytes", len(value or b""))),
    )


def _about(reason: str, error: str, source: Partition, offset: int) -> dict[str, str]:
    """What the headers of every dead letter say."""
    return {
        "reason": reason,
        "error": error,
        "topic": source.topic,
        "partition": str(source.number),
        "offset": str(offset),
    }


def _own(about: Mapping[str, str]) -> tuple[Header, ...]:
    return tuple((HEADER_PREFIX + name, text.encode()) for name, text in about.items())


def _headers_within(headers: Sequence[Header], max_bytes: int) -> list[Header]:
    """The first headers that together take at most `max_bytes`, with the lengths that go before names and values."""
    kept, size = [], 0
    for name, value in headers:
        size += len(name.encode()) + len(value) + 10
        if size > max_bytes:
            break
        kept.append((name, value))
    return kept

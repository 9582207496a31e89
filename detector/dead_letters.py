"""The dead letters of a detector: counted by reason, and sent back when what was wrong with them is mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Partition
from consumers.dead_letters import Letter, letters, receipt, receipts
from consumers.stream import Broker, Stream, Window

_AT_ONCE = 1_000
"""Letters sent back in one transaction."""


@dataclass
class Tally:
    """The letters of one reason: how many, from when to when (epoch milliseconds), out of which partitions, and the
    newest of them."""

    newest: Letter
    first_ms: int
    last_ms: int
    letters: int = 0
    sent_back: int = 0
    sources: Counter[Partition] = field(default_factory=Counter)


class SentBack:
    """Which letters of a topic were sent back, as its receipts tell. Eight bytes a letter."""

    def __init__(self, broker: Broker, topic: str) -> None:
        told: dict[int, list[NDArray[np.int64]]] = {}
        for batch in broker.read([topic], Window()):
            for found in receipts(batch):
                for number, offsets in found.items():
                    told.setdefault(number, []).append(offsets)
        self._offsets = {number: np.unique(np.concatenate(parts)) for number, parts in told.items()}

    def __contains__(self, letter: Letter) -> bool:
        offsets = self._offsets.get(letter.partition.number, np.empty(0, np.int64))
        place = int(np.searchsorted(offsets, letter.offset))
        return place < len(offsets) and int(offsets[place]) == letter.offset


def chosen(broker: Broker, topic: str, window: Window, reason: str | None = None) -> Iterator[Letter]:
    """The letters in a stretch of the topic, of one reason or of all."""
    for batch in broker.read([topic], window):
        yield from (letter for letter in letters(batch) if reason in (None, letter.reason))


def by_reason(found: Iterable[Letter], sent_back: SentBack) -> dict[str, Tally]:
    """The letters of each reason, the most frequent first."""
    tallies: dict[str, Tally] = {}
    for letter in found:
        tally = tallies.setdefault(letter.reason, Tally(letter, letter.time, letter.time))
        tally.letters += 1
        tally.sent_back += letter in sent_back
        tally.sources[letter.source] += 1
        tally.first_ms = min(tally.first_ms, letter.time)
        if letter.time >= tally.last_ms:
            tally.last_ms, tally.newest = letter.time, letter
    return dict(sorted(tallies.items(), key=lambda item: -item[1].letters))


class Replay:
    """Sends letters back to the topics they came from, each once however often that is asked for.

    With each lot goes a receipt to the dead-letter topic, in one transaction. It is read here, so a `Replay` is made
    after the stream is opened that it sends through: that has ended whoever was sending, and settled what they left.
    """

    def __init__(
        self, broker: Broker, topic: str, window: Window, *, reason: str | None, topics: Sequence[str]
    ) -> None:
        self._broker = broker
        self._reason = reason
        self._topics = topics
        self._sent_back = SentBack(broker, topic)
        self._spans: dict[Partition, tuple[int, int]] = {}
        self.sendable, self.held_back = Counter[str](), Counter[str]()
        for letter in chosen(broker, topic, window, reason):
            if hindrance := self._hindrance(letter):
                self.held_back[hindrance] += 1
            else:
                self.sendable[letter.reason] += 1
                first, _ = self._spans.get(letter.partition, (letter.offset, 0))
                self._spans[letter.partition] = first, letter.offset + 1

    def send(self, stream: Stream) -> Iterator[int]:
        """Sends what is counted in `sendable`, by reason, and gives how many were sent with each lot.

        What is `held_back`, counted by why, stays where it is.
        """
        for batch in self._broker.fetch(self._spans):
            due = [it for it in letters(batch) if self._reason in (None, it.reason) and not self._hindrance(it)]
            for start in range(0, len(due), _AT_ONCE):
                lot = due[start : start + _AT_ONCE]
                stream.publish([*(letter.sent_back() for letter in lot), receipt(lot)], {})
                yield len(lot)

    def _hindrance(self, letter: Letter) -> str | None:
        return "sent back before" if letter in self._sent_back else letter.hindrance(self._topics)

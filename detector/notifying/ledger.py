"""How far a channel has come in one partition of the alert topic: what is settled, alert by alert."""

from __future__ import annotations

import re
from itertools import groupby

from consumers.batch import Position

LONGEST_NOTE = 4_000
"""Characters that go with a position; brokers take 4,096 bytes (offset.metadata.max.bytes)."""
LONGEST_RUN = 1_000_000
"""Alerts settled in a row beyond the position: more than any night brings, so that no note fills the memory."""
_NOTE = re.compile(r"\d{1,18}-\d{1,18}(,\d{1,18}-\d{1,18})*")


class Ledger:
    """The position is the first alert that is not settled; those beyond it that are stand in a note beside it.

    So an alert that is held back in quiet hours holds back the position, and a grave one that passed it is not sent
    again after a restart. Where a note would be too long its end is left out, and would be sent again.
    """

    def __init__(self, position: Position) -> None:
        self._next = position.offset
        self._open: set[int] = set()
        self._settled = set(_offsets(position))

    def is_settled(self, offset: int) -> bool:
        return offset in self._settled

    def take_in(self, offset: int) -> None:
        """The next alert, which is not settled yet."""
        self._next = offset + 1
        self._open.add(offset)

    def settle(self, offset: int) -> None:
        """It was sent, is not for this channel, or was given up on."""
        self._next = max(self._next, offset + 1)
        self._open.discard(offset)
        self._settled.add(offset)

    def position(self) -> Position:
        """What to commit. Settled alerts below it are forgotten."""
        first = min(self._open, default=self._next)
        self._settled = {offset for offset in self._settled if offset >= first}
        told = sorted(self._open | self._settled)
        runs = [[*run] for settled, run in groupby(told, self._settled.__contains__) if settled]
        note = ",".join(f"{run[0] - first}-{run[-1] - first}" for run in runs)
        if len(note) > LONGEST_NOTE:
            note = note[: note.rindex(",", 0, LONGEST_NOTE)]
        return Position(first, note)


def _offsets(position: Position) -> set[int]:
    """Of a note; nothing where it is none of ours."""
    if not _NOTE.fullmatch(position.snapshot) or len(position.snapshot) > LONGEST_NOTE:
        return set()
    found: set[int] = set()
    for run in position.snapshot.split(","):
        first, _, last = run.partition("-")
        if int(last) - int(first) > LONGEST_RUN:
            return set()
        found.update(range(position.offset + int(first), position.offset + int(last) + 1))
    return found

"""What a member of a consumer group does with any client: what a poll tells, and which publications are refused."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from consumers.batch import Message, Moved, Partition, Position, RawBatch
from consumers.errors import Retry
from consumers.kafka_publisher import Identity
from consumers.placing import Placed, Placement
from consumers.reading import Reader
from consumers.records import Run, to_batch
from consumers.settings import KafkaSettings

SILENCE_S = 10.0
"""After so long without a record the broker is asked for the ends, to see that it is there (seconds)."""


@dataclass
class Ownership:
    """What the group has given this member. `interrupted` were given up since it was last emptied, whether or not they
    came back.
    """

    owned: set[Partition] = field(default_factory=set)
    interrupted: set[Partition] = field(default_factory=set)

    def gain(self, partitions: set[Partition]) -> None:
        self.owned |= partitions

    def lose(self, partitions: set[Partition]) -> None:
        self.owned -= partitions
        self.interrupted |= partitions


class Member(ABC):
    """A `consumers.stream.Stream` but for the client, which changes `_ownership` within `poll` and `_deliver` only.

    A stream that has raised anything but a refusal of positions is of no more use; it raises `Retry` from then on. It
    does so too where a topic that it reads is deleted.
    """

    _reader: Reader
    _placing: Placement

    def __init__(
        self,
        settings: KafkaSettings,
        identity: Identity,
        topics: Sequence[str],
        require: Callable[[Sequence[str]], object],
    ) -> None:
        self._settings = settings
        self._timeout_s = settings.request_timeout_s
        self._identity = identity
        self._topics = topics
        self._require = require
        self._ownership = Ownership()
        self._told: dict[Partition, int] = {}  # the next offset of each, as the caller knows it
        self._moved: dict[Partition, Moved] = {}
        self._ends: dict[Partition, int] = {}
        self._known_topics: set[str] = set()
        self._unusable: str | None = None
        self._polled_at = self._heard_at = time.monotonic()

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        self._refuse_if_unusable()
        with self._failing("polling"):
            found = self._read(max_records, timeout_s)
            self._refuse_if_gone()
            self._ask_if_silent(found)
            ownership = self._ownership
            revoked = self._told.keys() & ownership.interrupted
            gained = ownership.owned - (self._told.keys() - revoked)
            placed = self._placing.place(gained, ownership.owned)
            self._reader.forget(revoked)
            moved = {at: why for at, why in self._moved.items() if at not in gained and at in ownership.owned}
            # What was found of those that were gained comes again, from their position.
            found = {at: records for at, records in found.items() if at not in gained}
            anew = {at: Position(why.found) for at, why in moved.items() if why.reason == "recreated"}
            self._follow(ownership.owned - gained, placed, moved, found)
            self._moved.clear()
            ownership.interrupted.clear()
            self._polled_at = time.monotonic()
            return to_batch(
                found,
                assigned={**placed.positions, **anew},
                revoked=frozenset(revoked | anew.keys()),
                moved={**moved, **placed.moved},
                ends=self._latest_ends(),
            )

    def publish(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        self._refuse_if_unusable()
        self._refuse_if_late()
        self._refuse_if_lost(positions)
        if new := sorted({message.topic for message in messages} - self._known_topics):
            self._require(new)
            self._known_topics.update(new)
        if not messages and not positions:
            return []
        with self._failing("publishing"):
            return self._deliver(messages, positions)

    def rewind(self, partition: Partition, offset: int) -> int:
        self._refuse_if_unusable()
        self._refuse_if_lost([partition])
        with self._failing("rewinding"):
            found = max(offset, self._reader.firsts([partition])[partition])
            self._reader.seek({partition: found})
        self._told[partition] = found
        return found

    def close(self) -> None:
        if self._unusable != "closed":
            self._unusable = "closed"
            self._close()

    @abstractmethod
    def _deliver(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        """Publishes what is not refused for reasons that are known here."""

    @abstractmethod
    def _close(self) -> None:
        """Ends the client, within a deadline and without an error."""

    @abstractmethod
    def _failing(self, action: str) -> AbstractContextManager[None]:
        """Errors of the client in our words; whatever is raised, `_unusable` says why the stream is not used after."""

    def _read(self, max_records: int, timeout_s: float) -> dict[Partition, Run]:
        found, moved = self._reader.poll(max_records, timeout_s)
        self._moved |= moved
        return found

    def _ask_if_silent(self, found: Mapping[Partition, Run]) -> None:
        """Clients poll a broker that is gone as if it had nothing to say. Asks even where nothing is owned."""
        if not found:
            if time.monotonic() - self._heard_at < SILENCE_S:
                return
            self._ends |= self._reader.ends(self._ownership.owned | {Partition(self._topics[0], 0)})
        self._heard_at = time.monotonic()

    def _follow(
        self,
        kept: set[Partition],
        placed: Placed,
        moved: Mapping[Partition, Moved],
        found: Mapping[Partition, Run],
    ) -> None:
        """Where the caller goes on in each partition, in the order in which a batch tells it."""
        self._told = {
            **{at: offset for at, offset in self._told.items() if at in kept},
            **{at: position.offset for at, position in placed.positions.items()},
            **{at: why.found for at, why in moved.items()},
            **{at: run.following for at, run in found.items()},
        }
        self._ends |= placed.ends

    def _latest_ends(self) -> dict[Partition, int]:
        """Where the client has come to the end, what it passed over after the last record was none."""
        self._ends |= self._reader.highs(self._told)
        reached = self._reader.positions(self._told)
        return {at: told if reached[at] >= self._ends[at] else self._ends[at] for at, told in self._told.items()}

    def _refuse_if_lost(self, partitions: Iterable[Partition]) -> None:
        """One that was lost and came back within `publish` counts as lost: another may have gone on with it."""
        if lost := sorted(set(partitions) - (self._told.keys() - self._ownership.interrupted)):
            raise Retry(f"{self._identity.doing('publishing')}: no longer owner of {', '.join(map(str, lost))}")

    def _refuse_if_late(self) -> None:
        late_s, most_s = time.monotonic() - self._polled_at, self._settings.max_poll_interval_s
        if late_s > most_s:
            raise Retry(
                f"{self._identity.doing('publishing')}: {late_s:.1f} s since the last poll, after "
                f"kafka.max_poll_interval_s = {most_s:g} the group gives the partitions to others"
            )

    def _refuse_if_gone(self) -> None:
        if gone := self._reader.gone(self._topics):
            topics = ", ".join(map(repr, gone))
            raise Retry(
                f"{self._identity.doing('polling')}: topic {topics} has been deleted; open again when it is back"
            )

    def _refuse_if_unusable(self) -> None:
        if self._unusable:
            raise Retry(f"this stream cannot be used any more, open another: {self._unusable}")

"""One member of a consumer group with its own producer, on kafka-python: the `Stream` of `KafkaPythonBroker`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka import errors as kafka
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata

from consumers.batch import Message, Moved, Partition, Position, RawBatch
from consumers.connection import consumer_arguments, reaching, translated, within
from consumers.errors import Retry
from consumers.fetching import bounded_consumer
from consumers.kafka_placing import Placed, Placing
from consumers.kafka_publisher import Identity, Publisher
from consumers.kafka_reader import KafkaReader
from consumers.records import Run, to_batch
from consumers.settings import KafkaSettings

_HEARTBEAT_S = 3.0
_SILENCE_S = 10.0


class _Ownership:
    """What the group has given this member. kafka-python calls it within `poll` only, so no lock is needed.

    `interrupted` were given up since it was last emptied, whether or not they came back; `lost` says that the group
    took them away unasked.
    """

    def __init__(self) -> None:
        self.owned: set[Partition] = set()
        self.interrupted: set[Partition] = set()
        self.lost = False

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.owned |= {Partition(*key) for key in assigned}

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        lost = {Partition(*key) for key in revoked}
        self.owned -= lost
        self.interrupted |= lost

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)
        self.lost = True


ConsumerRebalanceListener.register(_Ownership)


class KafkaPythonStream:
    """A static, cooperative member: a restart within the session timeout gets its partitions back at once.

    For the same reason `close` does not give them to others: those get them after the session timeout. Heartbeats go
    on in the background, so what is done between two polls may take up to `max_poll_interval_s`; after longer,
    `publish` refuses. A newer stream of the same instance is noticed by `publish` at once, and by `poll` within 3 s.
    A broker that is gone while there is nothing to publish is noticed by polling: the first poll that finds no record
    10 s after the last one asks it for the ends, and raises `BrokerUnavailable` when `request_timeout_s` have passed.

    A stream that has raised anything but a refusal of positions is of no more use; it raises `Retry` from then on. It
    does so too where a topic that it reads is deleted. What can come twice `kafka_publisher.Publisher` says, where the
    partitions that are gained begin `kafka_placing.Placing`, and what moves them `kafka_reader.KafkaReader`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        client_id: str,
        topics: Sequence[str],
        begin: Mapping[Partition, int],
        seen: set[str],
        max_bytes: int,
        require: Callable[[Sequence[str]], object],
    ) -> None:
        self._settings = settings
        self._timeout_s = settings.request_timeout_s
        self._topics = topics
        self._require = require
        self._ownership = _Ownership()
        self._told: dict[Partition, int] = {}  # the next offset of each, as the caller knows it
        self._moved: dict[Partition, Moved] = {}
        self._ends: dict[Partition, int] = {}
        self._known_topics: set[str] = set()
        self._joined = False
        self._unusable: str | None = None
        exactly_once = settings.delivery == "exactly_once"
        self._identity = Identity(group, settings.instance, f"{group}-{settings.instance}" if exactly_once else None)
        with reaching(settings, self._identity.doing("opening a stream")), ExitStack() as opened:
            self._publisher = Publisher(settings, self._identity, client_id)  # before positions are read
            opened.callback(self._publisher.close)
            self._consumer = bounded_consumer(max_bytes, **_consumer_arguments(settings, group, client_id))
            opened.callback(self._close_consumer)
            self._consumer.subscribe(list(topics), listener=self._ownership)
            # Loads the topics' metadata: who leads a group without it assigns nothing to anyone.
            self._consumer.end_offsets([TopicPartition(topic, 0) for topic in topics])
            opened.pop_all()
        self._reader = KafkaReader(self._consumer)
        self._placing = Placing(self._reader, settings, begin, seen)
        self._polled_at = self._heard_at = time.monotonic()

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        self._refuse_if_unusable()
        with self._failing("polling"):
            found = self._poll_reader(max_records, timeout_s)
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
        offsets = {TopicPartition(*key): OffsetAndMetadata(*position, -1) for key, position in positions.items()}
        if not messages and not offsets:
            return []
        with self._failing("publishing"):
            if offsets and not self._identity.transactional_id:
                self._await_stability()
                self._refuse_if_lost(positions)
            return self._publisher.publish(messages, offsets, self._consumer)

    def rewind(self, partition: Partition, offset: int) -> int:
        self._refuse_if_unusable()
        self._refuse_if_lost([partition])
        with self._failing("rewinding"):
            found = max(offset, self._reader.firsts([partition])[partition])
            self._reader.seek({partition: found})
        self._told[partition] = found
        return found

    def close(self) -> None:
        if self._unusable == "closed":
            return
        self._unusable = "closed"
        self._close_consumer()
        self._publisher.close()

    def _close_consumer(self) -> None:
        with suppress(kafka.KafkaError, RuntimeError):  # RuntimeError: its event loop has ended already
            within(self._timeout_s, lambda: self._consumer.close(autocommit=False))

    def _poll_reader(self, max_records: int, timeout_s: float) -> dict[Partition, Run]:
        found, moved = self._reader.poll(max_records, timeout_s)
        self._moved |= moved
        self._join_again_if_left_behind()
        return found

    def _join_again_if_left_behind(self) -> None:
        """Four states that kafka-python does not leave by itself.

        A metadata change made the leader join again, and its poll ended before the group's answer came: it never looks
        for the answer, and would own nothing, send no heartbeat, and not notice.
        A heartbeat was answered that a newer stream has this instance: it ends its heartbeats and says nothing; to who
        joins, the broker says so.
        A leader that comes back within the session timeout gets its old assignment as if it followed: nobody would
        watch for new partitions. Joining a second time it leads again. A true follower cannot tell that it is one, and
        does the same; it costs a rebalance in which all keep what they have.
        What it owned when it asked to join was lost before the answer came: the leader keeps that from all others until
        it hears that it was given up, and kafka-python says so of what is revoked alone.
        """
        state, coordinator = self._consumer.group_metadata().state, self._consumer._coordinator
        stable = state == MemberState.STABLE
        follows = not self._joined and not coordinator._is_leader
        if state == MemberState.REBALANCING or (
            stable and (follows or self._ownership.lost or not coordinator._heartbeat_enabled)
        ):
            coordinator.request_rejoin()
        if stable:
            self._joined, self._ownership.lost = True, False

    def _ask_if_silent(self, found: Mapping[Partition, Run]) -> None:
        """kafka-python polls a broker that is gone as if it had nothing to say. Asks even where nothing is owned."""
        if not found:
            if time.monotonic() - self._heard_at < _SILENCE_S:
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

    def _await_stability(self) -> None:
        """Lets a rebalance under way come to its end: kafka-python commits no positions until it has.

        Records that come of newly assigned partitions are left: the next `poll` sets their positions.
        """
        deadline = time.monotonic() + self._timeout_s
        while self._consumer.group_metadata().state != MemberState.STABLE:
            if time.monotonic() > deadline:
                raise kafka.KafkaTimeoutError(f"the group is still rebalancing after {self._timeout_s:g} s")
            held = self._consumer.assignment() - self._consumer.paused()
            self._consumer.pause(*held)
            self._poll_reader(1, 0.1)
            self._consumer.resume(*held & self._consumer.assignment())

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

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        """Errors of kafka-python in our words; whatever is raised, the stream is not used after it."""
        try:
            yield
        except kafka.KafkaError as error:
            failure = translated(self._publisher.cause(error), self._identity.doing(action))
            self._unusable = str(failure)
            raise failure from error
        except Exception as error:
            self._unusable = str(error)
            raise


def _consumer_arguments(settings: KafkaSettings, group: str, client_id: str) -> dict[str, Any]:
    session_ms = int(settings.session_timeout_s * 1000)
    return {
        **consumer_arguments(settings, client_id),
        "group_id": group,
        "group_instance_id": settings.instance,
        "partition_assignment_strategy": [CooperativeStickyAssignor()],
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": min(int(_HEARTBEAT_S * 1000), session_ms // 3),
        "max_poll_interval_ms": int(settings.max_poll_interval_s * 1000),
    }

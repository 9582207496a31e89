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

from consumers.batch import Message, Partition, Position
from consumers.connection import consumer_arguments, reaching, translated, within
from consumers.fetching import bounded_consumer
from consumers.kafka_placing import Placing
from consumers.kafka_publisher import Identity, Publisher
from consumers.kafka_reader import KafkaReader
from consumers.member import Member, Ownership
from consumers.records import Run
from consumers.settings import KafkaSettings

_HEARTBEAT_S = 3.0


class _Ownership(Ownership):
    """kafka-python calls it within `poll` only, so no lock is needed. `lost` says that the group took partitions away
    unasked."""

    lost = False

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.gain({Partition(*key) for key in assigned})

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.lose({Partition(*key) for key in revoked})

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)
        self.lost = True


ConsumerRebalanceListener.register(_Ownership)


class KafkaPythonStream(Member):
    """A static, cooperative member: a restart within the session timeout gets its partitions back at once.

    For the same reason `close` does not give them to others: those get them after the session timeout. Heartbeats go
    on in the background, so what is done between two polls may take up to `max_poll_interval_s`; after longer,
    `publish` refuses. A newer stream of the same instance is noticed by `publish` at once, and by `poll` within 3 s.
    A broker that is gone while there is nothing to publish is noticed by polling: the first poll that finds no record
    10 s after the last one asks it for the ends, and raises `BrokerUnavailable` when `request_timeout_s` have passed.

    What can come twice `kafka_publisher.Publisher` says, where the partitions that are gained begin
    `placing.Placement`, and what moves them `kafka_reader.KafkaReader`.
    """

    _ownership: _Ownership

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
        super().__init__(settings, Identity.of(settings, group), topics, require)
        self._ownership = _Ownership()
        self._joined = False
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

    def _read(self, max_records: int, timeout_s: float) -> dict[Partition, Run]:
        found = super()._read(max_records, timeout_s)
        self._join_again_if_left_behind()
        return found

    def _deliver(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        offsets = {TopicPartition(*key): OffsetAndMetadata(*position, -1) for key, position in positions.items()}
        if offsets and not self._identity.transactional_id:
            self._await_stability()
            self._refuse_if_lost(positions)
        return self._publisher.publish(messages, offsets, self._consumer)

    def _close(self) -> None:
        self._close_consumer()
        self._publisher.close()

    def _close_consumer(self) -> None:
        with suppress(kafka.KafkaError, RuntimeError):  # RuntimeError: its event loop has ended already
            within(self._timeout_s, lambda: self._consumer.close(autocommit=False))

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
            self._read(1, 0.1)
            self._consumer.resume(*held & self._consumer.assignment())

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

"""One member of a consumer group with its own producer, on confluent-kafka: the `Stream` of `ConfluentBroker`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.batch import Message, Partition, Position
from consumers.confluent_connection import (
    client_properties,
    code_of,
    commit,
    consumer_properties,
    reaching,
    results,
    to_keys,
    translated,
    within,
)
from consumers.confluent_publisher import ConfluentPublisher
from consumers.confluent_reader import ConfluentReader, Reading, Recourse
from consumers.errors import Retry, TopicMissing
from consumers.kafka_publisher import Identity
from consumers.member import Member, Ownership
from consumers.placing import Placement
from consumers.reading import Found
from consumers.settings import KafkaSettings

_HEARTBEAT_S = 3.0
_GIVING_UP_S = 0.05
_LEFT_BEHIND = (KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID)


class ConfluentStream(Member):
    """A static, cooperative member, as `kafka_member.KafkaPythonStream` is, with the same promises and deadlines.

    librdkafka fetches, joins and sends heartbeats in the background, but changes what is owned within `poll` alone.
    What it is given it does not read before `Placement` has said from where.
    """

    _reader: ConfluentReader

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
        recourse: Recourse,
    ) -> None:
        super().__init__(settings, Identity.of(settings, group), topics, require)
        self._rejoined = False
        with reaching(settings, self._identity.doing("opening a stream")), ExitStack() as opened:
            self._publisher = ConfluentPublisher(settings, self._identity, client_id)  # before positions are read
            opened.callback(self._publisher.close)
            self._admin = opened.enter_context(AdminClient(client_properties(settings, client_id)))
            self._consumer = Consumer(_consumer_properties(settings, group, client_id, max_bytes))
            opened.callback(self._close_consumer)
            reader = ConfluentReader(
                self._consumer, self._admin, topics, recourse, max_bytes=max_bytes, timeout_s=self._timeout_s
            )
            self._reader = reader
            self._placing = _Placing(reader, self._consumer, settings, begin, seen)
            self._rebalance = _Rebalance(self._ownership, reader.reading)
            self._subscribe()
            self._opened = opened.pop_all()

    def _read(self, max_records: int, timeout_s: float) -> Found:
        found = super()._read(max_records, timeout_s)
        if self._ownership.owned and not self._rejoined:
            self._rejoined = True
            self._join_again_if_left_behind()
        return found

    def _deliver(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        if positions and not self._consumer.memberid():  # has no generation by which the broker could refuse it
            raise Retry(f"{self._identity.doing('publishing')}: this member has lost its place in the group")
        return self._publisher.publish(messages, positions, self._consumer)

    def _close(self) -> None:
        self._opened.close()

    def _close_consumer(self) -> None:
        with suppress(KafkaException, RuntimeError):
            within(self._timeout_s, self._leave)

    def _leave(self) -> None:
        """Gives up what is owned before closing, as a static member without telling the group.

        librdkafka may wait for ever, holding the interpreter's lock, where that happens within its `close`.
        """
        reading = self._reader.reading
        self._consumer.unsubscribe()
        reading.woken = True
        while reading.woken or self._ownership.owned:
            reading.woken = False
            self._consumer.consume(1, _GIVING_UP_S)
        self._consumer.close()

    def _subscribe(self) -> None:
        news = self._rebalance
        self._consumer.subscribe(
            list(self._topics), on_assign=news.on_assign, on_revoke=news.on_revoke, on_lost=news.on_revoke
        )

    def _join_again_if_left_behind(self) -> None:
        """A leader that comes back within the session timeout gets its old assignment as if it followed.

        Then partitions that were added while it was away would be nobody's; joining anew it gives them out.
        """
        asked = self._admin.describe_consumer_groups([self._identity.group], request_timeout=self._timeout_s)
        group = results(asked, self._timeout_s)[self._identity.group]
        given = {
            Partition(key.topic, key.partition)
            for member in group.members
            for key in member.assignment.topic_partitions
        }
        if group.state == ConsumerGroupState.STABLE and self._reader.partitions(self._topics) - given:
            self._consumer.unsubscribe()
            self._subscribe()

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            failure = translated(error, self._identity.doing(action))
            if isinstance(failure, TopicMissing):  # it was there: whether it comes back, opening again finds out
                failure = Retry(str(failure))
            self._unusable = str(failure)
            raise failure from error
        except Exception as error:
            self._unusable = str(error)
            raise


class _Rebalance:
    """What the group gives and takes, as librdkafka tells it."""

    def __init__(self, ownership: Ownership, reading: Reading) -> None:
        self._ownership = ownership
        self._reading = reading

    def on_assign(self, consumer: Consumer, gained: list[TopicPartition]) -> None:
        """To assign none accepts what is given, and reads nothing of it."""
        consumer.incremental_assign([])
        self._ownership.gain({Partition(key.topic, key.partition) for key in gained})
        self._reading.woken = True

    def on_revoke(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        partitions = {Partition(key.topic, key.partition) for key in lost}
        self._ownership.lose(partitions)
        self._reading.release(consumer, partitions)
        self._reading.woken = True


class _Placing(Placement):
    """A `Placement` by a consumer of librdkafka."""

    def __init__(
        self,
        reader: ConfluentReader,
        consumer: Consumer,
        settings: KafkaSettings,
        begin: Mapping[Partition, int],
        seen: set[str],
    ) -> None:
        super().__init__(reader, settings, begin, seen)
        self._own = reader
        self._consumer = consumer
        self._timeout_s = settings.request_timeout_s

    def _committed(self, partitions: set[Partition]) -> dict[Partition, Position]:
        found = self._consumer.committed(to_keys(partitions), self._timeout_s)
        if failure := next((key.error for key in found if key.error is not None), None):
            raise KafkaException(failure)
        return {
            Partition(key.topic, key.partition): Position(key.offset, key.metadata or "")
            for key in found
            if key.offset >= 0
        }

    def _commit(self, positions: Mapping[Partition, Position]) -> bool:
        if not positions:
            return True
        try:
            commit(self._consumer, positions, self._timeout_s)
        except KafkaException as error:
            if code_of(error) in _LEFT_BEHIND:
                return False
            raise
        return True

    def _go_on(self, ready: Mapping[Partition, int], waiting: set[Partition]) -> None:
        self._own.release(waiting)
        self._own.seek(ready)


def _consumer_properties(settings: KafkaSettings, group: str, client_id: str, max_bytes: int) -> dict[str, Any]:
    session_ms = int(settings.session_timeout_s * 1000)
    return {
        **consumer_properties(settings, client_id, group, max_bytes),
        "group.instance.id": settings.instance,
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": min(int(_HEARTBEAT_S * 1000), session_ms // 3),
        "max.poll.interval.ms": max(int(settings.max_poll_interval_s * 1000), session_ms),
    }

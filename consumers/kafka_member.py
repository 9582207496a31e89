"""One member of a consumer group with its own producer, on kafka-python: the `Stream` of `KafkaPythonBroker`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata

from consumers.batch import Message, Partition, Position, RawBatch
from consumers.connection import client_arguments, consumer_arguments, reaching, translated, within
from consumers.errors import OutcomeUnknown, Retry
from consumers.records import to_batch
from consumers.settings import KafkaSettings

_LONGEST_TRANSACTION_MS = 900_000  # the most that brokers allow by default
_FENCED = (kafka.ProducerFencedError, kafka.InvalidProducerEpochError)


class _Ownership:
    """What the group has given this member. kafka-python calls it within `poll` only, so no lock is needed.

    `interrupted` were lost since it was last emptied, whether or not they came back.
    """

    def __init__(self) -> None:
        self.owned: set[Partition] = set()
        self.interrupted: set[Partition] = set()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.owned |= {Partition(*key) for key in assigned}

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        lost = {Partition(*key) for key in revoked}
        self.owned -= lost
        self.interrupted |= lost

    on_partitions_lost = on_partitions_revoked


ConsumerRebalanceListener.register(_Ownership)


class KafkaPythonStream:
    """A static, cooperative member: a restart within the session timeout gets its partitions back without a rebalance.

    For the same reason `close` does not give them to others: those get them after the session timeout.
    A stream that has raised anything but a refusal of positions is of no more use; it raises `Retry` from then on.
    Where the group has no position yet, the start is committed as one at once, so that it is decided only once.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        client_id: str,
        topics: Sequence[str],
        begin: Mapping[Partition, int],
        require: Callable[[Sequence[str]], object],
    ) -> None:
        self._settings = settings
        self._timeout_s = settings.request_timeout_s
        self._begin = begin
        self._require = require
        self._group = group
        self._ownership = _Ownership()
        self._told: set[Partition] = set()
        self._ends: dict[Partition, int] = {}
        self._known_topics: set[str] = set()
        self._unusable: str | None = None
        self._transactional_id = f"{group}-{settings.instance}" if settings.delivery == "exactly_once" else None
        with reaching(settings, self._doing("opening a stream")):
            self._producer = KafkaProducer(**self._producer_arguments(client_id))
            try:
                if self._transactional_id:  # settles what a predecessor left open before positions are read
                    self._producer.init_transactions()
                self._consumer = KafkaConsumer(**self._consumer_arguments(client_id))
                self._consumer.subscribe(list(topics), listener=self._ownership)
                # Loads the topics' metadata: who leads a group without it assigns nothing to anyone.
                self._consumer.end_offsets([TopicPartition(topic, 0) for topic in topics])
            except kafka.KafkaError:
                self._end_producer()
                raise

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        self._refuse_if_unusable()
        with self._failing("polling"):
            polled = self._poll_consumer(max_records, timeout_s)
            revoked = frozenset(self._told & self._ownership.interrupted)
            assigned = self._place(self._ownership.owned - (self._told - revoked))
        self._told = set(self._ownership.owned)
        self._ownership.interrupted.clear()
        found = {Partition(*key): records for key, records in polled.items()}
        for partition in assigned:  # read before its position was set: comes again from there
            found.pop(partition, None)
        return to_batch(found, assigned=assigned, revoked=revoked, ends=self._latest_ends())

    def publish(self, messages: Sequence[Message], positions: Mapping[Partition, Position]) -> None:
        self._refuse_if_unusable()
        self._refuse_if_lost(positions)
        if new := sorted({message.topic for message in messages} - self._known_topics):
            self._require(new)
            self._known_topics.update(new)
        offsets = {TopicPartition(*key): OffsetAndMetadata(*position, -1) for key, position in positions.items()}
        if not messages and not offsets:
            return
        with self._failing("publishing"):
            if self._transactional_id:
                self._publish_in_transaction(messages, offsets)
            else:
                if offsets:
                    self._await_stability()
                    self._refuse_if_lost(positions)
                self._publish_then_commit(messages, offsets)

    def close(self) -> None:
        if self._unusable == "closed":
            return
        self._unusable = "closed"
        with suppress(kafka.KafkaError, RuntimeError):  # RuntimeError: its event loop has ended already
            within(self._timeout_s, lambda: self._consumer.close(autocommit=False))
        self._end_producer()

    def _publish_in_transaction(
        self, messages: Sequence[Message], offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        """Nothing is committed before every message and position is known to be in the transaction."""
        member = self._consumer.group_metadata()
        if offsets and member.state == MemberState.UNJOINED:  # has no generation by which the broker could refuse it
            raise kafka.CommitFailedError("this member has lost its place in the group")
        try:
            self._producer.begin_transaction()
            sent = self._send(messages)
            if offsets:
                within(self._timeout_s, lambda: self._producer.send_offsets_to_transaction(offsets, member))
            self._await(sent)
        except kafka.KafkaTimeoutError:
            raise  # an abort would wait as long again; the broker makes one when the next stream opens
        except Exception:
            with suppress(kafka.KafkaError):
                within(self._timeout_s, self._producer.abort_transaction)
            raise
        try:
            within(self._timeout_s, self._producer.commit_transaction)
        except kafka.KafkaError as error:
            if isinstance(self._cause(error), _FENCED):
                raise
            raise OutcomeUnknown(f"{self._doing('committing a transaction')}: {error}") from error

    def _publish_then_commit(
        self, messages: Sequence[Message], offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        try:
            self._await(self._send(messages))
            if offsets:
                self._consumer.commit(offsets, timeout_ms=self._timeout_s * 1000)
        except kafka.KafkaTimeoutError as error:
            raise OutcomeUnknown(f"{self._doing('publishing')}: {error}") from error

    def _send(self, messages: Sequence[Message]) -> list[Any]:
        return [
            self._producer.send(message.topic, value=message.value, key=message.key, headers=list(message.headers))
            for message in messages
        ]

    def _await(self, sent: Sequence[Any]) -> None:
        deadline = time.monotonic() + self._timeout_s
        for future in sent:
            future.get(max(0.0, deadline - time.monotonic()))

    def _poll_consumer(self, max_records: int, timeout_s: float) -> dict[TopicPartition, list[Any]]:
        polled: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_s * 1000, max_records)
        if self._consumer.group_metadata().state == MemberState.REBALANCING:
            # Where changed metadata made the leader join again and its poll ended before the group's answer came,
            # kafka-python never looks for the answer: the member would own nothing, send no heartbeat, and not notice.
            self._consumer._coordinator.request_rejoin()
        return polled

    def _place(self, gained: set[Partition]) -> dict[Partition, Position]:
        """Sets each newly assigned partition to its committed position, else to what `begin` or the settings say.

        An offset that the log no longer holds, or not yet (the topic was made anew), becomes the log's first.
        """
        keys = [TopicPartition(*partition) for partition in sorted(gained)]
        if not keys:
            return {}
        firsts, ends = self._consumer.beginning_offsets(keys), self._consumer.end_offsets(keys)
        defaults = firsts if self._settings.start == "earliest" else ends
        places, undecided = {}, {}
        for key in keys:
            committed = self._consumer.committed(key, metadata=True, timeout_ms=self._timeout_s * 1000)
            offset = committed.offset if committed else self._begin.get(key, defaults[key])
            if not firsts[key] <= offset <= ends[key]:
                offset = firsts[key]
            if committed is None:
                undecided[key] = OffsetAndMetadata(offset, "", -1)
            self._consumer.seek(key, offset)
            places[Partition(*key)] = Position(offset, committed.metadata or "" if committed else "")
            self._ends[Partition(*key)] = ends[key]
        with suppress(kafka.CommitFailedError, kafka.RebalanceInProgressError):
            self._consumer.commit(undecided, timeout_ms=self._timeout_s * 1000)
        return places

    def _latest_ends(self) -> dict[Partition, int]:
        for partition in self._ownership.owned:
            high = self._consumer.highwater(TopicPartition(*partition))
            self._ends[partition] = max(self._ends[partition], high or 0)
        return {partition: self._ends[partition] for partition in self._ownership.owned}

    def _await_stability(self) -> None:
        """Lets a rebalance under way come to its end: kafka-python commits no positions until it has.

        Records that come of newly assigned partitions are left: the next `poll` sets their positions.
        """
        deadline = time.monotonic() + self._timeout_s
        while self._consumer.group_metadata().state != MemberState.STABLE:
            if time.monotonic() > deadline:
                raise kafka.KafkaTimeoutError(f"the group is still rebalancing after {self._timeout_s:g} s")
            held = self._consumer.assignment()
            self._consumer.pause(*held)
            self._poll_consumer(1, 0.1)
            self._consumer.resume(*held & self._consumer.assignment())

    def _refuse_if_lost(self, positions: Mapping[Partition, Position]) -> None:
        if lost := sorted(positions.keys() - self._ownership.owned):
            raise Retry(f"{self._doing('publishing')}: no longer owner of {', '.join(map(str, lost))}")

    def _refuse_if_unusable(self) -> None:
        if self._unusable:
            raise Retry(f"this stream cannot be used any more, open another: {self._unusable}")

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        """Errors of kafka-python in our words; whatever is raised, the stream is not used after it."""
        try:
            yield
        except kafka.KafkaError as error:
            failure = translated(self._cause(error), self._doing(action))
            self._unusable = str(failure)
            raise failure from error
        except Exception as error:
            self._unusable = str(error)
            raise

    def _cause(self, error: Exception) -> Exception:
        """After a failure kafka-python raises a bare `KafkaError`; the reason is in its transaction manager only."""
        manager = self._producer._transaction_manager
        return manager.last_error if manager is not None and manager.last_error is not None else error

    def _doing(self, action: str) -> str:
        transactional = f", transactional id '{self._transactional_id}'" if self._transactional_id else ""
        return f"{action} (group '{self._group}', instance '{self._settings.instance}'{transactional})"

    def _end_producer(self) -> None:
        """`KafkaProducer.close` gives up, leaving its thread to go on for ever, where messages are still unsent."""
        try:
            self._producer.close(timeout=1.0)
        except kafka.KafkaError:
            self._producer._sender.force_close()
            self._producer._sender.join(self._timeout_s)
            with suppress(kafka.KafkaError):
                self._producer.close(timeout=0)

    def _producer_arguments(self, client_id: str) -> dict[str, Any]:
        timeout_ms = int(self._timeout_s * 1000)
        arguments = {
            **client_arguments(self._settings, client_id),
            "max_block_ms": timeout_ms,
            "delivery_timeout_ms": 2 * timeout_ms,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        if self._transactional_id:
            arguments["transactional_id"] = self._transactional_id
            arguments["transaction_timeout_ms"] = min(2 * timeout_ms, _LONGEST_TRANSACTION_MS)
            arguments["retry_backoff_ms"] = 5  # the next transaction meets the last one's markers, and waits this long
        return arguments

    def _consumer_arguments(self, client_id: str) -> dict[str, Any]:
        session_ms = int(self._settings.session_timeout_s * 1000)
        return {
            **consumer_arguments(self._settings, client_id),
            "group_id": self._group,
            "group_instance_id": self._settings.instance,
            "partition_assignment_strategy": [CooperativeStickyAssignor()],
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": min(3_000, session_ms // 3),
        }

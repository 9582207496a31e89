"""Making messages and positions durable at once, on kafka-python."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from kafka import KafkaProducer, TopicPartition
from kafka import errors as kafka
from kafka.structs import MemberState, OffsetAndMetadata

from consumers.batch import Message, Partition
from consumers.connection import client_arguments, within
from consumers.errors import OutcomeUnknown, Stop
from consumers.settings import KafkaSettings

LONGEST_TRANSACTION_MS = 900_000
"""The most that brokers allow by default."""

_REQUEST_BYTES = 262_144  # of messages sent at once; by default 16 kB, each waiting for the one before
_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
_FENCED = (kafka.ProducerFencedError, kafka.InvalidProducerEpochError)

Offsets = Mapping[TopicPartition, OffsetAndMetadata]


class Identity(NamedTuple):
    """Who a stream is to the broker; without a transactional id its deliveries are at least once."""

    group: str
    instance: str
    transactional_id: str | None

    @classmethod
    def of(cls, settings: KafkaSettings, group: str) -> Identity:
        """The member's of a group that the settings name."""
        exactly_once = settings.delivery == "exactly_once"
        return cls(group, settings.instance, f"{group}-{settings.instance}" if exactly_once else None)

    def doing(self, action: str) -> str:
        """An action with who does it, for messages of errors."""
        transactional = f", transactional id '{self.transactional_id}'" if self.transactional_id else ""
        return f"{action} (group '{self.group}', instance '{self.instance}'{transactional})"


class Publisher:
    """The producer of a stream, and the two ways of delivery.

    exactly_once: messages and positions are one transaction. A predecessor's open transaction is settled on opening.

    at_least_once: messages are produced and acknowledged first, positions committed after. Where `publish` raises, all,
    some or none of its messages may be there and the positions are not (after `OutcomeUnknown` they may be), so the
    records come again and are published again: exactly the messages of the batches since the last committed positions
    can double, the same record's under the same id. A crash or a lost partition between the two does the same. Resends
    within the producer do not double: it is idempotent.
    """

    def __init__(self, settings: KafkaSettings, identity: Identity, client_id: str) -> None:
        self._identity = identity
        self._timeout_s = settings.request_timeout_s
        self.producer = KafkaProducer(**_arguments(settings, identity, client_id))
        if identity.transactional_id:
            try:
                self.producer.init_transactions()
            except kafka.KafkaError:
                self.close()
                raise

    def publish(self, messages: Sequence[Message], offsets: Offsets, consumer: Any) -> list[tuple[Partition, int]]:
        """Where each message came to lie. Raises errors of kafka-python, and `OutcomeUnknown`."""
        try:
            if self._identity.transactional_id:
                return self._in_transaction(messages, offsets, consumer.group_metadata())
            return self._then_commit(messages, offsets, consumer)
        except kafka.KafkaError as error:
            if isinstance(self.cause(error), _TOO_LARGE):
                raise Stop(f"{self._identity.doing('publishing')}: {too_large(messages)}") from error
            raise

    def cause(self, error: Exception) -> Exception:
        """After a failure kafka-python raises a bare `KafkaError`; the reason is in its transaction manager, or, once
        the transaction was aborted, among the error's arguments."""
        manager = self.producer._transaction_manager
        last: Exception | None = None if manager is None else manager.last_error
        return last or next((inner for inner in error.args if isinstance(inner, Exception)), error)

    def close(self) -> None:
        """`KafkaProducer.close` gives up, leaving its thread to go on for ever, where messages are still unsent."""
        try:
            self.producer.close(timeout=1.0)
        except kafka.KafkaError:
            self.producer._sender.force_close()
            self.producer._sender.join(self._timeout_s)
            with suppress(kafka.KafkaError):
                self.producer.close(timeout=0)

    def _in_transaction(
        self, messages: Sequence[Message], offsets: Offsets, member: Any
    ) -> list[tuple[Partition, int]]:
        """Nothing is committed before every message and position is known to be in the transaction."""
        if offsets and member.state == MemberState.UNJOINED:  # has no generation by which the broker could refuse it
            raise kafka.CommitFailedError("this member has lost its place in the group")
        try:
            self.producer.begin_transaction()
            sent = self._send(messages)
            if offsets:
                within(self._timeout_s, lambda: self.producer.send_offsets_to_transaction(offsets, member))
            places = self._await(sent)
        except kafka.KafkaTimeoutError:
            raise  # an abort would wait as long again; the broker makes one when the next stream opens
        except Exception:
            with suppress(kafka.KafkaError):
                within(self._timeout_s, self.producer.abort_transaction)
            raise
        try:
            within(self._timeout_s, self.producer.commit_transaction)
        except kafka.KafkaError as error:
            if isinstance(self.cause(error), _FENCED):
                raise
            raise OutcomeUnknown(f"{self._identity.doing('committing a transaction')}: {error}") from error
        return places

    def _then_commit(self, messages: Sequence[Message], offsets: Offsets, consumer: Any) -> list[tuple[Partition, int]]:
        try:
            places = self._await(self._send(messages))
            if offsets:
                consumer.commit(offsets, timeout_ms=self._timeout_s * 1000)
        except kafka.KafkaTimeoutError as error:
            raise OutcomeUnknown(f"{self._identity.doing('publishing')}: {error}") from error
        return places

    def _send(self, messages: Sequence[Message]) -> list[Any]:
        return [
            self.producer.send(
                message.topic, message.value, message.key, headers=list(message.headers), partition=message.partition
            )
            for message in messages
        ]

    def _await(self, sent: Sequence[Any]) -> list[tuple[Partition, int]]:
        """A broker that took a message twice, and dropped the second, may not know the offset of the first any more."""
        deadline = time.monotonic() + self._timeout_s
        found = [future.get(max(0.0, deadline - time.monotonic())) for future in sent]
        places = [(Partition(record.topic, record.partition), record.offset) for record in found]
        if unknown := sorted({str(partition) for partition, offset in places if offset < 0}):
            raise kafka.KafkaError(f"the broker gave no offset for a message in {', '.join(unknown)}")
        return places


def too_large(messages: Sequence[Message]) -> str:
    """What to tell who publishes a message that a topic does not take."""
    largest: dict[str, int] = {}
    for message in messages:
        size = len(message.key or b"") + len(message.value or b"")
        size += sum(len(name.encode()) + len(value) for name, value in message.headers)
        largest[message.topic] = max(size, largest.get(message.topic, 0))
    told = ", ".join(f"'{topic}' ({size:,} bytes)" for topic, size in largest.items())
    return (
        f"the largest message for topic {told} is larger than its max.message.bytes allows. Raise that, or, for dead "
        "letters, lower dead_letters.max_bytes: a dead letter takes up to 9/8 of it"
    )


def _arguments(settings: KafkaSettings, identity: Identity, client_id: str) -> dict[str, Any]:
    timeout_ms = int(settings.request_timeout_s * 1000)
    arguments = {
        **client_arguments(settings, client_id),
        "max_block_ms": timeout_ms,
        "delivery_timeout_ms": 2 * timeout_ms,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
        "batch_size": _REQUEST_BYTES,
    }
    if identity.transactional_id:
        arguments["transactional_id"] = identity.transactional_id
        arguments["transaction_timeout_ms"] = min(2 * timeout_ms, LONGEST_TRANSACTION_MS)
        arguments["retry_backoff_ms"] = 5  # the next transaction meets the last one's markers, and waits this long
    return arguments

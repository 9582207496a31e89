"""Making messages and positions durable at once, on confluent-kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from consumers.batch import Message, Partition, Position
from consumers.confluent_connection import (
    LARGEST_MESSAGE,
    client_properties,
    code_of,
    commit,
    is_timeout,
    timed_out,
    to_offsets,
    translated,
    within,
)
from consumers.errors import Fenced, OutcomeUnknown, Stop
from consumers.kafka_publisher import LONGEST_TRANSACTION_MS, Identity, too_large
from consumers.settings import KafkaSettings

_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_PURGED = (KafkaError._PURGE_INFLIGHT, KafkaError._PURGE_QUEUE)

Places = list[tuple[Partition, int]]


class ConfluentPublisher:
    """The producer of a stream, and the two ways of delivery: what `kafka_publisher.Publisher` says holds here too.

    Messages of one key lie in the partition where kafka-python puts them.
    """

    def __init__(self, settings: KafkaSettings, identity: Identity, client_id: str) -> None:
        self._identity = identity
        self._timeout_s = settings.request_timeout_s
        self.producer = Producer(_properties(settings, identity, client_id))
        if identity.transactional_id:
            try:
                self.producer.init_transactions(self._timeout_s)
            except KafkaException:
                self.close()
                raise

    def publish(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position], consumer: Consumer
    ) -> Places:
        """Where each message came to lie. Raises `KafkaException` and `OutcomeUnknown`."""
        try:
            if self._identity.transactional_id:
                return self._in_transaction(messages, positions, consumer)
            return self._then_commit(messages, positions, consumer)
        except KafkaException as error:
            if code_of(error) in _TOO_LARGE:
                raise Stop(f"{self._identity.doing('publishing')}: {too_large(messages)}") from error
            raise

    def close(self) -> None:
        """What is not sent yet is dropped; an open transaction is for the next of this id to settle."""
        with suppress(KafkaException):
            self.producer.purge()
            within(self._timeout_s, self.producer.close)  # type: ignore[attr-defined]  # its types lack it

    def _in_transaction(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position], consumer: Consumer
    ) -> Places:
        """Nothing is committed before every message and position is known to be in the transaction."""
        self.producer.begin_transaction()
        sent: list[Any] = [None] * len(messages)
        try:
            self._send(messages, sent)
            if positions:
                member = consumer.consumer_group_metadata()
                self.producer.send_offsets_to_transaction(to_offsets(positions), member, self._timeout_s)
            places = self._await(sent)
        except KafkaException as error:
            if is_timeout(error):
                raise  # an abort would wait as long again; the broker makes one when the next stream opens
            with suppress(KafkaException):
                self.producer.abort_transaction(self._timeout_s)
            self.producer.poll(0)
            raise _refusal(sent) or error from error
        try:
            self.producer.commit_transaction(self._timeout_s)
        except KafkaException as error:
            failure = translated(error, self._identity.doing("committing a transaction"))
            raise (failure if isinstance(failure, Fenced) else OutcomeUnknown(str(failure))) from error
        return places

    def _then_commit(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position], consumer: Consumer
    ) -> Places:
        try:
            sent: list[Any] = [None] * len(messages)
            self._send(messages, sent)
            places = self._await(sent)
            if positions:
                commit(consumer, positions, self._timeout_s)
        except KafkaException as error:
            if is_timeout(error):
                raise OutcomeUnknown(f"{self._identity.doing('publishing')}: {error}") from error
            raise
        return places

    def _send(self, messages: Sequence[Message], sent: list[Any]) -> None:
        """`sent` is to hold each message's delivery, or the reason why there is none."""
        for row, message in enumerate(messages):
            self.producer.produce(
                message.topic,
                message.value,
                message.key,
                partition=-1 if message.partition is None else message.partition,
                headers=list(message.headers),
                on_delivery=partial(_delivered, sent, row),
            )

    def _await(self, sent: Sequence[Any]) -> Places:
        """A broker that took a message twice, and dropped the second, may not know the offset of the first any more."""
        if self.producer.flush(self._timeout_s):
            raise timed_out(self._timeout_s)
        if refusal := _refusal(sent):
            raise refusal
        places = [(Partition(record.topic(), record.partition()), record.offset()) for record in sent]
        if unknown := sorted({str(at) for at, offset in places if offset is None or offset < 0}):
            reason = f"the broker gave no offset for a message in {', '.join(unknown)}"
            raise KafkaException(KafkaError(KafkaError._FAIL, reason))
        return places


def _delivered(sent: list[Any], row: int, error: KafkaError | None, message: Delivered) -> None:
    sent[row] = error or message


def _refusal(sent: Sequence[Any]) -> KafkaException | None:
    """Why a message was not taken: the first reason that is not the end of the others with it."""
    failures = (delivery for delivery in sent if isinstance(delivery, KafkaError))
    return next((KafkaException(failure) for failure in failures if failure.code() not in _PURGED), None)


def _properties(settings: KafkaSettings, identity: Identity, client_id: str) -> dict[str, Any]:
    timeout_ms = int(settings.request_timeout_s * 1000)
    delivery_ms = min(2 * timeout_ms, LONGEST_TRANSACTION_MS)
    properties = {
        **client_properties(settings, client_id),
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "message.max.bytes": LARGEST_MESSAGE,  # what is too large is for the broker to say
        "queue.buffering.max.messages": 0,
        "linger.ms": 1,
        "delivery.timeout.ms": delivery_ms,
    }
    if identity.transactional_id:
        properties["transactional.id"] = identity.transactional_id
        properties["transaction.timeout.ms"] = delivery_ms
        properties["retry.backoff.ms"] = 5  # the next transaction meets the last one's markers, and waits this long
    return properties

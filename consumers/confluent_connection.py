"""Reaching a broker with confluent-kafka: its properties, deadlines that it lacks, and its errors in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers import connection
from consumers.batch import Partition, Position
from consumers.diagnose import diagnose
from consumers.errors import (
    BrokerUnavailable,
    Fenced,
    NotAuthorised,
    Retry,
    Stop,
    StreamError,
    TopicMissing,
)
from consumers.security import read_secret
from consumers.settings import KafkaSettings, SecuritySettings

T = TypeVar("T")
Key = TypeVar("Key")

_TOKEN_S = 60.0
_REBALANCE_S = 0.05
_LARGEST_FETCH = 1 << 20
_LARGEST_QUEUE_KB = 16_384
LARGEST_MESSAGE = 1_000_000_000
"""The most that librdkafka takes as message.max.bytes."""

_LOG = logging.getLogger("kafka.librdkafka")


def client_properties(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """What consumers, producers and admin clients have in common. Holds secrets: not to be shown."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": client_id,
        "socket.timeout.ms": int(settings.request_timeout_s * 1000),
        "reconnect.backoff.max.ms": 1_000,  # 10 s by default: too long after a broker's restart
        "logger": _LOG,
        **_security_properties(settings.security),
    }


def consumer_properties(settings: KafkaSettings, client_id: str, group: str, max_bytes: int) -> dict[str, Any]:
    """What all consumers have in common: committed records only, and nothing done behind our back.

    About half of `max_bytes` waits in the client, so that what one call takes, with what arrives meanwhile, stays below
    `max_bytes`. A short pause after the queue was full keeps a small one as fast as a large one: by default it is 1 s.
    Partitions and topics that come or go are noticed within `connection.METADATA_AGE_S`.
    """
    fetch = min(_LARGEST_FETCH, max(max_bytes // 4, 1_000))
    age_ms = int(connection.METADATA_AGE_S * 1000)
    return {
        **client_properties(settings, client_id),
        "group.id": group,
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "check.crcs": True,
        "topic.metadata.refresh.interval.ms": age_ms,
        "metadata.max.age.ms": max(3 * age_ms, 1),
        "queued.min.messages": 1_000_000,
        "queued.max.messages.kbytes": max(1, min(_LARGEST_QUEUE_KB, max_bytes // 2048)),
        "message.max.bytes": fetch,
        "fetch.message.max.bytes": fetch,
        "fetch.max.bytes": max(fetch, min(_LARGEST_QUEUE_KB << 10, max_bytes // 2)),
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 5,
    }


def _security_properties(security: SecuritySettings) -> dict[str, Any]:
    """librdkafka's TLS and SASL properties."""
    properties: dict[str, Any] = {"security.protocol": security.protocol}
    if security.protocol in ("ssl", "sasl_ssl"):
        properties["ssl.endpoint.identification.algorithm"] = "https" if security.check_hostname else "none"
        files = {
            "ssl.ca.location": security.ca_file,
            "ssl.certificate.location": security.certificate_file,
            "ssl.key.location": security.key_file,
        }
        properties |= {name: str(file) for name, file in files.items() if file is not None}
        if security.key_password is not None:
            properties["ssl.key.password"] = security.key_password.get_secret_value()
    if security.mechanism is not None:
        properties["sasl.mechanisms"] = security.mechanism
    if security.username is not None:
        properties["sasl.username"] = security.username
    if security.password is not None:
        properties["sasl.password"] = security.password.get_secret_value()
    elif security.password_file is not None:
        properties["sasl.password"] = str(read_secret(security.password_file, "password_file"))
    if (token_file := security.token_file) is not None:
        properties["oauth_cb"] = lambda _: (str(read_secret(token_file, "token_file")), time.time() + _TOKEN_S)
    return properties


def to_offsets(positions: Mapping[Partition, Position]) -> list[TopicPartition]:
    """Positions as what librdkafka commits."""
    return [TopicPartition(*at, position.offset, position.snapshot) for at, position in positions.items()]


def to_keys(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in partitions]


def commit(consumer: Consumer, positions: Mapping[Partition, Position], timeout_s: float) -> None:
    """Commits positions of the group, once a rebalance under way lets it. Raises `KafkaException`."""
    offsets = to_offsets(positions)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answers = within(timeout_s, lambda: consumer.commit(offsets=offsets, asynchronous=False))
            refused = next((answer.error for answer in answers if answer.error is not None), None)
            if refused is None:
                return
            raise KafkaException(refused)
        except KafkaException as error:
            if code_of(error) != KafkaError.REBALANCE_IN_PROGRESS or time.monotonic() > deadline:
                raise
        time.sleep(_REBALANCE_S)


def results(asked: Mapping[Key, Future[T]], timeout_s: float) -> dict[Key, T]:
    """The answers to a question of an admin client, which ends by itself at the same deadline."""
    deadline = time.monotonic() + timeout_s + 1.0
    return {key: future.result(max(0.0, deadline - time.monotonic())) for key, future in asked.items()}


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """Calls, and raises `KafkaException` where there is no result in time.

    For calls that wait without a limit. One that is given up on goes on in a daemon thread, which does not hold up the
    end of the process; it ends with its client.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except (KafkaException, RuntimeError, ValueError, TypeError) as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return outcome.result(timeout_s)
    except TimeoutError:
        raise timed_out(timeout_s) from None


def timed_out(timeout_s: float) -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer within {timeout_s:g} s"))


@contextmanager
def reaching(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Probes the broker first and raises what is wrong with it; then confluent-kafka's errors come out in our words."""
    if problem := diagnose(settings):
        raise problem
    try:
        yield
    except KafkaException as error:
        raise translated(error, doing) from error


_MEANINGS: dict[type[StreamError], tuple[int, ...]] = {
    Fenced: (
        KafkaError._FATAL,  # a consumer's: a newer one has its instance; a producer's have codes of their own
        KafkaError._FENCED,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
    ),
    NotAuthorised: (
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ),
    TopicMissing: (
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    ),
    BrokerUnavailable: (
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError.REQUEST_TIMED_OUT,
    ),
    Stop: (
        KafkaError._INVALID_ARG,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.OFFSET_METADATA_TOO_LARGE,
        KafkaError.POLICY_VIOLATION,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNSUPPORTED_VERSION,
    ),
}
_MEANING = {code: meaning for meaning, codes in _MEANINGS.items() for code in codes}


def code_of(error: KafkaException) -> int:
    """librdkafka's code of an error."""
    code: int = error.args[0].code()
    return code


def is_timeout(error: KafkaException) -> bool:
    """Whether an answer is missing."""
    return _MEANING.get(code_of(error)) is BrokerUnavailable


def translated(error: KafkaException, doing: str) -> StreamError:
    """An error of confluent-kafka by what to do about it; `doing` names the resources.

    The unknown is worth a retry; so is what TLS or SASL did to a connection, as opening another finds out why.
    """
    return _MEANING.get(code_of(error), Retry)(f"{doing}: {error.args[0].str()}")

"""Reaching a broker with kafka-python: its arguments, deadlines that it lacks, and its errors in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

from kafka import errors as kafka
from kafka.record.default_records import DefaultRecordBatch

from consumers.diagnose import diagnose
from consumers.errors import (
    AuthenticationFailed,
    BrokerUnavailable,
    Fenced,
    NotAuthorised,
    Retry,
    Stop,
    StreamError,
    TopicMissing,
)
from consumers.security import sasl_arguments, tls_context
from consumers.settings import KafkaSettings

T = TypeVar("T")


def client_arguments(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """What consumers, producers and admin clients of kafka-python have in common."""
    timeout_ms = int(settings.request_timeout_s * 1000)
    return {
        "bootstrap_servers": settings.bootstrap.split(","),
        "client_id": client_id,
        "request_timeout_ms": timeout_ms,
        "bootstrap_timeout_ms": timeout_ms,
        "connections_max_idle_ms": max(540_000, 2 * timeout_ms),  # must be larger than the request's
        "reconnect_backoff_max_ms": 1_000,  # 30 s by default: too long after a broker's restart
        "security_protocol": settings.security.protocol.upper(),
        "ssl_context": tls_context(settings.security),
        **sasl_arguments(settings.security),
    }


def consumer_arguments(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """What all consumers have in common: committed records only, and nothing done behind our back.

    A position that the log no longer holds (retention overtook it, or the topic was made anew) goes to the log's first.
    """
    return {
        **client_arguments(settings, client_id),
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


@contextmanager
def reaching(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Probes the broker first and raises what is wrong with it; then errors of kafka-python come out in our words."""
    if problem := diagnose(settings):
        raise problem
    try:
        yield
    except kafka.KafkaError as error:
        raise translated(error, doing) from error


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """Calls, and raises kafka-python's `KafkaTimeoutError` where there is no result in time.

    For calls of kafka-python that wait without a limit. One that is given up on goes on in a daemon thread, which
    does not hold up the end of the process; it ends with its client.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except (kafka.KafkaError, RuntimeError, ValueError, TypeError, OSError) as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return outcome.result(timeout_s)
    except TimeoutError:
        raise kafka.KafkaTimeoutError(f"no answer within {timeout_s:g} s") from None


class _LenientText(bytearray):
    """Bytes whose slices decode whatever they hold: what is not UTF-8 comes out as backslash escapes."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _LenientText(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


def accept_any_header_name() -> None:
    """Lets kafka-python read records with header names that are not UTF-8.

    It takes them for corruption and never gets past them, though any producer in another language can write one. There
    is no public hook: the one method that decodes a record is wrapped, and tries a second time with lenient text.
    """
    strict = DefaultRecordBatch._read_msg
    if strict.__name__ == "lenient":
        return

    def lenient(batch: Any) -> Any:
        try:
            return strict(batch)
        except UnicodeDecodeError:
            batch._buffer = _LenientText(batch._buffer)
            return strict(batch)

    DefaultRecordBatch._read_msg = lenient


_MEANINGS: tuple[tuple[tuple[type[Exception], ...], type[StreamError]], ...] = (
    ((kafka.ProducerFencedError, kafka.InvalidProducerEpochError, kafka.FencedInstanceIdError), Fenced),
    ((kafka.AuthorizationError,), NotAuthorised),
    ((kafka.SaslAuthenticationFailedError, kafka.UnsupportedSaslMechanismError), AuthenticationFailed),
    ((kafka.UnknownTopicOrPartitionError,), TopicMissing),
    ((kafka.KafkaTimeoutError, kafka.KafkaConnectionError, kafka.RequestTimedOutError), BrokerUnavailable),
    (
        (
            kafka.InconsistentGroupProtocolError,
            kafka.InvalidGroupIdError,
            kafka.InvalidReplicationFactorError,
            kafka.InvalidSessionTimeoutError,
            kafka.InvalidTopicError,
            kafka.InvalidTransactionTimeoutError,
            kafka.KafkaConfigurationError,
            kafka.MessageSizeTooLargeError,
            kafka.OffsetMetadataTooLargeError,
            kafka.PolicyViolationError,
            kafka.RecordListTooLargeError,
            kafka.UnsupportedVersionError,
        ),
        Stop,
    ),
)


def translated(error: Exception, doing: str) -> StreamError:
    """An error of kafka-python by what to do about it; `doing` names the resources. The unknown is worth a retry."""
    meaning = next((meaning for kinds, meaning in _MEANINGS if isinstance(error, kinds)), Retry)
    return meaning(f"{doing}: {error}")


accept_any_header_name()

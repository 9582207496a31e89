"""Reaching a broker with kafka-python: its arguments, deadlines that it lacks, and its errors in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

from kafka import errors as kafka

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

METADATA_AGE_S = 15.0
"""How often a consumer asks which partitions its topics have (seconds)."""


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

    Partitions and topics that come or go are noticed within `METADATA_AGE_S`.
    """
    return {
        **client_arguments(settings, client_id),
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "metadata_max_age_ms": int(METADATA_AGE_S * 1000),
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
